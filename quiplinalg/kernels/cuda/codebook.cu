// Codebooks: k-means of a row, rounding with feedback to levels, sums of H by code, and descent.
// All levels are float64 and ascend; the nearest is found by the middles between neighbours, the
// lower of two that tie.  Every result is the CPU's, bit for bit: sums are in its order.

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int LLOYD = 128;    // threads of a row of k-means
constexpr int COLUMNS = 128;  // of T at a time, and of a row that is rounded
constexpr int EACH = COLUMNS / 32;
constexpr int MOST = 256;  // levels

// How many of the ascending x[0 .. n) are at most y.
INLINE int count_to(const REAL* x, int n, double y) {
    int low = 0, high = n;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (double(x[middle]) <= y) low = middle + 1;
        else high = middle;
    }
    return low;
}

// Lloyd's passes on one row; x in shared or in global memory, ends[j] the sum of the first j.
INLINE void settle(const REAL* x, const double* ends, double* levels, int* last, int* moved, int n,
                   int count, int passes) {
    const int t = threadIdx.x;
    if (t < 3) moved[t] = 0;
    SYNC();
    for (int pass = 0; pass < passes; ++pass) {
        for (int c = t; c < count; c += LLOYD)
            last[c] = c < count - 1 ? count_to(x, n, (levels[c] + levels[c + 1]) / 2) : n;
        if (t == 0) moved[(pass + 1) % 3] = 0;  // read two passes ago by all
        SYNC();
        for (int c = t; c < count; c += LLOYD) {
            int first = 0;  // means in another order, by rounding, take nothing twice
            for (int b = 0; b < c; ++b) first = max(first, last[b]);
            if (last[c] > first) {
                const double mean = (ends[last[c]] - ends[first]) / (last[c] - first);
                if (mean != levels[c]) moved[pass % 3] = 1;
                levels[c] = mean;
            }
        }
        SYNC();
        if (!moved[pass % 3]) break;
    }
}

// k-means of rows X, ascending: levels (rows, count) in place.
//
// A block a row, and then the next: `ends` has a row of n + 1 for each block.  One thread adds the
// row up, n additions one after another, which 13 other blocks of a multiprocessor hide; then a
// pass is a binary search and a mean for each level.  From memory: X once, 8 n bytes written.
KERNEL void __launch_bounds__(LLOYD)
    lloyd(const REAL* __restrict__ X, double* __restrict__ levels, double* ends, int rows, int n,
          int count, int passes, int resident) {
    __shared__ REAL some[LLOYD];
    __shared__ double sums[LLOYD], own[MOST];
    __shared__ int last[MOST], moved[3];
    DYNAMIC_SHARED(REAL, held);
    const int t = threadIdx.x;
    ends += index_t(blockIdx.x) * (n + 1);
    for (int i = blockIdx.x; i < rows; i += gridDim.x) {
        const REAL* x = X + index_t(i) * n;
        double total = 0;
        if (t == 0) ends[0] = 0;
        for (int k0 = 0; k0 < n; k0 += LLOYD) {
            const int width = min(LLOYD, n - k0);
            if (t < width) {
                some[t] = x[k0 + t];
                if (resident) held[k0 + t] = some[t];
            }
            SYNC();
            if (t == 0)
#pragma unroll 8
                for (int k = 0; k < width; ++k) sums[k] = total += double(some[k]);
            SYNC();
            if (t < width) ends[k0 + t + 1] = sums[t];
        }
        for (int c = t; c < count; c += LLOYD) own[c] = levels[index_t(i) * count + c];
        SYNC();
        if (resident) settle(held, ends, own, last, moved, n, count, passes);
        else settle(x, ends, own, last, moved, n, count, passes);
        SYNC();
        for (int c = t; c < count; c += LLOYD) levels[index_t(i) * count + c] = own[c];
        SYNC();
    }
}

// Round the columns of a block in turn, with feedback from each to those that follow.
//
// A warp a row: lane l has F of columns l, l + 32, .. of COLUMNS.  A step gives every lane the
// target, which it compares with a middle between levels, 32 of them at a time: the levels ascend,
// so that the code is how many are below.  Then E_k U[k, later] is added, a product and a sum.
// width^2 flops a row; U is in the first-level cache, as all warps read the same row of it at about
// the same time.
KERNEL void __launch_bounds__(THREADS)
    round_levels(const REAL* __restrict__ W, REAL* __restrict__ F, const REAL* __restrict__ U,
                 const double* __restrict__ levels, unsigned char* __restrict__ codes,
                 REAL* __restrict__ E, int rows, int width, int count) {
    DYNAMIC_SHARED(double, all);  // 2 count for each warp: levels, and the middles above them
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const index_t i = index_t(blockIdx.x) * WARPS + warp;
    double *own = all + index_t(warp) * 2 * count, *middles = own + count;
    if (i < rows)
        for (int c = lane; c < count; c += 32) {
            const double level = levels[i * count + c];
            own[c] = level;
            if (c < count - 1) middles[c] = (level + levels[i * count + c + 1]) / 2;
        }
    __syncwarp();
    if (i >= rows) return;
    const REAL* w = W + i * width;
    REAL* f = F + i * width;
    for (int a = 0; a < width; a += COLUMNS) {
        REAL before[EACH], weight[EACH], error[EACH];
        int code[EACH];
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            const int j = a + e * 32 + lane;
            before[e] = j < width ? f[j] : REAL(0);
            weight[e] = j < width ? w[j] : REAL(0);
            error[e] = 0;
            code[e] = 0;
        }
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            for (int s = 0; s < 32 && a + e * 32 + s < width; ++s) {
                const int k = a + e * 32 + s;
                const REAL value = __shfl_sync(0xffffffffu, weight[e], s);
                const double target = value + __shfl_sync(0xffffffffu, before[e], s);
                int found = 0;
                for (int c = 0; c < count - 1; c += 32) {
                    const bool above = c + lane < count - 1 && middles[c + lane] < target;
                    const unsigned mask = __ballot_sync(0xffffffffu, above);
                    found += __popc(mask);
                    if (mask != 0xffffffffu) break;
                }
                const REAL wrong = REAL(value - own[found]);
                if (lane == s) {
                    code[e] = found;
                    error[e] = wrong;
                }
                const REAL* __restrict__ row = U + index_t(k) * width;
#pragma unroll
                for (int later = e; later < EACH; ++later) {
                    const int j = a + later * 32 + lane;
                    if (j > k && j < width) before[later] += wrong * row[j];
                }
            }
        }
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            const int j = a + e * 32 + lane;
            if (j < width) {
                codes[i * width + j] = static_cast<unsigned char>(code[e]);
                E[i * width + j] = error[e];
            }
        }
        // columns beyond COLUMNS, of a block that is wider
        for (int j = a + COLUMNS + lane; j - lane < width; j += 32) {
            REAL sum = j < width ? f[j] : REAL(0);
#pragma unroll
            for (int e = 0; e < EACH; ++e)
                for (int s = 0; s < 32; ++s) {
                    const REAL wrong = __shfl_sync(0xffffffffu, error[e], s);
                    if (j < width) sum += wrong * U[index_t(a + e * 32 + s) * width + j];
                }
            if (j < width) f[j] = sum;
        }
        __syncwarp();
    }
}

// T[i, l] = sum of the rows k of H with codes[i, k] == l, in ascending k.
//
// A warp has a row of codes and COLUMNS columns of its T in shared memory, `part` levels of it,
// where it adds H[k] to the sum of its code; a lane has columns of its own.  The warps of a block
// read the same rows of H, which L1 has for all but the first.  m n^2 additions, each of which
// reads and writes shared memory: that is the limit, 19 ms for m = n = 4096 in float32 at 29 TB/s.
KERNEL void __launch_bounds__(THREADS)
    level_sums(const REAL* __restrict__ H, const unsigned char* __restrict__ codes,
               REAL* __restrict__ T, int rows, int count, int part, int n) {
    DYNAMIC_SHARED(REAL, all);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const index_t i = index_t(blockIdx.x) * (blockDim.x / 32) + warp;
    const int j0 = blockIdx.y * COLUMNS + lane, first = blockIdx.z * part;
    if (i >= rows) return;
    REAL* sums = all + index_t(warp) * part * COLUMNS + lane;
    for (int c = 0; c < part; ++c)
#pragma unroll
        for (int e = 0; e < EACH; ++e) sums[c * COLUMNS + e * 32] = 0;
    const unsigned char* own = codes + i * n;
    for (int k0 = 0; k0 < n; k0 += 32) {
        const int some = k0 + lane < n ? own[k0 + lane] : 0;
#pragma unroll 4
        for (int s = 0; s < 32; ++s) {
            const int c = __shfl_sync(0xffffffffu, some, s) - first, k = k0 + s;
            if (k >= n || c < 0 || c >= part) continue;
            const REAL* __restrict__ h = H + index_t(k) * n + j0;
            REAL add[EACH];
#pragma unroll
            for (int e = 0; e < EACH; ++e) add[e] = j0 + e * 32 < n ? h[e * 32] : REAL(0);
#pragma unroll
            for (int e = 0; e < EACH; ++e) add[e] += sums[c * COLUMNS + e * 32];
#pragma unroll
            for (int e = 0; e < EACH; ++e) sums[c * COLUMNS + e * 32] = add[e];
        }
    }
    for (int c = 0; c < part; ++c) {
        REAL* to = T + (i * count + first + c) * n + j0;
#pragma unroll
        for (int e = 0; e < EACH; ++e)
            if (j0 + e * 32 < n) to[e * 32] = sums[c * COLUMNS + e * 32];
    }
}

// The level nearest to a target; `code` is where to look first.
INLINE int nearest(const double* levels, int count, double target, int code) {
    while (code < count - 1 && (levels[code] + levels[code + 1]) / 2 < target) ++code;
    while (code > 0 && !((levels[code - 1] + levels[code]) / 2 < target)) --code;
    return code;
}

// What a warp found: its first column that changes, n where none does; the change and its gain.
struct First {
    double d, fall;
    int column, old, code;
};

// One row of `descend_levels`, with g in shared or in global memory; whether a code changed.
INLINE bool descend_row(REAL* g, unsigned char* codes, REAL* T, const REAL* __restrict__ H,
                        const double* own, First (*found)[WARPS], double* gain,
                        long long* changed, int n, int count, double least) {
    const int t = threadIdx.x, warp = t / 32;
    const unsigned before = (1u << t % 32) - 1;
    double total = 0;
    long long moved = 0;
    int b = 0;
    for (int k0 = 0; k0 < n; k0 += THREADS) {
        const int k = k0 + t;
        const double curve = k < n ? double(H[index_t(k) * n + k]) : 0;
        const int old = k < n ? codes[k] : 0;
        int last = k0 - 1;  // columns up to here are decided
        for (;;) {
            bool better = false;
            double d = 0, fall = 0;
            int code = 0;
            if (k > last && curve > 0) {
                const double slope = g[k];
                code = nearest(own, count, own[old] - slope / curve, old);
                d = own[code] - own[old];
                fall = -d * (2 * slope + curve * d);
                better = fall > least * curve * d * d;
            }
            const unsigned mask = __ballot_sync(0xffffffffu, better);
            if (better && (mask & before) == 0) found[b][warp] = {d, fall, k, old, code};
            if (mask == 0 && t % 32 == 0) found[b][warp].column = n;
            SYNC();
            int at = n, w = 0;
            for (; w < WARPS && at == n; ++w) at = found[b][w].column;
            if (at < n) {
                const First one = found[b][w - 1];
                if (k == at) codes[k] = static_cast<unsigned char>(code);
                const REAL change = REAL(one.d);
                total += one.fall;
                ++moved;
                const REAL* __restrict__ row = H + index_t(at) * n;
                REAL *from = T + index_t(one.old) * n, *to = T + index_t(one.code) * n;
#pragma unroll 4
                for (int j = t; j < n; j += THREADS) {
                    const REAL h = row[j];
                    g[j] += change * h;
                    from[j] -= h;
                    to[j] += h;
                }
                last = at;
            }
            b ^= 1;  // the other is still read
            if (at == n) break;
        }
    }
    if (t == 0) {
        *gain = total;
        *changed = moved;
    }
    return moved > 0;
}

// One pass of coordinate descent over the columns of some rows, each code to the level of the least
// loss; a block a row.  As `descend` on a uniform grid (descent.cu): 256 columns are decided at a
// time, the first that changes updates G and two rows of T, and those after it are decided again.
//
// Of changes, 4 n flops, n elements of H read, and 2 n of T read and written; of the rest, m n
// elements of G and a division for each of them.
KERNEL void __launch_bounds__(THREADS)
    descend_levels(REAL* __restrict__ G, unsigned char* __restrict__ codes, REAL* __restrict__ T,
                   const REAL* __restrict__ H, const double* __restrict__ levels,
                   const int* __restrict__ rows, double* __restrict__ gain,
                   long long* __restrict__ changed, int n, int count, double least, int resident) {
    __shared__ First found[2][WARPS];
    __shared__ double own[MOST];
    DYNAMIC_SHARED(REAL, held);
    const index_t i = rows[blockIdx.x];
    REAL *g = G + i * n, *sums = T + i * count * n;
    unsigned char* q = codes + i * n;
    for (int c = threadIdx.x; c < count; c += THREADS) own[c] = levels[i * count + c];
    SYNC();
    if (resident) {
#pragma unroll 8
        for (int k = threadIdx.x; k < n; k += THREADS) held[k] = g[k];
        if (descend_row(held, q, sums, H, own, found, gain + i, changed + i, n, count, least)) {
#pragma unroll 8
            for (int k = threadIdx.x; k < n; k += THREADS) g[k] = held[k];
        }
    } else {
        descend_row(g, q, sums, H, own, found, gain + i, changed + i, n, count, least);
    }
}
