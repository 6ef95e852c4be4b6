// What is part of the language in CUDA: qualifiers and vectors.

#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((section("standin_shared")))
#define __constant__ static
#define alignas(n) __align__(n)  // CUDA takes it after __shared__ as well
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(standin::dynamic)

#define STANDIN_VECTOR2(T, name, bytes)            \
    struct __align__(bytes) name { T x, y; };      \
    static inline name make_##name(T x, T y) { return {x, y}; }
#define STANDIN_VECTOR3(T, name)                   \
    struct name { T x, y, z; };                    \
    static inline name make_##name(T x, T y, T z) { return {x, y, z}; }
#define STANDIN_VECTOR4(T, name, bytes)            \
    struct __align__(bytes) name { T x, y, z, w; }; \
    static inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
STANDIN_VECTOR2(unsigned char, uchar2, 2)
STANDIN_VECTOR4(unsigned char, uchar4, 4)
STANDIN_VECTOR2(int, int2, 8)
STANDIN_VECTOR4(int, int4, 16)
STANDIN_VECTOR2(unsigned, uint2, 8)
STANDIN_VECTOR3(unsigned, uint3)
STANDIN_VECTOR4(unsigned, uint4, 16)
STANDIN_VECTOR2(float, float2, 8)
STANDIN_VECTOR4(float, float4, 16)
STANDIN_VECTOR2(double, double2, 16)
STANDIN_VECTOR2(long long, longlong2, 16)
STANDIN_VECTOR2(unsigned long long, ulonglong2, 16)
