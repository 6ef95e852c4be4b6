// The update of the targets that are not yet rounded by the errors of a block: a matrix product.

constexpr int LANES = 512 / (int)sizeof(REAL);  // rows of a tile
constexpr int WIDE = 16 / (int)sizeof(REAL);    // elements of a vector load
constexpr int WARP = 32;

struct alignas(16) Vector {
    REAL v[WIDE];
};

INLINE const Vector& vector_at(const REAL* p) { return *reinterpret_cast<const Vector*>(p); }

// F[:, c1:] += E[:, c0:c1] U[c0:c1, c1:], K = c1 - c0 in ascending order, chains begun from F.
// 2 m K (N - c1) flops; each element of F is read and written once for 2 K of them, so that at
// K = 128 the arithmetic of an H200 at its peak takes less than half of the memory's rate.
// A block of 128 threads does LANES x 128 of F.  Both operands have the index of F contiguous, so
// pieces of STEPS rows go to shared memory as they are, two buffers, the next piece being in
// registers while one is worked on.  A warp has 64 lanes x 64 columns (32 in float64), a thread 8
// lanes x 16 columns (8), in vectors that are apart so that each load of 8 neighbouring threads
// is of 128 neighbouring bytes: 24 elements read from shared memory for 128 multiply-adds.
constexpr int STEPS = 8;
constexpr int WIDTH = 128;                       // columns of a block
constexpr int THREADS = 128;
constexpr int TALL = 8 / WIDE;                   // vectors of lanes of a thread
constexpr int ACROSS = 4;                        // vectors of columns of a thread
constexpr int LANES_APART = 8 * WIDE;
constexpr int COLUMNS_APART = 4 * WIDE;
constexpr int E_PARTS = LANES / WIDE, U_PARTS = WIDTH / WIDE;  // vectors in a row of a piece
constexpr int E_LOADS = STEPS * E_PARTS / THREADS, U_LOADS = STEPS * U_PARTS / THREADS;

struct Piece {
    Vector e[E_LOADS], u[U_LOADS];
};

// Read `steps` <= STEPS rows of E and of U, of which `left` columns are there.
INLINE void read_piece(Piece& piece, const REAL* E, const REAL* U, int N, int steps, int left) {
#pragma unroll
    for (int i = 0; i < E_LOADS; ++i) {
        const int at = i * THREADS + threadIdx.x;
        if (at / E_PARTS < steps) piece.e[i] = vector_at(E + at * WIDE);
    }
#pragma unroll
    for (int i = 0; i < U_LOADS; ++i) {
        const int at = i * THREADS + threadIdx.x, row = at / U_PARTS, column = at % U_PARTS * WIDE;
        piece.u[i] = Vector();
        if (row < steps && column < left) piece.u[i] = vector_at(U + (index_t)row * N + column);
    }
}

KERNEL void __launch_bounds__(THREADS, 2)
update(REAL* F, const REAL* __restrict__ Z, const REAL* __restrict__ U, index_t apart, int tiles,
       int N, int c0, int c1) {
    __shared__ Vector E_rows[2][STEPS * E_PARTS], U_rows[2][STEPS * U_PARTS];
    const int x = threadIdx.x, warp = x / WARP, b = blockIdx.z;
    const int first = c1 + blockIdx.x * WIDTH, left = N - first;
    const index_t t = (index_t)b * tiles + blockIdx.y;
    constexpr int BESIDE = LANES / 64;  // warps that share columns
    const int lane = warp % BESIDE * 64 + x % 8 * WIDE;
    const int column = warp / BESIDE * (COLUMNS_APART * ACROSS) + x % WARP / 8 * WIDE;
    const REAL* E = Z + (t * N + c0) * LANES;
    U += b * apart + (index_t)c0 * N + first;
    F += (t * N + first) * LANES;

    Piece piece;
    read_piece(piece, E, U, N, min(STEPS, c1 - c0), left);
    Vector f[ACROSS * WIDE][TALL];
#pragma unroll
    for (int j = 0; j < ACROSS * WIDE; ++j) {
        const int c = column + j / WIDE * COLUMNS_APART + j % WIDE;
#pragma unroll
        for (int i = 0; i < TALL; ++i) {
            f[j][i] = Vector();
            if (c < left) f[j][i] = vector_at(F + c * LANES + lane + i * LANES_APART);
        }
    }
    int buffer = 0;
    for (int k0 = c0; k0 < c1; k0 += STEPS, buffer ^= 1) {
#pragma unroll
        for (int i = 0; i < E_LOADS; ++i) E_rows[buffer][i * THREADS + x] = piece.e[i];
#pragma unroll
        for (int i = 0; i < U_LOADS; ++i) U_rows[buffer][i * THREADS + x] = piece.u[i];
        SYNC();  // one a piece: who is here has left the other buffer, which is written next
        E += STEPS * LANES;
        U += (index_t)STEPS * N;
        const int after = c1 - k0 - STEPS;
        if (after > 0) read_piece(piece, E, U, N, min(STEPS, after), left);
#pragma unroll
        for (int half = 0; half < STEPS; half += 4) {
            if (half && c1 - k0 < STEPS) break;  // spans are multiples of 4
#pragma unroll
            for (int k = half; k < half + 4; ++k) {
                Vector e[TALL], u[ACROSS];
#pragma unroll
                for (int i = 0; i < TALL; ++i)
                    e[i] = E_rows[buffer][k * E_PARTS + (lane + i * LANES_APART) / WIDE];
#pragma unroll
                for (int j = 0; j < ACROSS; ++j)
                    u[j] = U_rows[buffer][k * U_PARTS + (column + j * COLUMNS_APART) / WIDE];
#pragma unroll
                for (int j = 0; j < ACROSS * WIDE; ++j)
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        REAL& sum = f[j][i / WIDE].v[i % WIDE];
                        sum = FMA(e[i / WIDE].v[i % WIDE], u[j / WIDE].v[j % WIDE], sum);
                    }
            }
        }
    }
#pragma unroll
    for (int j = 0; j < ACROSS * WIDE; ++j) {
        const int c = column + j / WIDE * COLUMNS_APART + j % WIDE;
#pragma unroll
        for (int i = 0; i < TALL; ++i)
            if (c < left)
                *reinterpret_cast<Vector*>(F + c * LANES + lane + i * LANES_APART) = f[j][i];
    }
}
