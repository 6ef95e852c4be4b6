// Weights to codes and back, each weight by itself.  A block has COLUMNS columns of a row, grid
// (rows, parts of a row).  All is bound by memory: 5 bytes a weight in float with uint8 codes.
// Neighbouring threads have neighbouring columns, and 4 independent loads each; groups and scales
// come from a cache.  Rows of scale and zero are `stride` apart, 0 where all rows share one.

#define THREADS 256
#define PER 4  // columns of a thread
#define COLUMNS (PER * THREADS)

// Uniform on [0, 1) of counter (row, column), by Philox-2x32-10.
INLINE float philox(unsigned key, unsigned row, unsigned column) {
    unsigned x0 = row, x1 = column;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned long long product = (unsigned long long)x0 * 0xD256D193u;
        x0 = (unsigned)(product >> 32) ^ key ^ x1;
        x1 = (unsigned)product;
        key += 0x9E3779B9u;
    }
    return (float)(x0 >> 8) * 5.9604644775390625e-8f;
}

// codes = clamp(rint(w / scale + frac(zero)) + floor(zero)), ties to even, or with floor and a
// uniform of counter (row, column) added where `stochastic`.  tied[row] becomes 1 where a target
// inside the grid is within `tolerance` of a tie, and beyond[0] += the weights that were clipped.
KERNEL void __launch_bounds__(THREADS)
nearest(const REAL* __restrict__ W, int n, const REAL* __restrict__ scale,
        const REAL* __restrict__ zero, index_t stride, const int* __restrict__ group, REAL low,
        REAL high, int stochastic, unsigned key, REAL tolerance, CODE* __restrict__ codes,
        int* __restrict__ tied, unsigned long long* __restrict__ beyond) {
    __shared__ int parts[THREADS / 32];
    const index_t row = blockIdx.x;
    const int c0 = blockIdx.y * COLUMNS + threadIdx.x;
    W += row * n;
    codes += row * n;
    scale += row * stride;
    zero += row * stride;
    REAL w[PER], s[PER], o[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int c = min(c0 + i * THREADS, n - 1);
        w[i] = W[c];
        s[i] = scale[group[c]];
        o[i] = zero[group[c]];
    }
    int clipped = 0;
    bool near = false;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int c = c0 + i * THREADS;
        if (c >= n) continue;
        const REAL whole = FLOOR(o[i]);
        REAL y = w[i] / s[i] + (o[i] - whole), k;
        if (stochastic) {
            k = FLOOR(y + (REAL)philox(key, (unsigned)row, (unsigned)c));
        } else {
            k = RINT(y);
            const bool close = ABS((REAL)0.5 - ABS(y - k)) < tolerance;
            y += whole;
            near = near || (close && y >= low && y < high);
        }
        k += whole;
        clipped += k < low || k > high;
        k = k < low ? low : k;
        k = k > high ? high : k;
        codes[c] = (CODE)(int)k;
    }
    if (near) tied[row] = 1;
    for (int away = 16; away > 0; away /= 2)
        clipped += __shfl_xor_sync(0xffffffffu, clipped, away);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = clipped;
    SYNC();
    if (threadIdx.x == 0) {
        for (int w = 1; w < THREADS / 32; w++) clipped += parts[w];
        if (clipped > 0) atomicAdd(beyond, (unsigned long long)clipped);
    }
}

// out = scale (code - zero).  As NumPy does, the difference from an int code is taken in double.
KERNEL void __launch_bounds__(THREADS)
dequantize(const CODE* __restrict__ codes, int n, const REAL* __restrict__ scale,
           const REAL* __restrict__ zero, index_t stride, const int* __restrict__ group,
           REAL* __restrict__ out) {
    const index_t row = blockIdx.x;
    const int c0 = blockIdx.y * COLUMNS + threadIdx.x;
    codes += row * n;
    scale += row * stride;
    zero += row * stride;
    REAL value[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int c = min(c0 + i * THREADS, n - 1), g = group[c];
        const CODE code = codes[c];
        const REAL difference = sizeof(CODE) == 4 ? (REAL)((double)code - (double)zero[g])
                                                  : (REAL)code - zero[g];
        value[i] = difference * scale[g];
    }
#pragma unroll
    for (int i = 0; i < PER; i++)
        if (c0 + i * THREADS < n) out[row * n + c0 + i * THREADS] = value[i];
}

// out[i, j] = levels[i, codes[i, j]]; levels is (rows, width).
KERNEL void __launch_bounds__(THREADS)
gather_levels(const CODE* __restrict__ codes, int n, const REAL* __restrict__ levels, int width,
              REAL* __restrict__ out) {
    const index_t row = blockIdx.x;
    const int c0 = blockIdx.y * COLUMNS + threadIdx.x;
    REAL value[PER];
#pragma unroll
    for (int i = 0; i < PER; i++)
        value[i] = levels[row * width + codes[row * n + min(c0 + i * THREADS, n - 1)]];
#pragma unroll
    for (int i = 0; i < PER; i++)
        if (c0 + i * THREADS < n) out[row * n + c0 + i * THREADS] = value[i];
}
