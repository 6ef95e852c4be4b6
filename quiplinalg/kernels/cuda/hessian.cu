// Passes over H and its factor, (b, n, n) in C order.  Each moves n^2 elements once or twice and is
// bound by memory.  Where one side is transposed, a block of 64 x 4 threads takes a tile of 64 x 64
// through shared memory: rows of 64 elements are read and written whole, and every thread has 16
// independent loads on their way.

#define TILE 64
#define HIGH 4                // rows of threads
#define PER (TILE / HIGH)     // elements of a tile that a thread moves

INLINE unsigned bits_of(float x) { return (unsigned)__float_as_int(x) & 0x7fffffffu; }
INLINE unsigned long long bits_of(double x) {
    return (unsigned long long)__double_as_longlong(x) & 0x7fffffffffffffffull;
}
INLINE unsigned infinite(float) { return 0x7f800000u; }
INLINE unsigned long long infinite(double) { return 0x7ff0000000000000ull; }
typedef decltype(bits_of((REAL)0)) bits_t;  // of |x|: they order as |x| does, and NaN last

// The pair (i, j), j <= i, of number p = i (i + 1) / 2 + j.
INLINE void tile_pair(index_t p, int* i, int* j) {
    int row = (int)((sqrt(8.0 * (double)p + 1.0) - 1.0) * 0.5);
    while ((index_t)row * (row + 1) / 2 > p) row--;
    while ((index_t)(row + 1) * (row + 2) / 2 <= p) row++;
    *i = row;
    *j = (int)(p - (index_t)row * (row + 1) / 2);
}

// result[b] = (max |H_ij - H_ji|, whether it is finite).  The diagonal is compared with itself, and
// infinities with infinities give NaN, so that nothing that is not finite escapes.  The maximum is
// one of bits, which has no order to depend on; result[b] holds (0, 1) before.
// n^2 elements read; a block has one pair of tiles, grid (pairs, b).
KERNEL void __launch_bounds__(256)
asymmetry(const REAL* __restrict__ H, int n, REAL* __restrict__ result) {
    __shared__ REAL mirrored[TILE][TILE + 1];
    __shared__ bits_t parts[TILE * HIGH / 32];
    int a, b;
    tile_pair(blockIdx.x, &a, &b);
    a *= TILE;
    b *= TILE;
    const int x = threadIdx.x;
    H += (index_t)blockIdx.y * n * n;
    result += 2 * (index_t)blockIdx.y;

    REAL own[PER];
#pragma unroll
    for (int s = 0; s < PER; s++) {
        const int i = a + threadIdx.y + HIGH * s, j = b + x;
        own[s] = i < n && j < n ? H[(index_t)i * n + j] : (REAL)0;
    }
#pragma unroll
    for (int s = 0; s < PER; s++) {
        const int y = threadIdx.y + HIGH * s, j = b + y, i = a + x;
        mirrored[y][x] = i < n && j < n ? H[(index_t)j * n + i] : (REAL)0;
    }
    SYNC();
    bits_t most = 0;
#pragma unroll
    for (int s = 0; s < PER; s++) {
        const bits_t found = bits_of(own[s] - mirrored[x][threadIdx.y + HIGH * s]);
        most = found > most ? found : most;
    }
    for (int away = 16; away > 0; away /= 2) {
        const bits_t other = __shfl_xor_sync(0xffffffffu, most, away);
        most = other > most ? other : most;
    }
    const int thread = threadIdx.y * TILE + x;
    if (thread % 32 == 0) parts[thread / 32] = most;
    SYNC();
    if (thread == 0) {
        for (int w = 1; w < TILE * HIGH / 32; w++) most = parts[w] > most ? parts[w] : most;
        if (most > 0) atomicMax(reinterpret_cast<bits_t*>(result), most);
        if (most >= infinite((REAL)0)) result[1] = 0;
    }
}

// found[0] += the elements of X that are not finite, counted to LIMIT in a block: the sum cannot
// wrap around to zero.  One pass; 8 loads of a thread are on their way at a time.
#define LIMIT (1 << 19)
#define LOADS 8
KERNEL void __launch_bounds__(256)
not_finite(const REAL* __restrict__ X, index_t size, int* __restrict__ found) {
    const index_t step = (index_t)gridDim.x * blockDim.x;
    const index_t first = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    int bad = 0;
    for (index_t k = first; k < size; k += LOADS * step) {
        REAL x[LOADS];
#pragma unroll
        for (int s = 0; s < LOADS; s++) x[s] = k + s * step < size ? X[k + s * step] : (REAL)0;
#pragma unroll
        for (int s = 0; s < LOADS; s++) bad += bits_of(x[s]) >= infinite((REAL)0);
        bad = min(bad, LIMIT / 256);
    }
    if (bad > 0) atomicAdd(found, bad);
}

// A[j, i] = H[order[n-1-j], order[n-1-i]], + shift[n-1-j] where i = j, for i >= j; zero for i < j.
// H is (b, h, h), A (b, n, n), n <= h.  A block has row j: it reads one row of H and writes one of
// A, and order from the caches.  With `staged` the row of H is brought into shared memory whole,
// where its permuted elements cost no sectors of 32 bytes each; near the end of A, where few are
// wanted, they are fetched one by one.  grid (n, b).
KERNEL void __launch_bounds__(256)
reverse_rows(const REAL* __restrict__ H, const index_t* __restrict__ order,
             const double* __restrict__ shift, int h, int n, int staged, double* __restrict__ A) {
    DYNAMIC_SHARED(REAL, row);
    const int j = blockIdx.x;
    H += (index_t)blockIdx.y * h * h;
    order += (index_t)blockIdx.y * n;
    shift += (index_t)blockIdx.y * n;
    A += ((index_t)blockIdx.y * n + j) * n;
    H += order[n - 1 - j] * h;
    staged = staged && (index_t)(n - j) * 8 > h;
    if (staged) {
        for (int k = threadIdx.x; k < h; k += blockDim.x) row[k] = H[k];
        SYNC();
    }
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        double value = 0;
        if (i >= j) {
            const index_t q = order[n - 1 - i];
            value = (double)(staged ? row[q] : H[q]);
        }
        A[i] = i == j ? value + shift[n - 1 - j] : value;
    }
}

// T[i, k] = A[n-1-k, n-1-i] / A[n-1-k, n-1-k] for i <= k, zero for i > k; D[k] = A[n-1-k, n-1-k]^2.
// n^2 / 2 doubles read, n^2 of T written.  grid (tiles of k, tiles of i, b).
KERNEL void __launch_bounds__(256)
unit_rows(const double* __restrict__ A, int n, REAL* __restrict__ T, double* __restrict__ D) {
    __shared__ double tile[TILE][TILE + 1];
    const int k0 = blockIdx.x * TILE, i0 = blockIdx.y * TILE, x = threadIdx.x;
    A += (index_t)blockIdx.z * n * n;
    T += (index_t)blockIdx.z * n * n;
    if (i0 <= k0) {
#pragma unroll
        for (int s = 0; s < PER; s++) {
            const int y = threadIdx.y + HIGH * s, k = k0 + y, i = i0 + x;
            if (k < n && i <= k) {
                const double* row = A + (index_t)(n - 1 - k) * n;
                tile[y][x] = row[n - 1 - i] / row[n - 1 - k];
            }
        }
    }
    SYNC();
    const int k = k0 + x;
    if (k >= n) return;
#pragma unroll
    for (int s = 0; s < PER; s++) {
        const int y = threadIdx.y + HIGH * s, i = i0 + y;
        if (i < n) T[(index_t)i * n + k] = i <= k ? (REAL)tile[x][y] : (REAL)0;
    }
    if (i0 == k0 && threadIdx.y == 0) {
        const double pivot = A[(index_t)(n - 1 - k) * n + n - 1 - k];
        D[(index_t)blockIdx.z * n + k] = pivot * pivot;
    }
}

// U[b, c] = A[n-1-k, n-1-i] / A[n-1-k, n-1-k], i = place[b] and k = place[c], for b < c where both
// are columns; zero elsewhere.  A is (b, n, n), U (b, N, N), place (N,) with -1 for padding.
// n^2 / 2 doubles read, N^2 of U written.  grid (tiles of c, tiles of b, b).
KERNEL void __launch_bounds__(256)
pack_feedback(const double* __restrict__ A, const index_t* __restrict__ place, int n, int N,
              REAL* __restrict__ U) {
    __shared__ double tile[TILE][TILE + 1];
    __shared__ double inverse[TILE];      // 1 / pivot of column c
    __shared__ int row_of[TILE], at[TILE];  // where A has columns c and b, or -1
    const int c0 = blockIdx.x * TILE, b0 = blockIdx.y * TILE, x = threadIdx.x;
    A += (index_t)blockIdx.z * n * n;
    U += (index_t)blockIdx.z * N * N;
    const bool filled = b0 <= c0;
    if (filled) {
        if (threadIdx.y < 2) {
            const int c = (threadIdx.y == 0 ? c0 : b0) + x;
            const int k = c < N ? (int)place[c] : -1, reversed = k >= 0 ? n - 1 - k : -1;
            if (threadIdx.y == 0) {
                row_of[x] = reversed;
                inverse[x] = k >= 0 ? 1.0 / A[(index_t)reversed * n + reversed] : 0.0;
            } else {
                at[x] = reversed;
            }
        }
        SYNC();
#pragma unroll
        for (int s = 0; s < PER; s++) {
            const int y = threadIdx.y + HIGH * s;
            const bool wanted = b0 + x < c0 + y && row_of[y] >= 0 && at[x] >= 0;
            tile[y][x] = wanted ? A[(index_t)row_of[y] * n + at[x]] * inverse[y] : 0.0;
        }
        SYNC();
    }
    if (c0 + x >= N) return;
#pragma unroll
    for (int s = 0; s < PER; s++) {
        const int y = threadIdx.y + HIGH * s, b = b0 + y;
        if (b < N) U[(index_t)b * N + c0 + x] = filled ? (REAL)tile[x][y] : (REAL)0;
    }
}

// A[i, j] = A[j, i] for j < i: n^2 / 2 elements read and written.  grid (pairs of tiles, b).
KERNEL void __launch_bounds__(256) mirror(REAL* __restrict__ A, int n) {
    __shared__ REAL tile[TILE][TILE + 1];
    int a, b;
    tile_pair(blockIdx.x, &a, &b);
    a *= TILE;
    b *= TILE;
    const int x = threadIdx.x;
    A += (index_t)blockIdx.y * n * n;
#pragma unroll
    for (int s = 0; s < PER; s++) {
        const int y = threadIdx.y + HIGH * s, j = b + y, i = a + x;
        if (j < i && i < n) tile[y][x] = A[(index_t)j * n + i];
    }
    SYNC();
#pragma unroll
    for (int s = 0; s < PER; s++) {
        const int y = threadIdx.y + HIGH * s, i = a + y, j = b + x;
        if (j < i && i < n) A[(index_t)i * n + j] = tile[x][y];
    }
}
