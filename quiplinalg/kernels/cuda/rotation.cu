// Rotations of the rows of a matrix: a permuting load, steps, a permuting store; see
// incoherence/windows.py for what a plan is.
//
// A block takes one row, or several short ones, into shared memory, does all steps there, and
// writes it back: X is read once and the result written once, 2 n sizeof(REAL) bytes a row.  Every
// value is computed by the CPU kernel's operations in its order, so that both give the same bits.
//
// Index i = row stride + coordinate of the work space is kept at swizzled(i).  Only the last five
// bits change, by a linear map over GF(2) for which the threads of a warp meet 32 different banks
// in every pass of a Walsh-Hadamard transform, and in fibres that are 32, 64 or 128 apart.

constexpr int THREADS = 256;
constexpr int OUTPUTS = 8;                              // of a dense factor, in a panel
constexpr int FIBRES = sizeof(REAL) == 4 ? 4 : 2;       // that a thread multiplies at a time
constexpr int BATCH = sizeof(REAL) == 4 ? 16 : 8;       // loads of a thread in flight
constexpr int RESIDENT = sizeof(REAL) == 4 ? 4 : 2;     // blocks of an SM, without dense factors
constexpr int FIELDS = 8;                               // of a step
constexpr int FACTOR = 0, FOLDED = 1, WALSH = 2;        // kinds of steps; what is left is SCALE

struct Side {  // column j is coordinate place[j], times scale[j]
    const int* place;
    const REAL* scale;
    bool moved, scaled;  // else place[j] = j, scale[j] = 1
};

struct Tile {  // rows of X in the work space
    REAL* work;
    int stride, height;
};

INLINE int swizzled(int i) {
    const int h = i >> 5;
    return i ^ (((h >> 2) ^ (h << 1) ^ (h << 3)) & 31);
}

// Row and column of the elements threadIdx.x, threadIdx.x + THREADS, ... of rows of n: a division
// for each would cost more than all else that is done with it.
struct Walk {
    int n, row, j, rows, columns;

    __device__ __forceinline__ explicit Walk(int n)
        : n(n), row(threadIdx.x / n), j(threadIdx.x % n), rows(THREADS / n), columns(THREADS % n) {}

    __device__ __forceinline__ void advance() {
        row += rows;
        j += columns;
        if (j >= n) j -= n, ++row;
    }
};

// Where column j of a row is in the work space.
INLINE int place_of(const Tile& tile, const Side& side, int row, int j) {
    return swizzled(row * tile.stride + (side.moved ? __ldg(side.place + j) : j));
}

// Rows of X, from X on, to the work space.
INLINE void load(const REAL* X, const Tile& tile, int n, const Side& side) {
    const int t = threadIdx.x, own = swizzled(t), count = tile.height * n;
    Walk walk(n);
    for (int base = 0; base < count; base += THREADS * BATCH) {
        REAL x[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            const int i = base + u * THREADS + t;
            if (i < count) x[u] = X[i];
        }
#pragma unroll
        for (int u = 0; u < BATCH; ++u) {
            const int i = base + u * THREADS + t;
            if (i < count) {
                const int to = side.moved || tile.height > 1 ? place_of(tile, side, walk.row, walk.j)
                                                             : own ^ swizzled(base + u * THREADS);
                tile.work[to] = side.scaled ? x[u] * __ldg(side.scale + walk.j) : x[u];
            }
            walk.advance();
        }
    }
}

// The work space to rows of the result, columns from `from` on.
INLINE void store(const Tile& tile, REAL* out, int n, const Side& side, int from) {
    const int t = threadIdx.x, own = swizzled(t), count = tile.height * n;
    Walk walk(n);
#pragma unroll 4
    for (int base = 0; base < count; base += THREADS) {
        const int i = base + t;
        if (i < count && walk.j >= from) {
            const int at = side.moved || tile.height > 1 ? place_of(tile, side, walk.row, walk.j)
                                                         : own ^ swizzled(base);
            const REAL x = tile.work[at];
            out[i] = side.scaled ? x * __ldg(side.scale + walk.j) : x;
        }
        walk.advance();
    }
}

// LEVELS levels of a Walsh-Hadamard transform, in registers: of elements `half` apart.  A warp
// reads and writes 2^LEVELS times 32 elements, 32 banks each.
template <int LEVELS>
INLINE void walsh_pass(const Tile& tile, int start, int total, int half, int shift) {
    constexpr int RADIX = 1 << LEVELS;
    const int each = total >> LEVELS, count = tile.height * each;
    int mask[LEVELS];
#pragma unroll
    for (int l = 0; l < LEVELS; ++l) mask[l] = swizzled(half << l);
    for (int task = threadIdx.x; task < count; task += THREADS) {
        const int row = tile.height == 1 ? 0 : task / each, i = task - row * each;
        const int block = shift >= 0 ? i >> shift : i / half;
        const int at = row * tile.stride + start + i + block * half * (RADIX - 1);
        int place[RADIX];
        place[0] = swizzled(at);
        if (shift >= 0) {  // no carries: the map of a sum is the sum of the maps
#pragma unroll
            for (int l = 0; l < LEVELS; ++l)
#pragma unroll
                for (int e = 0; e < 1 << l; ++e) place[e + (1 << l)] = place[e] ^ mask[l];
        } else {
#pragma unroll
            for (int e = 1; e < RADIX; ++e) place[e] = swizzled(at + e * half);
        }
        REAL x[RADIX];
#pragma unroll
        for (int e = 0; e < RADIX; ++e) x[e] = tile.work[place[e]];
#pragma unroll
        for (int l = 0; l < LEVELS; ++l)
#pragma unroll
            for (int e = 0; e < RADIX; ++e)
                if (!(e >> l & 1)) {
                    const REAL a = x[e], b = x[e + (1 << l)];
                    x[e] = a + b;
                    x[e + (1 << l)] = a - b;
                }
#pragma unroll
        for (int e = 0; e < RADIX; ++e) tile.work[place[e]] = x[e];
    }
    SYNC();
}

// At most 4 levels a pass, from the slowest ones: the CPU's passes, so the CPU's sums.
INLINE void walsh(const Tile& tile, int start, int outer, int size, int inner, int shift) {
    const int total = outer * size * inner;
    int left = 0;
    while (1 << left < size) ++left;
    for (int passes = (left + 3) / 4; passes > 0; --passes) {
        const int levels = (left + passes - 1) / passes;
        left -= levels;
        const int half = inner << left, by = shift < 0 ? -1 : shift + left;
        if (levels == 4)
            walsh_pass<4>(tile, start, total, half, by);
        else if (levels == 3)
            walsh_pass<3>(tile, start, total, half, by);
        else if (levels == 2)
            walsh_pass<2>(tile, start, total, half, by);
        else
            walsh_pass<1>(tile, start, total, half, by);
    }
}

INLINE void eight(const float* from, float* to) {  // from is a multiple of 16 bytes
#pragma unroll
    for (int v = 0; v < 2; ++v) {
        const float4 x = __ldg(reinterpret_cast<const float4*>(from) + v);
        to[4 * v] = x.x, to[4 * v + 1] = x.y, to[4 * v + 2] = x.z, to[4 * v + 3] = x.w;
    }
}

INLINE void eight(const double* from, double* to) {
#pragma unroll
    for (int v = 0; v < 4; ++v) {
        const double2 x = __ldg(reinterpret_cast<const double2*>(from) + v);
        to[2 * v] = x.x, to[2 * v + 1] = x.y;
    }
}

// Multiply every fibre of an axis by a dense factor, or by C and S where it is folded: from the
// sums c and s of e_k = x_k + x_-k and o_k = x_k - x_-k, y_k = c_k + s_k and y_-k = c_k - s_k.
//
// `group` fibres are copied to scratch, [k][fibre], so that inputs are read without conflicts
// whatever the axis; a thread has 8 outputs of FIBRES of them in registers.  A step of k is FIBRES
// loads from shared memory and two to four broadcasts of 16 bytes from L1 for 8 FIBRES FMAs; each
// output is one chain of FMAs in ascending k from 0.  2 size flops an element, half where folded.
INLINE void dense(const Tile& tile, REAL* scratch, int room, int rows, bool folded, int start,
                  int outer, int size, int inner, const REAL* __restrict__ constants) {
    __shared__ int bases[THREADS];
    const int count = outer * inner, fibres = tile.height * count;
    const int even = folded ? size / 2 + 1 : size, odd = size - even;
    const int even_panels = (even + OUTPUTS - 1) / OUTPUTS;
    const int panels = even_panels + (odd + OUTPUTS - 1) / OUTPUTS;
    int group = FIBRES;  // a power of two: a task for each thread, if there are so many fibres
    while (group < THREADS && group < rows * count && group / FIBRES * panels < THREADS &&
           2 * group * size <= room)
        group *= 2;
    const int g = threadIdx.x % group, k0 = threadIdx.x / group, k_step = THREADS / group;
    const int quads = group / FIBRES;
    const int q = threadIdx.x % quads, p0 = threadIdx.x / quads, p_step = THREADS / quads;

    for (int f0 = 0; f0 < fibres; f0 += group) {
        const int f = f0 + g;
        int base = -1;
        if (f < fibres) {
            const int row = f / count, c = f - row * count, o = c / inner;
            base = row * tile.stride + start + o * size * inner + c - o * inner;
            for (int k = k0; k < even; k += k_step) {
                const REAL a = tile.work[swizzled(base + k * inner)];
                if (!folded || k == 0 || 2 * k == size) {
                    scratch[k * group + g] = a;
                } else {
                    const REAL b = tile.work[swizzled(base + (size - k) * inner)];
                    scratch[k * group + g] = a + b;
                    scratch[(even + k - 1) * group + g] = a - b;
                }
            }
        }
        if (k0 == 0) bases[g] = base;
        SYNC();

        for (int p = p0; p < panels; p += p_step) {
            const bool second = p >= even_panels;  // S: its output j is y_-(j + 1) until the end
            const int length = second ? odd : even;
            const int first = (second ? p - even_panels : p) * OUTPUTS;
            const REAL* x = scratch + (second ? even * group : 0) + q;
            const REAL* u = constants + (second ? even_panels * OUTPUTS * even : 0) + first * length;
            REAL sums[FIBRES][OUTPUTS];
#pragma unroll
            for (int v = 0; v < FIBRES; ++v)
#pragma unroll
                for (int c = 0; c < OUTPUTS; ++c) sums[v][c] = 0;
#pragma unroll 2
            for (int k = 0; k < length; ++k) {
                REAL factor[OUTPUTS];
                eight(u + k * OUTPUTS, factor);
#pragma unroll
                for (int v = 0; v < FIBRES; ++v) {
                    const REAL own = x[k * group + v * quads];
#pragma unroll
                    for (int c = 0; c < OUTPUTS; ++c)
                        sums[v][c] = FMA(own, factor[c], sums[v][c]);
                }
            }
#pragma unroll
            for (int v = 0; v < FIBRES; ++v) {
                const int at = bases[q + v * quads];
                if (at < 0) continue;
#pragma unroll
                for (int c = 0; c < OUTPUTS; ++c) {
                    const int j = first + c, k = second ? size - 1 - j : j;
                    if (j < length) tile.work[swizzled(at + k * inner)] = sums[v][c];
                }
            }
        }
        SYNC();
        if (!folded) continue;
        for (int k = k0 + 1; k <= odd && base >= 0; k += k_step) {
            REAL *a = tile.work + swizzled(base + k * inner),
                 *b = tile.work + swizzled(base + (size - k) * inner);
            const REAL c = *a, s = *b;
            *a = c + s;
            *b = c - s;
        }
        SYNC();
    }
}

// All of the kernel but where the work space is; DENSE: there may be dense factors.  `flags`: 1,
// only what is on or above the diagonal of out; 2, 4: columns are moved by the load, the store;
// 8, 16: they are scaled.
template <bool DENSE>
INLINE void rotate(const REAL* X, REAL* out, int m, int n, int rows, int stride, int flags,
                   const int* to, const REAL* load_scale, const int* fro, const REAL* store_scale,
                   const int* steps, int count, const REAL* constants, REAL* work, REAL* scratch,
                   int room) {
    const Side loaded = {to, load_scale, (flags & 2) != 0, (flags & 8) != 0};
    const Side stored = {fro, store_scale, (flags & 4) != 0, (flags & 16) != 0};
    for (index_t first = index_t(blockIdx.x) * rows; first < m;
         first += index_t(gridDim.x) * rows) {
        const Tile tile = {work, stride, int(m - first < rows ? m - first : rows)};
        load(X + first * n, tile, n, loaded);
        SYNC();
        for (int s = 0; s < count; ++s) {
            const int* step = steps + s * FIELDS;
            const int kind = step[0], start = step[1], outer = step[2];
            const int size = step[3], inner = step[4];
            const REAL* own = constants + step[5];
            if (kind == WALSH) {
                const bool whole = rows == 1 || stride % (size * inner) == 0;
                walsh(tile, start, outer, size, inner, whole ? step[6] : -1);
            } else if (DENSE && (kind == FACTOR || kind == FOLDED)) {
                dense(tile, scratch, room, rows, kind == FOLDED, start, outer, size, inner, own);
            } else {
                for (int i = threadIdx.x; i < tile.height * size; i += THREADS) {
                    const int row = tile.height == 1 ? 0 : i / size, k = i - row * size;
                    tile.work[swizzled(row * stride + start + k)] *= __ldg(own + k);
                }
                SYNC();
            }
        }
        store(tile, out + first * n, n, stored, flags & 1 ? int(first) : 0);
        SYNC();
    }
}

#define ROTATION                                                                                  \
    const REAL *X, REAL *out, int m, int n, int rows, int stride, int flags,                      \
        const int *__restrict__ to, const REAL *__restrict__ load_scale,                          \
        const int *__restrict__ fro, const REAL *__restrict__ store_scale,                        \
        const int *__restrict__ steps, int count, const REAL *__restrict__ constants, int room
#define GIVEN X, out, m, n, rows, stride, flags, to, load_scale, fro, store_scale, steps, count

// Without dense factors.  A row of 8192 in float32 takes 32 KB, so that four blocks of an SM hide
// each other's loads.  10 reads or writes of shared memory an element, 2600 cycles of an SM a row,
// and as many for about 10000 instructions of a warp: by these counts less than a copy of the row
// takes, 3500 cycles at 4.2 TB/s.
KERNEL void __launch_bounds__(THREADS, RESIDENT) rotate_walsh(ROTATION) {
    DYNAMIC_SHARED(REAL, work);
    rotate<false>(GIVEN, constants, work, work, room);
}

// With dense factors: bound by their FMAs from sizes of about 32 on.
KERNEL void __launch_bounds__(THREADS, 2) rotate_dense(ROTATION) {
    DYNAMIC_SHARED(REAL, work);
    rotate<true>(GIVEN, constants, work, work + rows * stride, room);
}

// Rows that do not fit in shared memory: each block has a work space in global memory, which stays
// in L2 where that is large enough.
KERNEL void __launch_bounds__(THREADS, 2) rotate_long(ROTATION, REAL* space) {
    REAL* work = space + index_t(blockIdx.x) * (index_t(rows) * stride + room);
    rotate<true>(GIVEN, constants, work, work + rows * stride, room);
}

// out (columns, rows) = X (rows, columns) transposed: 32 x 32 in shared memory by 32 x 8 threads.
KERNEL void __launch_bounds__(THREADS)
    flip(const REAL* __restrict__ X, REAL* __restrict__ out, int rows, int columns) {
    __shared__ REAL square[32][33];
    const int across = (columns + 31) / 32;
    const int x = threadIdx.x % 32, y = threadIdx.x / 32;
    const int i0 = blockIdx.x / across * 32, j0 = blockIdx.x % across * 32;
    for (int r = y; r < 32; r += 8)
        if (i0 + r < rows && j0 + x < columns)
            square[r][x] = X[index_t(i0 + r) * columns + j0 + x];
    SYNC();
    for (int r = y; r < 32; r += 8)
        if (j0 + r < columns && i0 + x < rows)
            out[index_t(j0 + r) * rows + i0 + x] = square[x][r];
}
