// Operations of a warp, atomics, bits and integers: on the fibers of cuda_standin.h.

namespace standin {

// -- exchanges within a warp ---------------------------------------------------------------------

static inline void check_mask(unsigned mask, int width, int line) {
    if (mask != 0xffffffffu || width != WARP)
        fail("line %d: the mask of a warp's operation must be 0xffffffff and its width 32; "
             "got 0x%x and %d", line, mask, width);
}

// Give the value of a lane of the warp; a lane that is not there has every bit set.
// Two slots in turn: no thread is two barriers ahead of another, so no value is lost.
template <class T, class Pick>
static inline T exchange(unsigned mask, T value, int width, int line, Pick pick) {
    check_mask(mask, width, line);
    Fiber* self = current;
    const int lane = number(self) % WARP;
    auto slot = slots[number(self) / WARP][self->exchanges++ & 1];
    const int threads = int(blockDim.x * blockDim.y * blockDim.z), first = number(self) - lane;
    memcpy(slot[lane], &value, sizeof value);
    leave(IN_WARP, line);
    const int from = pick(lane);
    if (from < 0 || from >= WARP) return value;
    if (first + from >= threads) memset(&value, 0xff, sizeof value);
    else memcpy(&value, slot[from], sizeof value);
    return value;
}

static inline unsigned ballot(unsigned mask, int predicate, int line) {
    check_mask(mask, WARP, line);
    Fiber* self = current;
    const int lane = number(self) % WARP, first = number(self) - lane;
    auto slot = slots[number(self) / WARP][self->exchanges++ & 1];
    slot[lane][0] = predicate != 0;
    leave(IN_WARP, line);
    const int threads = int(blockDim.x * blockDim.y * blockDim.z);
    unsigned bits = 0;
    for (int i = 0; i < WARP && first + i < threads; ++i) bits |= unsigned(slot[i][0]) << i;
    return bits;
}

static inline unsigned present() {
    const int threads = int(blockDim.x * blockDim.y * blockDim.z);
    const int left = threads - number(current) / WARP * WARP;
    return left >= WARP ? 0xffffffffu : (1u << left) - 1;
}

}  // namespace standin

#define STANDIN_LINE int line = __builtin_LINE()
static inline void __syncthreads(STANDIN_LINE) { standin::leave(standin::IN_BLOCK, line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, STANDIN_LINE) {
    standin::check_mask(mask, 32, line);
    standin::leave(standin::IN_WARP, line);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline unsigned __ballot_sync(unsigned mask, int p, STANDIN_LINE) {
    return standin::ballot(mask, p, line);
}
static inline int __any_sync(unsigned mask, int p, STANDIN_LINE) {
    return standin::ballot(mask, p, line) != 0;
}
static inline int __all_sync(unsigned mask, int p, STANDIN_LINE) {
    return standin::ballot(mask, p, line) == standin::present();
}

#define STANDIN_SHUFFLES(T)                                                                      \
    static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, STANDIN_LINE) {    \
        return standin::exchange(mask, v, width, line, [=](int) { return from & 31; });          \
    }                                                                                            \
    static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, STANDIN_LINE) { \
        return standin::exchange(mask, v, width, line, [=](int lane) { return lane ^ bits; });   \
    }                                                                                            \
    static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32,            \
                                     STANDIN_LINE) {                                             \
        return standin::exchange(mask, v, width, line, [=](int lane) { return lane + int(by); }); \
    }                                                                                            \
    static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32,              \
                                   STANDIN_LINE) {                                               \
        return standin::exchange(mask, v, width, line, [=](int lane) { return lane - int(by); }); \
    }
STANDIN_SHUFFLES(int)
STANDIN_SHUFFLES(unsigned)
STANDIN_SHUFFLES(long)
STANDIN_SHUFFLES(unsigned long)
STANDIN_SHUFFLES(long long)
STANDIN_SHUFFLES(unsigned long long)
STANDIN_SHUFFLES(float)
STANDIN_SHUFFLES(double)

// -- atomics: the threads take turns, so nothing is needed ----------------------------------------

#define STANDIN_ATOMIC(name, T, next)                  \
    static inline T name(T* place, T value) {          \
        const T old = *place;                          \
        *place = next;                                 \
        return old;                                    \
    }
#define STANDIN_ATOMICS(T)                             \
    STANDIN_ATOMIC(atomicMin, T, value < old ? value : old) \
    STANDIN_ATOMIC(atomicMax, T, value > old ? value : old) \
    STANDIN_ATOMIC(atomicExch, T, value)               \
    STANDIN_ATOMIC(atomicOr, T, old | value)           \
    STANDIN_ATOMIC(atomicAnd, T, old & value)          \
    static inline T atomicCAS(T* place, T compare, T value) { \
        const T old = *place;                          \
        if (old == compare) *place = value;            \
        return old;                                    \
    }
STANDIN_ATOMICS(int)
STANDIN_ATOMICS(unsigned)
STANDIN_ATOMICS(unsigned long long)
STANDIN_ATOMIC(atomicAdd, int, int(unsigned(old) + unsigned(value)))
STANDIN_ATOMIC(atomicAdd, unsigned, old + value)
STANDIN_ATOMIC(atomicAdd, unsigned long long, old + value)
STANDIN_ATOMIC(atomicAdd, float, old + value)
STANDIN_ATOMIC(atomicAdd, double, old + value)

// -- bits and integers ----------------------------------------------------------------------------

#define STANDIN_CAST(name, to, from)   \
    static inline to name(from value) { \
        to bits;                       \
        memcpy(&bits, &value, sizeof bits); \
        return bits;                   \
    }
STANDIN_CAST(__float_as_int, int, float)
STANDIN_CAST(__int_as_float, float, int)
STANDIN_CAST(__float_as_uint, unsigned, float)
STANDIN_CAST(__uint_as_float, float, unsigned)
STANDIN_CAST(__double_as_longlong, long long, double)
STANDIN_CAST(__longlong_as_double, double, long long)

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned((unsigned long long)a * b >> 32);
}
template <class T>
static inline T __ldg(const T* place) { return *place; }

#define STANDIN_EXTREMES(T)                                         \
    static inline T min(T a, T b) { return b < a ? b : a; }         \
    static inline T max(T a, T b) { return a < b ? b : a; }
STANDIN_EXTREMES(int)
STANDIN_EXTREMES(unsigned)
STANDIN_EXTREMES(long)
STANDIN_EXTREMES(unsigned long)
STANDIN_EXTREMES(long long)
STANDIN_EXTREMES(unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// NVRTC has none of these.
#undef NAN
#undef INFINITY
