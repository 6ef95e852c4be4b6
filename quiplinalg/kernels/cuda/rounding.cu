// Rounding with feedback: load, round, store, and the weights of GPTQ.
//
// Work arrays are (members, tiles, N, LANES): row r of a tile is a lane, so that neighbouring
// threads touch neighbouring elements.  U is strictly upper, (N, N) for each member, `apart` elements
// apart, or 0 where all members share one.  F holds
// W + E U[:c0] in the columns from c0 on, Z the errors E in those before and W in the others.
// Every element of F is one chain of fused multiply-adds in ascending k, begun by `update` and
// ended by `round_rows`: codes do not depend on where the spans end, nor on the device.

constexpr int LANES = 512 / (int)sizeof(REAL);  // rows of a tile
constexpr int WIDE = 16 / (int)sizeof(REAL);    // elements of a vector load
constexpr int WARP = 32;
constexpr int BLOCK = 128;                      // the widest span of round_rows

struct alignas(16) Vector {
    REAL v[WIDE];
};

INLINE const Vector& vector_at(const REAL* p) { return *reinterpret_cast<const Vector*>(p); }

// ---- rows to tiles and back -------------------------------------------------------------------

// Z = F = W[b, t LANES + r, columns[b, c]]; zero below the last row and in padding.
// 32 x 32 transposed in shared memory by 32 x 8 threads; reads 1 and writes 2 REAL an element.
KERNEL void load(const REAL* __restrict__ W, const index_t* __restrict__ columns, int m, int n,
                 int tiles, int N, REAL* __restrict__ Z, REAL* __restrict__ F) {
    __shared__ REAL square[WARP][WARP + 1];
    const int x = threadIdx.x, b = blockIdx.z;
    const int c0 = blockIdx.x * WARP, first = blockIdx.y * WARP;
    const index_t column = c0 + x < N ? columns[(index_t)b * N + c0 + x] : -1;
    for (int r = threadIdx.y; r < WARP; r += 8)
        square[r][x] = column >= 0 && first + r < m
                           ? W[((index_t)b * m + first + r) * n + column] : (REAL)0;
    SYNC();
    const index_t tile = (index_t)b * tiles + first / LANES;
    for (int c = threadIdx.y; c < WARP; c += 8)
        if (c0 + c < N) {
            const index_t at = (tile * N + c0 + c) * LANES + first % LANES + x;
            Z[at] = F[at] = square[x][c];
        }
}

// codes[b, t LANES + r, columns[b, c]] = C[b, t, c, r], but for padding; as `load`, backwards.
KERNEL void store(const CODE* __restrict__ C, const index_t* __restrict__ columns, int m, int n,
                  int tiles, int N, CODE* __restrict__ codes) {
    __shared__ CODE square[WARP][WARP + 1];
    const int x = threadIdx.x, b = blockIdx.z;
    const int c0 = blockIdx.x * WARP, first = blockIdx.y * WARP;
    const index_t tile = (index_t)b * tiles + first / LANES;
    for (int c = threadIdx.y; c < WARP; c += 8)
        if (c0 + c < N) square[c][x] = C[(tile * N + c0 + c) * LANES + first % LANES + x];
    SYNC();
    const index_t column = c0 + x < N ? columns[(index_t)b * N + c0 + x] : -1;
    if (column < 0) return;
    for (int r = threadIdx.y; r < WARP; r += 8)
        if (first + r < m) codes[((index_t)b * m + first + r) * n + column] = square[x][r];
}

// ---- panels of U, of PANEL columns, for a warp that works on 32 rows ---------------------------

constexpr int PANEL = 64 / (int)sizeof(REAL);
constexpr int PARTS = PANEL / WIDE;   // vectors in a row of a panel
constexpr int ROWS = WARP / PARTS;    // rows that a warp reads with one load
constexpr int LOADS = BLOCK / ROWS;

// Read `rows` <= BLOCK rows of a panel into registers; columns from `count` on are zero.
INLINE void fetch(Vector (&part)[LOADS], const REAL* U, int N, int rows, int count) {
    const int column = threadIdx.x % PARTS * WIDE;
    int row = threadIdx.x / PARTS;
#pragma unroll
    for (int i = 0; i < LOADS; ++i, row += ROWS) {
        part[i] = Vector();
        if (row < rows && column < count) part[i] = vector_at(U + (index_t)row * N + column);
    }
}

INLINE void keep(const Vector (&part)[LOADS], Vector* panel, int rows) {
#pragma unroll
    for (int i = 0; i < LOADS; ++i)
        if (i * ROWS < rows) panel[i * WARP + threadIdx.x] = part[i];
}

// f += e u for a row u of a panel, of the columns from `from` on.
INLINE void add_row(REAL (&f)[PANEL], REAL e, const Vector* u, int from) {
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
        const Vector part = u[p];
#pragma unroll
        for (int i = 0; i < WIDE; ++i)
            if (p * WIDE + i >= from) f[p * WIDE + i] = FMA(e, part.v[i], f[p * WIDE + i]);
    }
}

// ---- rounding ---------------------------------------------------------------------------------

// The first word of Philox-2x32-10, as a uniform in [0, 1).
INLINE float uniform(unsigned row, unsigned column, unsigned key) {
    unsigned x0 = row, x1 = column;
#pragma unroll
    for (int i = 0; i < 10; ++i) {
        const unsigned long long product = (unsigned long long)x0 * 0xD256D193u;
        x0 = (unsigned)(product >> 32) ^ key ^ x1;
        x1 = (unsigned)product;
        key += 0x9E3779B9u;
    }
    return (float)(x0 >> 8) * 5.9604644775390625e-8f;
}

struct Counts {
    REAL tie;  // least distance of a target to a tie
    int clipped;
};

// y = z / s + frac(o); the code k is rint(y) + floor(o), or floor(y + u) + floor(o), clamped.
// Returns s (k - o).
INLINE REAL round_target(bool random, REAL z, REAL s, REAL o, REAL low, REAL high, float u,
                         bool real, REAL& k, Counts& counts) {
    const REAL whole = FLOOR(o);
    REAL y = z / s + (o - whole);
    if (random) {
        k = FLOOR(y + (REAL)u) + whole;
    } else {
        k = RINT(y);
        const REAL distance = (REAL)0.5 - ABS(y - k);
        y = y + whole;
        k = k + whole;
        if (real && y >= low && y < high && distance < counts.tie) counts.tie = distance;
    }
    counts.clipped += real && (k < low || high < k);
    k = k < low ? low : k;
    k = high < k ? high : k;
    return s * (k - o);
}

// Columns c0 .. c1 of Z, at most BLOCK, whose feedback from the columns before c0 is in F:
//     z_j = F_j + E[c0:j] U[c0:j, j],   E_j = W_j - Q(z_j).
// A thread a row and a warp a block: rows need nothing of one another, and there are too few to
// fill a device otherwise.  The targets of a panel are in registers.  For k before the panel,
// whose errors are in shared memory, each row of the panel of U is read once for all its columns;
// in the panel each error goes to the columns after it as soon as it is known, and what is not
// needed for that (sums, stores) waits for the end of the panel.  The next panel of U and of F is
// on its way meanwhile.  F, Z, U are read, Z and C written once.  Bound by latency with one warp a
// multiprocessor, by an estimate 100 cycles a column and 21 a row of a panel, 25 000 for 128
// columns; with several warps by shared memory, 17 cycles a row of a panel and warp.
INLINE void round_rows(bool random, const REAL* __restrict__ F, REAL* __restrict__ Z,
                       CODE* __restrict__ C, const REAL* __restrict__ U, index_t apart,
                       const REAL* __restrict__ scale, const REAL* __restrict__ zero,
                       const int* __restrict__ group, const index_t* __restrict__ columns,
                       const double* __restrict__ D, const double* __restrict__ damping, int tiles,
                       int N, int groups, int c0, int c1, REAL low, REAL high, index_t first,
                       unsigned key, double* __restrict__ stats) {
    __shared__ Vector panel[BLOCK * PARTS];
    __shared__ REAL errors[BLOCK * WARP];
    __shared__ double D_of[BLOCK], damping_of[BLOCK];
    __shared__ int column_of[BLOCK], group_of[BLOCK];
    const int x = threadIdx.x, b = blockIdx.y, width = c1 - c0;
    const index_t t = (index_t)b * tiles + blockIdx.x / (LANES / WARP);  // of all members
    const int lane = blockIdx.x % (LANES / WARP) * WARP + x;
    const unsigned row = (unsigned)(first + (index_t)blockIdx.x * WARP + x);

    for (int j = x; j < BLOCK; j += WARP) {
        const index_t at = (index_t)b * N + c0 + j;
        const bool real = j < width && columns[at] >= 0;
        column_of[j] = real ? (int)columns[at] : -1;
        group_of[j] = real ? group[at] : 0;
        D_of[j] = real ? D[at] : 0;
        damping_of[j] = real ? damping[at] : 0;
    }
    scale += t * groups * LANES + lane;
    zero += t * groups * LANES + lane;
    stats += t * 4 * LANES + lane;
    const index_t start_of_row = (t * N + c0) * LANES + lane;
    F += start_of_row;
    Z += start_of_row;
    C += start_of_row;
    U += b * apart + (index_t)c0 * N + c0;

    double loss = stats[0], damped = stats[LANES];
    Counts counts = {1, 0};
    Vector part[LOADS];
    REAL next[PANEL];
    int count = min(PANEL, width);
    fetch(part, U, N, count, count);
#pragma unroll
    for (int c = 0; c < PANEL; ++c) next[c] = c < count ? F[c * LANES] : (REAL)0;

    for (int start = 0; start < width; start += PANEL) {
        SYNC();
        keep(part, panel, start + PANEL);
        SYNC();
        REAL f[PANEL], w[PANEL], s[PANEL], o[PANEL];
#pragma unroll
        for (int c = 0; c < PANEL; ++c) {
            f[c] = next[c];
            w[c] = o[c] = 0;
            s[c] = 1;
            if (c < count) {
                w[c] = Z[(start + c) * LANES];
                s[c] = scale[(index_t)group_of[start + c] * LANES];
                o[c] = zero[(index_t)group_of[start + c] * LANES];
            }
        }
        const int after = start + PANEL, left = max(0, min(PANEL, width - after));
        fetch(part, U + after, N, after + left, left);
#pragma unroll
        for (int c = 0; c < PANEL; ++c) next[c] = c < left ? F[(after + c) * LANES] : (REAL)0;
        for (int k0 = 0; k0 < start; k0 += 8)
#pragma unroll
            for (int k = 0; k < 8; ++k)
                add_row(f, errors[(k0 + k) * WARP + x], panel + (k0 + k) * PARTS, 0);
#pragma unroll
        for (int c = 0; c < PANEL; ++c) {
            const int column = column_of[start + c];
            const float u = random ? uniform(row, column, key) : 0;
            REAL k;
            const REAL w_hat = round_target(random, f[c], s[c], o[c], low, high, u, column >= 0, k,
                                            counts);
            const REAL e = column >= 0 ? w[c] - w_hat : w[c];
            w[c] = w_hat;  // takes the place of w, e of s, and k of o: registers are few
            s[c] = e;
            o[c] = k;
            add_row(f, e, panel + (start + c) * PARTS, c + 1);
        }
#pragma unroll
        for (int c = 0; c < PANEL; ++c) {
            const int j = start + c;
            const REAL e = s[c];
            const double eta = (double)w[c] - (double)f[c], error = e;
            loss = FMA(D_of[j], eta * eta, loss);
            damped = FMA(damping_of[j], error * error, damped);
            errors[j * WARP + x] = e;
            if (column_of[j] >= 0) {
                Z[j * LANES] = e;
                C[j * LANES] = (CODE)(int)o[c];
            }
        }
        count = left;
    }
    stats[0] = loss;
    stats[LANES] = damped;
    if (counts.tie < stats[2 * LANES]) stats[2 * LANES] = counts.tie;
    stats[3 * LANES] += counts.clipped;
}

KERNEL void round_nearest(const REAL* F, REAL* Z, CODE* C, const REAL* U, index_t apart,
                          const REAL* scale, const REAL* zero, const int* group,
                          const index_t* columns, const double* D, const double* damping,
                          int tiles, int N, int groups, int c0, int c1, REAL low, REAL high,
                          index_t first, unsigned key, double* stats) {
    round_rows(false, F, Z, C, U, apart, scale, zero, group, columns, D, damping, tiles, N, groups,
               c0, c1, low, high, first, key, stats);
}

KERNEL void round_stochastic(const REAL* F, REAL* Z, CODE* C, const REAL* U, index_t apart,
                             const REAL* scale, const REAL* zero, const int* group,
                             const index_t* columns, const double* D, const double* damping,
                             int tiles, int N, int groups, int c0, int c1, REAL low, REAL high,
                             index_t first, unsigned key, double* stats) {
    round_rows(true, F, Z, C, U, apart, scale, zero, group, columns, D, damping, tiles, N, groups,
               c0, c1, low, high, first, key, stats);
}

// out = W + (F - W) T[c0:c1, c0:c1]^-1 for the columns c0 .. c1 but padding, row-major: the
// weights that GPTQ would hold at column c0 (F has the feedback of the columns before only):
//     shift_j = F_j - W_j - shift[c0:j] U[c0:j, j],   products and differences rounded.
// As round_rows, but for the shifts, which are in `work` (members, tiles, c1 - c0, LANES), since
// a span may have any width; results are transposed in shared memory.  (c1 - c0)^2 flops a row.
KERNEL void compensate(const REAL* __restrict__ F, const REAL* __restrict__ Z,
                       const REAL* __restrict__ U, index_t apart,
                       const index_t* __restrict__ columns, int tiles, int N, int c0, int c1,
                       int rows, int real, REAL* work, REAL* __restrict__ X) {
    __shared__ Vector panel[BLOCK * PARTS];
    __shared__ REAL turned[PANEL][WARP + 1];
    __shared__ int place[PANEL];
    const int x = threadIdx.x, b = blockIdx.y, width = c1 - c0;
    const index_t t = (index_t)b * tiles + blockIdx.x / (LANES / WARP);
    const int lane = blockIdx.x % (LANES / WARP) * WARP + x;
    const int first = blockIdx.x * WARP;
    F += (t * N + c0) * LANES + lane;
    Z += (t * N + c0) * LANES + lane;
    work += t * width * LANES + lane;
    U += b * apart + (index_t)c0 * N + c0;
    columns += (index_t)b * N + c0;
    X += ((index_t)b * rows + first) * real;

    int done = 0;  // columns of X
    for (int start = 0; start < width; start += PANEL) {
        const int count = min(PANEL, width - start);
        REAL w[PANEL], shift[PANEL];
#pragma unroll
        for (int c = 0; c < PANEL; ++c) {
            const index_t at = (index_t)(start + c) * LANES;
            w[c] = c < count ? Z[at] : (REAL)0;
            shift[c] = c < count ? F[at] - w[c] : (REAL)0;
        }
        int k0 = 0;
        for (;; k0 += BLOCK) {
            const int height = min(BLOCK, start + count - k0), before = min(BLOCK, start - k0);
            Vector part[LOADS];
            fetch(part, U + (index_t)k0 * N + start, N, height, count);
            SYNC();
            keep(part, panel, height);
            SYNC();
#pragma unroll 8
            for (int k = 0; k < before; ++k) {
                const REAL e = work[(index_t)(k0 + k) * LANES];
#pragma unroll
                for (int c = 0; c < PANEL; ++c)
                    shift[c] = shift[c] - e * panel[k * PARTS + c / WIDE].v[c % WIDE];
            }
            if (k0 + height == start + count) break;
        }
#pragma unroll
        for (int c = 0; c < PANEL; ++c)
            if (c < count) {
                const bool padding = columns[start + c] < 0;
                const REAL e = shift[c];  // zero in padding
                if (x == 0) place[c] = padding ? -1 : done;
                done += !padding;
                work[(index_t)(start + c) * LANES] = e;
                turned[c][x] = w[c] + e;
                const Vector* u = panel + (start - k0 + c) * PARTS;
#pragma unroll
                for (int j = c + 1; j < PANEL; ++j)
                    shift[j] = shift[j] - e * u[j / WIDE].v[j % WIDE];
            }
        SYNC();
#pragma unroll
        for (int i = 0; i < PANEL; ++i) {
            const int r = (i * WARP + x) / PANEL, c = x % PANEL;
            if (c < count && place[c] >= 0 && first + r < rows)
                X[(index_t)r * real + place[c]] = turned[c][r];
        }
    }
}
