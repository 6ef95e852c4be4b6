// Coordinate descent on codes: E = W_hat - W, G = E H once, then an update of G per changed code.

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int V = 16 / sizeof(REAL);        // elements of a vector of 16 bytes
constexpr int TALL = 128;                   // rows of a tile of G
constexpr int WIDE = 512 / sizeof(REAL);    // columns: 128 in float32, 64 in float64
constexpr int PIECE = 64 / sizeof(REAL);    // steps of k in shared memory at a time: 16 or 8
constexpr int OWN = 8;                      // rows of a thread
constexpr int ACROSS = WIDE / 16;           // columns of a thread: 8 or 4
constexpr int E_VECTORS = TALL * PIECE / V / THREADS;
constexpr int H_VECTORS = PIECE * WIDE / V / THREADS;

struct alignas(16) Vector {
    REAL v[V];
};

// E = scale (code - zero) - W, every operation rounded, as on the CPU.  A row of blocks for a row
// of W, four elements a thread.  9 bytes an element in float32: the rate is that of memory.
KERNEL void __launch_bounds__(THREADS)
    errors(const REAL* __restrict__ W, const CODE* __restrict__ codes,
           const REAL* __restrict__ scale, const REAL* __restrict__ zero,
           const int* __restrict__ group, REAL* __restrict__ E, int m, int n, int groups) {
    const int first = blockIdx.x * (4 * THREADS) + threadIdx.x;
    for (int i = blockIdx.y; i < m; i += gridDim.y) {
        const index_t row = index_t(i) * n, own = index_t(i) * groups;
#pragma unroll
        for (int u = 0; u < 4; ++u) {
            const int k = first + u * THREADS;
            if (k < n) {
                const index_t g = own + (groups == 1 ? 0 : group[k]);
                E[row + k] = scale[g] * (REAL(codes[row + k]) - zero[g]) - W[row + k];
            }
        }
    }
}

// V elements of a row of a matrix of `rows` rows and n columns; zero beyond its ends.
INLINE Vector fetch(const REAL* __restrict__ A, int row, int column, int rows, int n, bool whole) {
    Vector x;
    const REAL* from = A + index_t(row) * n + column;
    if (whole && row < rows && column < n) return *reinterpret_cast<const Vector*>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) x.v[v] = row < rows && column + v < n ? from[v] : REAL(0);
    return x;
}

// G = E H, each element one chain of FMAs in ascending k from 0: the CPU's bits.
//
// 2 m n^2 flops on the FMA units: tensor cores would round or order sums otherwise.  A block has a
// tile of 128 x WIDE, a thread 8 x ACROSS of it in registers, so that a step of k takes
// 8 + ACROSS loads from shared memory, 16 bytes each V of them, for 8 ACROSS FMAs.  A warp has 32 x
// WIDE / 2, its lanes 4 x 8.  Two pieces of E^T and H in shared memory: one is used while the next
// comes through registers.  Global memory: m n^2 (1 / 128 + 1 / WIDE) elements, mostly from L2.
KERNEL void __launch_bounds__(THREADS, 2)
    residual(const REAL* __restrict__ E, const REAL* __restrict__ H, REAL* __restrict__ G, int m,
             int n) {
    __shared__ alignas(16) REAL e[2][PIECE][TALL + V];  // + V: fewer conflicts when transposed
    __shared__ alignas(16) REAL h[2][PIECE][WIDE];
    const int t = threadIdx.x, lane = t % 32, warp = t / 32;
    const int i0 = blockIdx.y * TALL, j0 = blockIdx.x * WIDE;
    const index_t addresses = reinterpret_cast<index_t>(E) | reinterpret_cast<index_t>(H) |
                              reinterpret_cast<index_t>(G);
    const bool whole = n % V == 0 && addresses % 16 == 0;
    // of the tile: rows down + p 4V + v, columns right + p 8V + v
    const int down = warp / 2 * 32 + lane / 8 * V, right = warp % 2 * (WIDE / 2) + lane % 8 * V;
    REAL sum[OWN][ACROSS];
#pragma unroll
    for (int r = 0; r < OWN; ++r)
#pragma unroll
        for (int c = 0; c < ACROSS; ++c) sum[r][c] = 0;

    Vector next_e[E_VECTORS], next_h[H_VECTORS];
    auto fetch_piece = [&](int k0) {
#pragma unroll
        for (int p = 0; p < E_VECTORS; ++p)
            next_e[p] = fetch(E, i0 + t / 4 + p * 64, k0 + t % 4 * V, m, n, whole);
#pragma unroll
        for (int p = 0; p < H_VECTORS; ++p) {
            const int place = t + p * THREADS;
            next_h[p] = fetch(H, k0 + place / 32, j0 + place % 32 * V, n, n, whole);
        }
    };
    auto keep_piece = [&](int b) {
#pragma unroll
        for (int p = 0; p < E_VECTORS; ++p)
#pragma unroll
            for (int v = 0; v < V; ++v) e[b][t % 4 * V + v][t / 4 + p * 64] = next_e[p].v[v];
#pragma unroll
        for (int p = 0; p < H_VECTORS; ++p) {
            const int place = t + p * THREADS;
            *reinterpret_cast<Vector*>(&h[b][place / 32][place % 32 * V]) = next_h[p];
        }
    };

    fetch_piece(0);
    keep_piece(0);
    SYNC();
    int b = 0;
    for (int k0 = 0; k0 < n; k0 += PIECE, b ^= 1) {
        const bool more = k0 + PIECE < n;
        if (more) fetch_piece(k0 + PIECE);
#pragma unroll
        for (int k = 0; k < PIECE; ++k) {
            Vector x[OWN / V], y[ACROSS / V];
#pragma unroll
            for (int p = 0; p < OWN / V; ++p)
                x[p] = *reinterpret_cast<const Vector*>(&e[b][k][down + p * 4 * V]);
#pragma unroll
            for (int p = 0; p < ACROSS / V; ++p)
                y[p] = *reinterpret_cast<const Vector*>(&h[b][k][right + p * 8 * V]);
#pragma unroll
            for (int r = 0; r < OWN; ++r)
#pragma unroll
                for (int c = 0; c < ACROSS; ++c)
                    sum[r][c] = FMA(x[r / V].v[r % V], y[c / V].v[c % V], sum[r][c]);
        }
        if (more) keep_piece(b ^ 1);
        SYNC();
    }

#pragma unroll
    for (int r = 0; r < OWN; ++r) {
        const int i = i0 + down + r / V * 4 * V + r % V;
#pragma unroll
        for (int p = 0; p < ACROSS / V; ++p) {
            const int j = j0 + right + p * 8 * V;
            REAL* to = G + index_t(i) * n + j;
            Vector x;
#pragma unroll
            for (int v = 0; v < V; ++v) x.v[v] = sum[r][p * V + v];
            if (whole && i < m && j < n) {
                *reinterpret_cast<Vector*>(to) = x;
            } else {
#pragma unroll
                for (int v = 0; v < V; ++v)
                    if (i < m && j + v < n) to[v] = x.v[v];
            }
        }
    }
}

// loss = diag(E G^T) in float64, a warp a row: four sums a lane, then a tree, always in this order.
KERNEL void __launch_bounds__(THREADS)
    row_losses(const REAL* __restrict__ E, const REAL* __restrict__ G, double* __restrict__ loss,
               int m, int n) {
    const int lane = threadIdx.x % 32;
    const index_t i = index_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    double sum[4] = {0, 0, 0, 0};
    for (int k0 = 0; k0 < n; k0 += 128) {
#pragma unroll
        for (int u = 0; u < 4; ++u) {
            const int k = k0 + u * 32 + lane;
            if (i < m && k < n) sum[u] += double(E[i * n + k]) * double(G[i * n + k]);
        }
    }
    double total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    for (int half = 16; half > 0; half /= 2) total += __shfl_xor_sync(0xffffffffu, total, half);
    if (i < m && lane == 0) loss[i] = total;
}

// What a warp found: its first column that changes, n where none does; the change and its gain.
struct First {
    double d, fall;
    int column;
};

struct Limits {
    double low, high, tie, least;
};

// One row of `descend`, with g in shared or in global memory; whether a code changed.
INLINE bool descend_row(REAL* g, CODE* codes, const REAL* __restrict__ H,
                        const REAL* __restrict__ scale, const int* __restrict__ group,
                        const REAL* __restrict__ bound, First (*found)[WARPS], double* gain,
                        long long* changed, unsigned char* ties, int n, int groups, Limits limit) {
    const int t = threadIdx.x, warp = t / 32;
    const unsigned before = (1u << t % 32) - 1;
    double total = 0;
    long long count = 0;
    bool met = false;
    int b = 0;
    for (int k0 = 0; k0 < n; k0 += THREADS) {
        const int k = k0 + t;
        int last = k0 - 1;  // columns up to here are decided
        for (;;) {
            bool better = false, tied = false;
            double new_code = 0, d = 0, fall = 0;
            if (k > last && k < n) {
                const REAL step = scale[groups == 1 ? 0 : group[k]];
                if (ABS(g[k]) > bound[k] * step) {
                    const double size = step, curve = H[index_t(k) * n + k];
                    const double slope = g[k], old = codes[k];
                    const double target = old - slope / (curve * size);
                    new_code = rint(target);
                    tied = limit.low <= target && target <= limit.high &&
                           0.5 - fabs(target - new_code) < limit.tie;
                    new_code = new_code < limit.low ? limit.low : new_code;
                    new_code = new_code > limit.high ? limit.high : new_code;
                    d = size * (new_code - old);
                    fall = -d * (2 * slope + curve * d);
                    better = fall > limit.least * curve * d * d;
                }
            }
            const unsigned mask = __ballot_sync(0xffffffffu, better);
            if (better && (mask & before) == 0) found[b][warp] = {d, fall, k};
            if (mask == 0 && t % 32 == 0) found[b][warp].column = n;
            SYNC();
            int at = n, w = 0;
            for (; w < WARPS && at == n; ++w) at = found[b][w].column;
            met |= tied && k <= at;
            if (at < n) {
                if (k == at) codes[k] = static_cast<CODE>(int(new_code));
                const REAL change = REAL(found[b][w - 1].d);
                total += found[b][w - 1].fall;
                ++count;
                const REAL* __restrict__ row = H + index_t(at) * n;
#pragma unroll 8
                for (int j = t; j < n; j += THREADS) g[j] += change * row[j];
                last = at;
            }
            b ^= 1;  // the other is still read
            if (at == n) break;
        }
    }
    if (met) *ties = 1;
    if (t == 0) {
        *gain = total;
        *changed = count;
    }
    return count > 0;
}

// One pass of coordinate descent over the columns of some rows, a block a row; as on the CPU.
//
// G's row is in shared memory, n elements, or where it does not fit in global memory.  256 columns
// are decided at a time, all as if none before them in the window changed; the first that changes
// makes that true of itself, adds d H[k] to the row, a product and a sum, and those after it are
// decided again.  So every column is decided on the g that it has in the order of the columns.
// A thread reads and writes the same columns of g throughout, and a step has one barrier.
//
// Of changes, 2 n flops and n elements of H from L2 each; of the rest, m n elements of G and a
// barrier for 256 columns.
KERNEL void __launch_bounds__(THREADS)
    descend(REAL* __restrict__ G, CODE* __restrict__ codes, const REAL* __restrict__ H,
            const REAL* __restrict__ scale, const int* __restrict__ group,
            const REAL* __restrict__ bound, const int* __restrict__ rows,
            double* __restrict__ gain, long long* __restrict__ changed,
            unsigned char* __restrict__ ties, int n, int groups, double low, double high,
            double tie, double least, int resident) {
    __shared__ First found[2][WARPS];
    DYNAMIC_SHARED(REAL, own);
    const index_t i = rows[blockIdx.x];
    REAL* g = G + i * n;
    CODE* q = codes + i * n;
    const REAL* s = scale + i * groups;
    const Limits limit = {low, high, tie, least};
    if (resident) {
#pragma unroll 8
        for (int k = threadIdx.x; k < n; k += THREADS) own[k] = g[k];
        if (descend_row(own, q, H, s, group, bound, found, gain + i, changed + i, ties + i, n,
                        groups, limit)) {
#pragma unroll 8
            for (int k = threadIdx.x; k < n; k += THREADS) g[k] = own[k];
        }
    } else {
        descend_row(g, q, H, s, group, bound, found, gain + i, changed + i, ties + i, n, groups,
                    limit);
    }
}
