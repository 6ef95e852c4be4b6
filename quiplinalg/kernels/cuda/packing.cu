// Dense packing of codes of BITS bits, one LSB-first bit stream a row: grids/packing.py.
//
// Eight codes are BITS bytes: in the bytes of a 64-bit word they are brought together in three
// steps (bytes to pairs, pairs to fours, fours to eight) without a loop over codes.  A thread does
// two such words, 16 codes against BITS units of 16 bits; a block of 256 threads 4096 codes against
// 512 BITS bytes.  The packed side of a block passes through shared memory, so that a warp reads
// and writes whole lines on both sides: a 16-byte vector of codes a thread and 4-byte words of
// packed data where rows are aligned for them (`wide`), and bytes in rows that are not and in the
// last block of a row.
// Cost: n (1 + BITS/8) bytes a row, about 60 integer operations for 16 codes.

typedef unsigned long long word_t;

#define THREADS 256
#define CODES 4096                 // of a block
#define UNITS (CODES / 16 * BITS)  // of 16 bits, packed, of a block

// The low `width` bits of every `lane` bits.
INLINE constexpr word_t lanes(int width, int lane) {
    word_t one = (1ull << width) - 1;
    for (int k = lane; k < 64; k *= 2) one |= one << k;
    return one;
}

// BITS bits in each byte of x, to the low 8 BITS bits.
INLINE word_t join(word_t x) {
    constexpr word_t bytes = lanes(8, 16), pairs = lanes(16, 32), fours = lanes(32, 64);
    x = (x & bytes) | ((x & bytes << 8) >> (8 - BITS));
    x = (x & pairs) | ((x & pairs << 16) >> (16 - 2 * BITS));
    return (x & fours) | ((x & fours << 32) >> (32 - 4 * BITS));
}

// The inverse of join; bits of x from 8 BITS on do not matter.
INLINE word_t part(word_t x) {
    constexpr word_t bytes = lanes(BITS, 16), pairs = lanes(2 * BITS, 32);
    constexpr word_t fours = lanes(4 * BITS, 64);
    x = (x & fours) | ((x & fours << 4 * BITS) << (32 - 4 * BITS));
    x = (x & pairs) | ((x & pairs << 2 * BITS) << (16 - 2 * BITS));
    return (x & bytes) | ((x & bytes << BITS) << (8 - BITS));
}

INLINE word_t word(unsigned low, unsigned high) { return low | (word_t)high << 32; }

INLINE word_t load_bytes(const unsigned char* p) {
    word_t x = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) x |= (word_t)p[k] << (8 * k);
    return x;
}

// The largest byte of two words, one of which does not fit, to *worst.
INLINE void report(word_t x, word_t y, int* worst) {
    int largest = 0;
    for (int k = 0; k < 64; k += 8)
        largest = max(largest, max((int)(x >> k & 255), (int)(y >> k & 255)));
    atomicMax(worst, largest);
}

// codes (rows, n) -> packed (rows, width); *worst becomes the largest code that does not fit,
// and is left alone where all do.  A block for each of `chunks` pieces of a row.
KERNEL void pack(const unsigned char* __restrict__ codes, unsigned char* __restrict__ packed,
                 int* worst, index_t n, index_t width, int chunks, int wide) {
    __shared__ int4 held[THREADS];
    __shared__ unsigned short units[UNITS];
    int t = threadIdx.x;
    index_t row = blockIdx.x / chunks, start = (index_t)(blockIdx.x % chunks) * CODES;
    const unsigned char* source = codes + row * n + start;
    unsigned char* target = packed + row * width + start / 8 * BITS;
    int count = n - start < CODES ? (int)(n - start) : CODES;
    bool vectors = wide && count == CODES;

    word_t x, y;
    if (vectors) {
        int4 v = reinterpret_cast<const int4*>(source)[t];
        x = word(v.x, v.y);
        y = word(v.z, v.w);
    } else {
        unsigned char* mine = reinterpret_cast<unsigned char*>(held);
        for (int k = t; k < CODES; k += THREADS) mine[k] = k < count ? source[k] : 0;
        SYNC();
        x = load_bytes(mine + 16 * t);
        y = load_bytes(mine + 16 * t + 8);
    }
    if ((x | y) & ~lanes(BITS, 8)) report(x, y, worst);
    x = join(x & lanes(BITS, 8));
    y = join(y & lanes(BITS, 8));
    word_t low = BITS == 8 ? x : x | y << (8 * BITS % 64);
    word_t high = BITS == 8 ? y : y >> ((64 - 8 * BITS) % 64);
#pragma unroll
    for (int k = 0; k < BITS; ++k)
        units[BITS * t + k] = (unsigned short)((k < 4 ? low : high) >> (16 * (k % 4)));
    SYNC();
    if (vectors) {
        for (int k = t; k < UNITS / 2; k += THREADS) {
            unsigned both = units[2 * k] | (unsigned)units[2 * k + 1] << 16;
            reinterpret_cast<unsigned*>(target)[k] = both;
        }
    } else {
        int filled = (count * BITS + 7) / 8;
        for (int k = t; k < filled; k += THREADS)
            target[k] = (unsigned char)(units[k / 2] >> (8 * (k % 2)));
    }
}

// packed (rows, width) -> codes (rows, n), by the same blocks.
KERNEL void unpack(const unsigned char* __restrict__ packed, unsigned char* __restrict__ codes,
                   index_t n, index_t width, int chunks, int wide) {
    __shared__ int4 held[THREADS];
    __shared__ unsigned short units[UNITS];
    int t = threadIdx.x;
    index_t row = blockIdx.x / chunks, start = (index_t)(blockIdx.x % chunks) * CODES;
    const unsigned char* source = packed + row * width + start / 8 * BITS;
    unsigned char* target = codes + row * n + start;
    int count = n - start < CODES ? (int)(n - start) : CODES;
    bool vectors = wide && count == CODES;

    if (vectors) {
        for (int k = t; k < UNITS / 2; k += THREADS) {
            unsigned both = reinterpret_cast<const unsigned*>(source)[k];
            units[2 * k] = (unsigned short)both;
            units[2 * k + 1] = (unsigned short)(both >> 16);
        }
    } else {
        int filled = (count * BITS + 7) / 8;
        for (int k = t; k < UNITS; k += THREADS) {
            int low = 2 * k < filled ? source[2 * k] : 0;
            int high = 2 * k + 1 < filled ? source[2 * k + 1] : 0;
            units[k] = (unsigned short)(low | high << 8);
        }
    }
    SYNC();
    word_t low = 0, high = 0;
#pragma unroll
    for (int k = 0; k < BITS; ++k)
        (k < 4 ? low : high) |= (word_t)units[BITS * t + k] << (16 * (k % 4));
    word_t x = part(low);
    word_t y = part(BITS == 8 ? high : low >> (8 * BITS % 64) | high << ((64 - 8 * BITS) % 64));
    int4 v = make_int4((int)x, (int)(x >> 32), (int)y, (int)(y >> 32));
    if (vectors) {
        reinterpret_cast<int4*>(target)[t] = v;
    } else {
        held[t] = v;
        SYNC();
        const unsigned char* mine = reinterpret_cast<const unsigned char*>(held);
        for (int k = t; k < count; k += THREADS) target[k] = mine[k];
    }
}
