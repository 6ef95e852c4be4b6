// Elimination of coordinates of rows under a quadratic loss (OBS, OBQ): kernels/generic_obs.py says
// what is computed, kernels/cpu_obs.py how.
//
// Eliminating q from X = (H_FF)^-1 leaves X - v v^T, v = X_q: / sqrt(X_qq).  A block of threads has
// a row of W and a copy of X of its own, in global memory.  STEPS steps keep their v in V and X as
// it was, A, so that
//
//     row q of X is A_q: - sum_i V_iq V_i:,      diag X = d, kept by d -= v v,
//
// and then A -= V^T V.  Every element of X is one chain of FMAs in ascending steps, wherever A is
// brought up to date, so that choices, codes and costs are the CPU kernel's to the bit.  Positions
// 0 .. count - 1 hold what is left of the columns: the last one moves into what is eliminated.
//
// A row: n^3 / 3 flops in float64; 8 n^3 / (3 STEPS) bytes to update A, about half as much again for
// the V that this reads, and 4 STEPS n^2 bytes for the rows of X (n = 4096: 6 to 7 GB, against
// 370 GB where X is brought up to date every step).  Bound by memory.

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int STEPS = 64;                         // between two updates of A
constexpr int TALL = 128, WIDE = 64, PIECE = 8;   // a tile of A, and steps of V in shared memory
constexpr int DOWN = TALL / 16, ACROSS = WIDE / 16;
constexpr int OWN = 2;                            // positions of a thread at a time
constexpr index_t NEVER = 0x7fffffffffffffffLL;
constexpr int NONE = 0x7fffffff;

// Where row i of A starts, columns 0 .. i: every row starts at a multiple of 32 bytes.
INLINE index_t start_of(int i) {
    const index_t g = i >> 2;
    return 8 * g * (g + 1) + (i & 3) * 4 * (g + 1);
}

struct Room {  // of a block
    double *A, *V;          // the lower triangle of X, and rows of `pitch`
    double *w, *d, *s, *o;  // by position: weight, diagonal of X, scale and zero
    index_t* left;          // eliminations that a block of columns may still have
    int *column, *closed;   // by position
    int* place;             // of a column; -1: eliminated
    int pitch;
};

INLINE Room room_in(double* work, int n) {
    Room r;
    r.pitch = (n + 3) / 4 * 4;
    r.A = work;
    r.V = r.A + start_of(r.pitch);
    r.w = r.V + index_t(STEPS) * r.pitch;
    r.d = r.w + r.pitch;
    r.s = r.d + r.pitch;
    r.o = r.s + r.pitch;
    r.left = reinterpret_cast<index_t*>(r.o + r.pitch);
    r.column = reinterpret_cast<int*>(r.left + r.pitch);
    r.closed = r.column + r.pitch;
    r.place = r.closed + r.pitch;
    return r;
}

struct Grid {
    const double *scale, *zero;  // of the row
    const int* group;
    double low, high;
    bool prune;  // every target is 0
};

// The lower triangle of A from the upper one of Hinv, 32 x 32 transposed in shared memory.
INLINE void fill(double* A, const double* __restrict__ Hinv, int n) {
    __shared__ double square[32][33];
    const int x = threadIdx.x % 32, y = threadIdx.x / 32;
    for (int i0 = 0; i0 < n; i0 += 32)
        for (int j0 = 0; j0 <= i0; j0 += 32) {
            for (int r = y; r < 32; r += WARPS)
                if (j0 + r < n && i0 + x < n) square[r][x] = Hinv[index_t(j0 + r) * n + i0 + x];
            SYNC();
            for (int r = y; r < 32; r += WARPS)
                if (i0 + r < n && j0 + x <= i0 + r) A[start_of(i0 + r) + j0 + x] = square[x][r];
            SYNC();
        }
}

// A -= V^T V in the lower triangle of the first `count` positions, k ascending.
//
// A tile of 128 x 64, a thread 8 x 4 of it in registers: 12 loads from shared memory for 32 FMAs.
// The next piece of V comes through registers meanwhile.
static __device__ __noinline__ void bring_up_to_date(double* A, const double* V, int pitch, int count) {
    __shared__ double tall[PIECE][TALL], wide[PIECE][WIDE];
    const int t = threadIdx.x, x = t % 16, y = t / 16;
    double next_tall[PIECE * TALL / THREADS], next_wide[PIECE * WIDE / THREADS];
    double sum[DOWN][ACROSS];
    for (int i0 = 0; i0 < count; i0 += TALL)
        for (int j0 = 0; j0 < i0 + TALL && j0 < count; j0 += WIDE) {
            auto fetch = [&](int k0) {
#pragma unroll
                for (int u = 0; u < PIECE * TALL / THREADS; ++u) {
                    const int i = i0 + t % TALL, k = k0 + t / TALL + u * (THREADS / TALL);
                    next_tall[u] = i < count ? V[index_t(k) * pitch + i] : 0.0;
                }
#pragma unroll
                for (int u = 0; u < PIECE * WIDE / THREADS; ++u) {
                    const int j = j0 + t % WIDE, k = k0 + t / WIDE + u * (THREADS / WIDE);
                    next_wide[u] = j < count ? V[index_t(k) * pitch + j] : 0.0;
                }
            };
            fetch(0);
#pragma unroll
            for (int a = 0; a < DOWN; ++a)
#pragma unroll
                for (int b = 0; b < ACROSS; ++b) {
                    const int i = i0 + y + 16 * a, j = j0 + x + 16 * b;
                    sum[a][b] = i < count && j < i ? A[start_of(i) + j] : 0.0;
                }
            for (int k0 = 0; k0 < STEPS; k0 += PIECE) {
                SYNC();
#pragma unroll
                for (int u = 0; u < PIECE * TALL / THREADS; ++u)
                    tall[t / TALL + u * (THREADS / TALL)][t % TALL] = next_tall[u];
#pragma unroll
                for (int u = 0; u < PIECE * WIDE / THREADS; ++u)
                    wide[t / WIDE + u * (THREADS / WIDE)][t % WIDE] = -next_wide[u];
                SYNC();
                if (k0 + PIECE < STEPS) fetch(k0 + PIECE);
#pragma unroll 2
                for (int k = 0; k < PIECE; ++k) {
                    double left[DOWN], right[ACROSS];
#pragma unroll
                    for (int a = 0; a < DOWN; ++a) left[a] = tall[k][y + 16 * a];
#pragma unroll
                    for (int b = 0; b < ACROSS; ++b) right[b] = wide[k][x + 16 * b];
#pragma unroll
                    for (int a = 0; a < DOWN; ++a)
#pragma unroll
                        for (int b = 0; b < ACROSS; ++b)
                            sum[a][b] = FMA(left[a], right[b], sum[a][b]);
                }
            }
#pragma unroll
            for (int a = 0; a < DOWN; ++a)
#pragma unroll
                for (int b = 0; b < ACROSS; ++b) {
                    const int i = i0 + y + 16 * a, j = j0 + x + 16 * b;
                    if (i < count && j < i) A[start_of(i) + j] = sum[a][b];
                }
        }
    SYNC();
}

// What to eliminate first, as integers: the bits of the cost, and below them outliers.  No number:
// before everything, to be found out by its pivot.
INLINE index_t key_of(double w, double d, double s, double o, const Grid& grid, bool zero,
                      bool outliers) {
    double e = w;
    if (!zero) {
        const double whole = FLOOR(o), free = RINT(w / s + (o - whole)) + whole;
        double code = free < grid.low ? grid.low : free;
        code = code > grid.high ? grid.high : code;
        e = w - s * (code - o);
        if (outliers && code != free) return -1 - __double_as_longlong(ABS(e));
    }
    const double cost = e * e / d;
    return cost == cost ? __double_as_longlong(cost) : -NEVER - 1;
}

// The open column of the least key, of equal ones the lowest, or -1; the same in all threads.
INLINE int choose(const Room& r, int count, const Grid& grid, bool zero, bool outliers) {
    __shared__ index_t keys[WARPS];
    __shared__ int columns[WARPS];
    index_t key = NEVER;
    int column = NONE;
    auto take = [&](index_t other, int its) {
        if (other < key || (other == key && its < column)) key = other, column = its;
    };
    for (int j = threadIdx.x; j < count; j += THREADS)
        if (!r.closed[j])
            take(key_of(r.w[j], r.d[j], r.s[j], r.o[j], grid, zero, outliers), r.column[j]);
    for (int lane = 16; lane > 0; lane /= 2) {
        const index_t other = __shfl_xor_sync(0xffffffffu, key, lane);
        take(other, __shfl_xor_sync(0xffffffffu, column, lane));
    }
    if (threadIdx.x % 32 == 0) keys[threadIdx.x / 32] = key, columns[threadIdx.x / 32] = column;
    SYNC();
    for (int i = 0; i < WARPS; ++i) take(keys[i], columns[i]);
    return key == NEVER ? -1 : column;
}

// The next open column in a common order, from order[next_one] on, or -1.
INLINE int choose_next(const Room& r, const index_t* order, int n, int& next_one) {
    __shared__ int chosen;
    if (threadIdx.x == 0) {
        int q = -1;
        while (next_one < n && q < 0) {
            q = int(order[next_one++]);
            if (r.place[q] < 0 || r.closed[r.place[q]]) q = -1;
        }
        chosen = q;
    }
    SYNC();
    return chosen;
}

// w -= by X_p:, v = X_p: inverse, d -= v v for all positions up to `last`, which becomes p.
// coefficient[i] = -V_ip; a position is read and written by one thread only.
INLINE void downdate(const Room& r, int p, int last, int pending, double by, double inverse,
                     const double* coefficient) {
    for (int j0 = threadIdx.x; j0 <= last; j0 += OWN * THREADS) {
        index_t at[OWN];
        double row[OWN];
        int own[OWN];
#pragma unroll
        for (int u = 0; u < OWN; ++u) {
            const int j = j0 + u * THREADS;
            own[u] = j <= last ? j : j0;
            at[u] = own[u] < p ? start_of(p) + own[u] : start_of(own[u]) + p;
            row[u] = r.A[at[u]];
        }
#pragma unroll 8
        for (int i = 0; i < pending; ++i)
#pragma unroll
            for (int u = 0; u < OWN; ++u)
                row[u] = FMA(r.V[index_t(i) * r.pitch + own[u]], coefficient[i], row[u]);
#pragma unroll
        for (int u = 0; u < OWN; ++u) {
            const int j = own[u];
            if (j == p || (u > 0 && j == j0)) continue;
            const double v = row[u] * inverse, part = by * row[u];
            const int to = j == last ? p : j;
            r.w[to] = r.w[j] - part;
            r.d[to] = r.d[j] - v * v;
            r.V[index_t(pending) * r.pitch + to] = v;
            if (j == last) {
                const int c = r.column[j];
                r.s[p] = r.s[j], r.o[p] = r.o[j];
                r.closed[p] = r.closed[j], r.column[p] = c, r.place[c] = p;
            } else if (p < last) {
                r.A[at[u]] = r.A[start_of(last) + j];
            }
        }
    }
    // the earlier steps' v; the sums above read neither position p nor what is written here
    if (int(threadIdx.x) < pending && p < last) {
        double* v = r.V + index_t(threadIdx.x) * r.pitch;
        v[p] = v[last];
    }
}

// Eliminate rows, each in its own order, until none is left: state[1] counts those begun, state[0]
// is the first one that failed (NONE: none did).
KERNEL void __launch_bounds__(THREADS, 2)
    eliminate_rows(const double* __restrict__ W, const double* __restrict__ Hinv, int m, int n,
                   const double* __restrict__ scale, const double* __restrict__ zero, int groups,
                   int step_of_scale, const int* __restrict__ group, double low, double high,
                   const index_t* __restrict__ order, int forced, const bool* __restrict__ mask,
                   int masking, const index_t* __restrict__ steps,
                   const index_t* __restrict__ quota, int blocks, int width, int outliers,
                   double* work, index_t space, int* orders, double* costs, double* weights,
                   int* codes, double* stats, int* state) {
    __shared__ double coefficient[STEPS];
    __shared__ double found[3];  // of the row: see stats
    __shared__ int row, masked;
    const int t = threadIdx.x;
    const double infinity = __longlong_as_double(0x7ff0000000000000LL);
    const Room r = room_in(work + blockIdx.x * space, n);
    for (;;) {
        if (t == 0) {
            row = atomicAdd(state + 1, 1);
            if (row < m && atomicMin(state, NONE) < row) row = m;  // an error for a row before it
            masked = 0;
            found[0] = 0.5, found[1] = found[2] = 0.0;
        }
        SYNC();
        const int i = row;
        if (i >= m) break;
        const index_t base = index_t(i) * n;
        const index_t own = index_t(i) * step_of_scale;
        const Grid grid = {scale + own, zero + own, group, low, high, groups == 0};

        fill(r.A, Hinv, n);
        for (int j = t; j < n; j += THREADS) {
            r.w[j] = W[base + j], r.d[j] = Hinv[index_t(j) * n + j];
            r.s[j] = grid.prune ? 1.0 : grid.scale[group[j]];
            r.o[j] = grid.prune ? 0.0 : grid.zero[group[j]];
            r.column[j] = r.place[j] = j;
            orders[base + j] = -1, costs[base + j] = 0.0;
            if (masking && mask[base + j]) masked = 1;
        }
        for (int b = t; b < blocks; b += THREADS) r.left[b] = quota[b];
        SYNC();
        bool first = masked != 0;  // those of the mask
        for (int j = t; j < n; j += THREADS)
            r.closed[j] = (first && !mask[base + j]) || (blocks > 0 && quota[j / width] <= 0);
        SYNC();

        int count = n, pending = 0, next_one = 0;
        const int most = int(steps[i] < n ? steps[i] : n);
        for (int step = 0; step < most; ++step) {
            int q;
            for (;;) {
                q = forced ? choose_next(r, order, n, next_one)
                           : choose(r, count, grid, grid.prune || first, outliers != 0);
                if (q >= 0 || !first) break;
                first = false, next_one = 0;
                for (int j = t; j < count; j += THREADS)
                    r.closed[j] = blocks > 0 && r.left[r.column[j] / width] <= 0;
                SYNC();
            }
            if (q < 0) break;

            const int p = r.place[q];
            const double pivot = r.d[p], w = r.w[p];
            if (!(pivot > 0 && pivot < infinity)) {
                if (t == 0) {
                    orders[base + step] = q, costs[base + step] = pivot;
                    atomicMin(state, i);
                }
                break;
            }
            double target = 0, code = 0;
            if (!grid.prune) {
                const double s = r.s[p], o = r.o[p], whole = FLOOR(o);
                const double y = (first ? 0.0 : w / s) + (o - whole), free = RINT(y) + whole;
                code = fmin(fmax(free, low), high);
                if (!first) {
                    target = s * (code - o);
                    if (t == 0) {
                        found[1] += code != free;
                        if (low <= y + whole && y + whole < high)
                            found[0] = fmin(found[0], 0.5 - ABS(y - RINT(y)));
                    }
                }
            }
            const double e = w - target, by = e / pivot, inverse = 1 / sqrt(pivot);
            if (t == 0) found[2] += 1 / pivot;
            const int block = q / width;
            const index_t left = blocks > 0 ? r.left[block] - 1 : 1;
            if (t < pending) coefficient[t] = -r.V[index_t(t) * r.pitch + p];
            SYNC();  // from here on what stands at p and q is overwritten
            if (t == 0) {
                orders[base + step] = q, costs[base + step] = e * e / pivot;
                weights[base + q] = target;
                if (!grid.prune) codes[base + q] = int(code);
                r.place[q] = -1;
                if (blocks > 0) r.left[block] = left;
            }
            if (--count == 0) break;
            downdate(r, p, count, pending, by, inverse, coefficient);
            ++pending;
            SYNC();
            if (left == 0) {
                const int end = n - block * width < width ? n : block * width + width;
                for (int c = block * width + t; c < end; c += THREADS)
                    if (r.place[c] >= 0) r.closed[r.place[c]] = 1;
                SYNC();
            }
            if (pending == STEPS) {
                bring_up_to_date(r.A, r.V, r.pitch, count);
                pending = 0;
            }
        }
        for (int j = t; j < count; j += THREADS) weights[base + r.column[j]] = r.w[j];
        if (t < 3) stats[index_t(i) * 3 + t] = found[t];
        SYNC();
    }
}
