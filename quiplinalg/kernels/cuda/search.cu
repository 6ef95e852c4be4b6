// The search of the scales of uniform grids: the definitions of cpu_grid.py.

#define WARPS 8            // of a block
#define FULL 0xffffffffu
#define RANGES 80          // tried by the clip search: p = 1, 0.99 .. 0.21
#define HALF 16            // lanes; each has OWN ranges
#define OWN (RANGES / HALF)
#define FLUSH 8            // times 16 elements that are summed in float before they go to double

// x rounded to `significant` bits as float16 would (11 bits, least exponent -14).
INLINE double stored(double x, int significant) {
    if (significant == 0 || !(x > 0)) return x;
    const int exponent = (int)((__double_as_longlong(x) >> 52) & 0x7ff) - 1023;
    const int last = (exponent > -14 ? exponent : -14) - significant + 1;
    const double step = __longlong_as_double((long long)(last + 1023) << 52);
    return rint(x / step) * step;
}

// Scale and zero of the range (1 - shrink/100) * [least, most].
INLINE void range_at(int shrink, REAL least, REAL most, REAL maxq, int symmetric, int significant,
                     REAL* scale, REAL* zero) {
    const REAL p = (REAL)1 - (REAL)shrink / (REAL)100;
    *scale = (REAL)stored((double)(p * (most - least) / maxq), significant);
    *zero = symmetric ? (maxq + 1) / 2 : RINT(-p * least / *scale);
}

INLINE void widen(REAL* least, REAL* most, REAL x, REAL y) {
    *least = x < *least ? x : *least;
    *most = y > *most ? y : *most;
}

// The ends of a range over a warp: those of the lanes, put together.
INLINE void ends_of_warp(REAL* least, REAL* most) {
    for (int away = 16; away > 0; away /= 2) {
        const REAL x = __shfl_xor_sync(FULL, *least, away), y = __shfl_xor_sync(FULL, *most, away);
        widen(least, most, x, y);
    }
}

INLINE void ends_of(const REAL* X, index_t count, index_t first, index_t step, REAL* least,
                    REAL* most) {
    *least = *most = 0;
#pragma unroll 4
    for (index_t k = first + threadIdx.x % 32; k < count; k += step) {
        const REAL x = X[k];
        widen(least, most, x, x);
    }
    ends_of_warp(least, most);
}

// The range that is shrunk: symmetric on request, [-1, 1] for a row of zeros.
INLINE void settle(int symmetric, REAL* least, REAL* most) {
    if (symmetric) {
        *most = -*least > *most ? -*least : *most;
        if (*least < 0) *least = -*most;
    }
    if (*least == 0 && *most == 0) {
        *least = -1;
        *most = 1;
    }
}

// rint(x) for |x| < 2^22, in two additions.
#define MAGIC 12582912.0f
INLINE float nearby(float x) { return (x + MAGIC) - MAGIC; }

// x^exponent, x >= 0, to a few 1e-6 relative: 2^(exponent log2 x), both by polynomials on [0, 1].
INLINE float power_of(float x, float exponent) {
    const int bits = __float_as_int(x);
    const float u = __int_as_float((bits & 0x7fffff) | 0x3f800000) - 1.0f;
    float log2 = -0.0245685347f;
    log2 = FMA(log2, u, 0.1176130841f);
    log2 = FMA(log2, u, -0.2726975649f);
    log2 = FMA(log2, u, 0.4545084922f);
    log2 = FMA(log2, u, -0.7173127803f);
    log2 = FMA(log2, u, 1.4424535262f);
    log2 = FMA(log2, u, 2.4434387e-06f);
    const float whole = __int_as_float((bits >> 23) | 0x4b000000) - (8388608.0f + 127.0f);
    float y = exponent * (log2 + whole);
    y = y > -126.0f ? y : -126.0f;
    const float shifted = (y - 0.5f) + MAGIC;  // its last bits are floor(y)
    const float v = y - (shifted - MAGIC);
    float power = 0.0018937541f;
    power = FMA(power, v, 0.0089495904f);
    power = FMA(power, v, 0.0558603371f);
    power = FMA(power, v, 0.2401418182f);
    power = FMA(power, v, 0.6931544897f);
    power = FMA(power, v, 0.9999998984f);
    return __int_as_float(__float_as_int(power) + (int)((unsigned)__float_as_int(shifted) << 23));
}

// e^2.4 = e^2 P(e) on [0, 1/2], P by minimax.
INLINE float power_inside(float e) {
    float power = 16.22999265f;
    power = FMA(power, e, -30.26203595f);
    power = FMA(power, e, 23.03467374f);
    power = FMA(power, e, -9.541039415f);
    power = FMA(power, e, 2.939474396f);
    power = FMA(power, e, 0.1782818076f);
    return e * e * power;
}

// The ranges of a lane: shrink = lane % 16 + 16 k.  x is in units of the reach of the row, the
// larger of its ends; x * inverse is in steps of the grid, whose levels are low .. high.
struct Ranges {
    float inverse[OWN], low[OWN], high[OWN], held[OWN];
    float unit, upper, lower;  // x = w * unit; max(x * upper, x * lower) is the share x needs
};

// The share of the ends that all ranges of a half-warp's row k hold, half a step beyond their last
// levels, goes to held[k], so that errors of elements within are at most half a step; with norms
// other than 2.4 nothing is to be taken as held.
INLINE Ranges ranges_of(REAL least, REAL most, REAL maxq, int symmetric, int significant,
                        bool known) {
    Ranges r;
    const REAL reach = most > -least ? most : -least;
    r.unit = (float)(1 / reach);
    r.upper = most > 0 ? (float)(reach / most) : 0.0f;
    r.lower = least < 0 ? (float)(reach / least) : 0.0f;
    float held = 2.0f;
#pragma unroll
    for (int k = 0; k < OWN; k++) {
        REAL scale, zero;
        range_at(threadIdx.x % HALF + HALF * k, least, most, maxq, symmetric, significant, &scale,
                 &zero);
        const bool valid = scale > 0;
        r.inverse[k] = valid ? (float)(reach / scale) : 0.0f;
        r.low[k] = valid ? (float)-zero : 0.0f;
        r.high[k] = valid ? (float)(maxq - zero) : 0.0f;
        if (valid && most > 0) held = fminf(held, (r.high[k] + 0.5f) * (float)(scale / most));
        if (valid && least < 0) held = fminf(held, (0.5f - r.low[k]) * (float)(scale / -least));
        for (int away = HALF / 2; away > 0; away /= 2)
            held = fminf(held, __shfl_xor_sync(FULL, held, away));
        r.held[k] = known ? held * 0.99999f : -1.0f;
    }
    return r;
}

// Add |error|^norm of x, in steps, to the sums of a lane: of the first INSIDE ranges by the
// polynomial of unclipped errors, of the others by the general one.
template <int INSIDE>
INLINE void add_errors(const Ranges& r, float x, bool there, float norm, float* sums) {
#pragma unroll
    for (int k = 0; k < OWN; k++) {
        const float t = x * r.inverse[k];
        if (k < INSIDE) {
            sums[k] += power_inside(fabsf(t - nearby(t)));
        } else {
            const float level = fminf(fmaxf(nearby(t), r.low[k]), r.high[k]);
            const float power = power_of(fabsf(t - level), norm);
            sums[k] += there ? power : 0.0f;
        }
    }
}

// total[k] = sum |error|^norm in steps over elements first .. of a row, 32 of them every `step`.
// A warp loads 32 elements at a time.  Each half of it goes through 16 of them: a lane gets the
// element of its half by a shuffle, once for 5 ranges, so that all branches are those of the warp.
// About 12 instructions for an element and range where it is held, 33 where it may be clipped.
// Sums are float over 128 elements, then double: in a fixed order.
INLINE void sum_errors(const Ranges& r, const REAL* X, index_t count, index_t first, index_t step,
                       float norm, double* total) {
    const int lane = threadIdx.x % 32, half = lane & HALF;
    float sums[OWN];
#pragma unroll
    for (int k = 0; k < OWN; k++) total[k] = sums[k] = 0;
    int batch = 0;
    for (index_t base = first; base < count; base += step) {
        const float x = base + lane < count ? (float)X[base + lane] * r.unit : 0.0f;
        const float need = fmaxf(x * r.upper, x * r.lower);
        int inside = 0;  // held falls with k
#pragma unroll
        for (int k = 0; k < OWN; k++) inside += need <= r.held[k];
        inside = min(inside, __shfl_xor_sync(FULL, inside, HALF));
        const int left = count - base < 32 ? (int)(count - base) : 32;
        const int steps = min(left, HALF);
        for (int i = 0; i < steps; i++) {
            const float y = __shfl_sync(FULL, x, half + i);
            const bool there = half + i < left;
            switch (__shfl_sync(FULL, inside, i)) {  // the same in all lanes
                case 0: add_errors<0>(r, y, there, norm, sums); break;
                case 1: add_errors<1>(r, y, there, norm, sums); break;
                case 2: add_errors<2>(r, y, there, norm, sums); break;
                case 3: add_errors<3>(r, y, there, norm, sums); break;
                case 4: add_errors<4>(r, y, there, norm, sums); break;
                default: add_errors<5>(r, y, there, norm, sums);
            }
        }
        if (++batch % FLUSH == 0) {
#pragma unroll
            for (int k = 0; k < OWN; k++) {
                total[k] += (double)sums[k];
                sums[k] = 0;
            }
        }
    }
#pragma unroll
    for (int k = 0; k < OWN; k++) {
        total[k] += (double)sums[k];
        total[k] += __shfl_xor_sync(FULL, total[k], HALF);
    }
}

// The shrink of the range of least sum, the least shrink at equality; 0 where no range is one.
// What `count` elements without error sum to, because power_of(0) is not zero, is taken as zero.
INLINE int best_range(const Ranges& r, const double* total, index_t count, double norm) {
    const double least = (double)count * (double)power_of(0.0f, (float)norm) * 1.001;
    double best = __longlong_as_double(0x7ff0000000000000ll);
    int shrink = RANGES;
#pragma unroll
    for (int k = 0; k < OWN; k++) {
        if (!(r.inverse[k] > 0)) continue;
        const double weight = (double)powf(1.0f / r.inverse[k], (float)norm);
        const double error = total[k] > least ? weight * total[k] : 0.0;
        if (error < best) {
            best = error;
            shrink = threadIdx.x % HALF + HALF * k;
        }
    }
    for (int away = HALF / 2; away > 0; away /= 2) {
        const double error = __shfl_xor_sync(FULL, best, away);
        const int other = __shfl_xor_sync(FULL, shrink, away);
        if (error < best || (error == best && other < shrink)) {
            best = error;
            shrink = other;
        }
    }
    return shrink < RANGES ? shrink : 0;
}

// Scale and zero of every group of `size` columns of every row of X, whose rows are `stride`
// elements apart: min-max, or with `clip` the range of least sum |error|^norm, the larger at
// equality.  Unit u, group u % groups of row u / groups, is done by `warps` warps of a block
// (1, 2, 4 or 8); neighbouring warps read neighbouring columns.  Without clip a row is read once;
// with it twice, from a cache the second time, and there are 80 evaluations for each element.
KERNEL void __launch_bounds__(256)
fit(const REAL* __restrict__ X, index_t stride, index_t n, index_t size, index_t groups,
    index_t units, int warps, REAL maxq, int symmetric, int clip, double norm, int significant,
    REAL* __restrict__ scale, REAL* __restrict__ zero) {
    __shared__ REAL ends[WARPS][2];
    __shared__ double sums[WARPS][RANGES];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % warps;
    const index_t unit = (index_t)blockIdx.x * (WARPS / warps) + warp / warps;
    const index_t row = unit / groups, start = unit % groups * size;
    index_t count = unit < units ? n - start : 0;
    count = count < size ? count : size;
    X += row * stride + start;

    REAL least, most;
    ends_of(X, count, 32 * part, 32 * warps, &least, &most);
    if (lane == 0) {
        ends[warp][0] = least;
        ends[warp][1] = most;
    }
    SYNC();
    for (int w = warp - part; w < warp - part + warps; w++)
        widen(&least, &most, ends[w][0], ends[w][1]);
    settle(symmetric, &least, &most);

    int shrink = 0;
    if (clip) {
        const Ranges r = ranges_of(least, most, maxq, symmetric, significant, norm == 2.4);
        double total[OWN];
        sum_errors(r, X, count, 32 * part, 32 * warps, (float)norm, total);
#pragma unroll
        for (int k = 0; k < OWN; k++)
            if (lane < HALF) sums[warp][lane + HALF * k] = total[k];
        SYNC();
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            total[k] = 0;
            for (int w = 0; w < warps; w++)
                total[k] += sums[warp - part + w][lane % HALF + HALF * k];
        }
        shrink = best_range(r, total, count, norm);
    }
    if (unit < units && part == 0 && lane == 0) {
        REAL s, o;
        range_at(0, least, most, maxq, symmetric, significant, &s, &o);
        if (s > 0 && shrink > 0)
            range_at(shrink, least, most, maxq, symmetric, significant, &s, &o);
        scale[unit] = s;
        zero[unit] = o;
    }
}

// The same for few long rows, in `pieces` of `length` columns: ends[row, piece] = (least, most).
// grid (pieces, rows) here and in the next; X is read once here and once there.
KERNEL void __launch_bounds__(256)
piece_ends(const REAL* __restrict__ X, index_t stride, index_t n, index_t length,
           REAL* __restrict__ ends) {
    __shared__ REAL found[WARPS][2];
    const int warp = threadIdx.x / 32;
    const index_t start = blockIdx.x * length, left = n - start;
    REAL least, most;
    ends_of(X + blockIdx.y * stride + start, left < length ? left : length, 32 * warp, 32 * WARPS,
            &least, &most);
    if (threadIdx.x % 32 == 0) {
        found[warp][0] = least;
        found[warp][1] = most;
    }
    SYNC();
    if (threadIdx.x == 0) {
        for (int w = 1; w < WARPS; w++) widen(&least, &most, found[w][0], found[w][1]);
        ends += 2 * ((index_t)blockIdx.y * gridDim.x + blockIdx.x);
        ends[0] = least;
        ends[1] = most;
    }
}

// The ends of a row from those of its pieces.
INLINE void ends_of_pieces(const REAL* ends, int pieces, int symmetric, REAL* least, REAL* most) {
    *least = *most = 0;
    for (int p = threadIdx.x % 32; p < pieces; p += 32)
        widen(least, most, ends[2 * p], ends[2 * p + 1]);
    ends_of_warp(least, most);
    settle(symmetric, least, most);
}

// sums[row, piece, shrink] = sum |error|^norm in steps.
KERNEL void __launch_bounds__(256)
piece_sums(const REAL* __restrict__ X, index_t stride, index_t n, index_t length, REAL maxq,
           int symmetric, double norm, int significant, const REAL* __restrict__ ends,
           double* __restrict__ sums) {
    __shared__ double found[WARPS][RANGES];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pieces = gridDim.x;
    const index_t start = blockIdx.x * length, left = n - start;
    REAL least, most;
    ends_of_pieces(ends + 2 * (index_t)blockIdx.y * pieces, pieces, symmetric, &least, &most);
    const Ranges r = ranges_of(least, most, maxq, symmetric, significant, norm == 2.4);
    double total[OWN];
    sum_errors(r, X + blockIdx.y * stride + start, left < length ? left : length, 32 * warp,
               32 * WARPS, (float)norm, total);
#pragma unroll
    for (int k = 0; k < OWN; k++)
        if (lane < HALF) found[warp][lane + HALF * k] = total[k];
    SYNC();
    if (threadIdx.x < RANGES) {
        double sum = 0;
        for (int w = 0; w < WARPS; w++) sum += found[w][threadIdx.x];
        sums[((index_t)blockIdx.y * pieces + blockIdx.x) * RANGES + threadIdx.x] = sum;
    }
}

// Scale and zero of every row from its pieces; a block of one warp has a row, grid (rows).
KERNEL void __launch_bounds__(32)
choose(index_t n, int pieces, REAL maxq, int symmetric, int clip, double norm, int significant,
       const REAL* __restrict__ ends, const double* __restrict__ sums, REAL* __restrict__ scale,
       REAL* __restrict__ zero) {
    const index_t row = blockIdx.x;
    REAL least, most, s, o;
    ends_of_pieces(ends + 2 * row * pieces, pieces, symmetric, &least, &most);
    int shrink = 0;
    if (clip) {
        const Ranges r = ranges_of(least, most, maxq, symmetric, significant, norm == 2.4);
        double total[OWN];
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            total[k] = 0;
            for (int p = 0; p < pieces; p++)
                total[k] += sums[(row * pieces + p) * RANGES + threadIdx.x % HALF + HALF * k];
        }
        shrink = best_range(r, total, n, norm);
    }
    range_at(0, least, most, maxq, symmetric, significant, &s, &o);
    if (s > 0 && shrink > 0) range_at(shrink, least, most, maxq, symmetric, significant, &s, &o);
    if (threadIdx.x == 0) {
        scale[row] = s;
        zero[row] = o;
    }
}
