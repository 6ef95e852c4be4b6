// What every kernel file begins with; the text is put before it, because NVRTC has no headers.
// REAL is the type of the weights, float or double; CODE that of the codes.

typedef long long index_t;

#define KERNEL extern "C" __global__
#define INLINE static __device__ __forceinline__
#define SYNC() __syncthreads()

#ifndef STANDIN  // a stand-in for CUDA has its own
#define DYNAMIC_SHARED(type, name)                               \
    extern __shared__ __align__(16) unsigned char shared_bytes[]; \
    type* name = reinterpret_cast<type*>(shared_bytes)
#endif

// Fused where written, and nowhere else: everything is compiled with --fmad=false.
INLINE float FMA(float a, float b, float c) { return fmaf(a, b, c); }
INLINE double FMA(double a, double b, double c) { return fma(a, b, c); }
INLINE float RINT(float x) { return rintf(x); }
INLINE double RINT(double x) { return rint(x); }
INLINE float FLOOR(float x) { return floorf(x); }
INLINE double FLOOR(double x) { return floor(x); }
INLINE float ABS(float x) { return fabsf(x); }
INLINE double ABS(double x) { return fabs(x); }
