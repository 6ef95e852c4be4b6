// CUDA's built-ins for g++: a kernel runs on the host, the threads of a block as fibers.
//
// The blocks run one after another, so static storage stands for shared memory; it is filled with
// NaN before each block.  A thread runs until its next barrier, and only then does another: what
// a barrier is missing for shows in one of the orders that they run in.
// A barrier that not all threads reach, an access that traps, and writing past the end of dynamic
// shared memory end the launch with a message.
// CuPy compiles with -ftz=true: where REAL is float, numbers below 2^-126 are zeros, in what is
// read and what is computed (here those of float64 below 2^-1022 too).

#if defined(__x86_64__) && defined(REAL)
#define STANDIN_FLUSHES
#endif
#if defined(__x86_64__) && !defined(STANDIN_PORTABLE)
#define STANDIN_SWITCH  // by a few instructions of its own: swapcontext() makes system calls
#endif

#define STANDIN_HIDDEN __attribute__((visibility("hidden")))
// Neither static nor const: a barrier changes them, and the compiler must not know better.
STANDIN_HIDDEN uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

extern "C" STANDIN_HIDDEN __attribute__((weak)) char __start_standin_shared[];
extern "C" STANDIN_HIDDEN __attribute__((weak)) char __stop_standin_shared[];

namespace standin {

enum State { READY, IN_WARP, IN_BLOCK, DONE };
enum { WARP = 32, MOST = 1024, STACK = (128 << 10) + 2240, GUARD = 4096, LARGEST = 256 << 10 };

struct Fiber {
    State state;
    int line;               // of the barrier that it waits at
    unsigned exchanges;     // how many of a warp's barriers it has passed
    uint3 index;
#ifdef STANDIN_SWITCH
    void* stack;            // its stack pointer while it does not run
#else
    ucontext_t context;
#endif
};

static Fiber fibers[MOST];
static unsigned char slots[MOST / WARP][2][WARP][8];  // what the lanes of a warp exchange
static char* stacks;
static Fiber* volatile current;  // null while none runs
static Fiber scheduler;
static void (*body)(void**);
static void** arguments;
static char* message;
static size_t room;
static void* volatile where;  // the instruction of a trap
STANDIN_HIDDEN __align__(1024) unsigned char dynamic[LARGEST + GUARD];

#ifdef STANDIN_SWITCH
extern "C" STANDIN_HIDDEN void standin_switch(void** from, void* to);
asm(R"(
.text
.hidden standin_switch
.globl standin_switch
.type standin_switch, @function
standin_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size standin_switch, .-standin_switch
)");
static inline void go(Fiber& from, Fiber& to) { standin_switch(&from.stack, to.stack); }
#else
static inline void go(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

static __attribute__((noinline)) void leave(State state, int line) {
    Fiber* self = current;
    self->state = state;
    self->line = line;
    current = nullptr;
    go(*self, scheduler);
}

static void enter() {
    body(arguments);
    leave(DONE, 0);
    abort();
}

static void prepare(Fiber& fiber, int i) {
    // The tops are staggered: at the same place of each stack they would share a cache's set.
    char* top = stacks + size_t(i + 1) * STACK - 256;
    fiber.state = READY;
    fiber.exchanges = 0;
#ifdef STANDIN_SWITCH
    void** words = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(63));
    *--words = nullptr;  // where a return address would be: enter() has the usual alignment
    *--words = reinterpret_cast<void*>(enter);
    words -= 6;
    fiber.stack = words;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks + size_t(i) * STACK;
    fiber.context.uc_stack.ss_size = STACK - 256;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
#endif
}

template <class... T>
static int say(const char* format, T... values) {
    if (!message[0]) snprintf(message, room, format, values...);
    return 1;
}

static inline int number(const Fiber* fiber) { return int(fiber - fibers); }

template <class... T>
static void fail(const char* format, T... values) {  // called by a thread: it never goes on
    say(format, values...);
    leave(DONE, 0);
}

static void trap(int signal, siginfo_t*, void* context) {
    if (!current) {  // not in a kernel
        ::signal(signal, SIG_DFL);
        raise(signal);
        return;
    }
#ifdef __x86_64__
    where = reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#endif
    const char* what = signal == SIGFPE   ? "integer division by zero"
                       : signal == SIGILL ? "undefined behaviour (an index out of the bounds of "
                                            "its array, an overflow, a shift by too much, or a "
                                            "misaligned pointer)"
                                          : "access to memory that is not there, or misaligned";
    fail("%s in block (%u, %u, %u), thread (%u, %u, %u)", what, blockIdx.x, blockIdx.y, blockIdx.z,
         threadIdx.x, threadIdx.y, threadIdx.z);
}

// -- barriers ------------------------------------------------------------------------------------

static int mismatch(const char* what, const Fiber* a, const Fiber* b) {
    const Fiber* two[2] = {a, b};
    char text[2][64];
    for (int i = 0; i < 2; ++i) {
        if (two[i]->state == DONE)
            snprintf(text[i], sizeof text[i], "thread %d has returned", number(two[i]));
        else
            snprintf(text[i], sizeof text[i], "thread %d waits at line %d%s", number(two[i]),
                     two[i]->line, two[i]->state == IN_WARP ? " for its warp" : "");
    }
    return say("barrier divergence in block (%u, %u, %u): not all threads of a %s reach the same "
               "barrier: %s, %s", blockIdx.x, blockIdx.y, blockIdx.z, what, text[0], text[1]);
}

// Run a warp until all of its threads wait for the block or have returned.
static int run_warp(int first, int count, const int* order) {
    for (;;) {
        for (int i = 0; i < WARP; ++i) {
            if (order[i] >= count) continue;
            Fiber& fiber = fibers[first + order[i]];
            if (fiber.state != READY) continue;
            threadIdx = fiber.index;
            current = &fiber;
            go(scheduler, fiber);
            if (message[0]) return 1;
        }
        const Fiber& one = fibers[first];
        for (int i = 1; i < count; ++i) {
            const Fiber& other = fibers[first + i];
            if (one.state != other.state || one.line != other.line)
                return mismatch("warp", &one, &other);
        }
        if (one.state != IN_WARP) return 0;
        for (int i = 0; i < count; ++i) fibers[first + i].state = READY;
    }
}

static int run_block(int threads, size_t shared, const int* warps, const int* lanes) {
    memset(__start_standin_shared, 0xff, __stop_standin_shared - __start_standin_shared);
    memset(dynamic, 0xff, shared + GUARD);
    for (int i = 0; i < threads; ++i) prepare(fibers[i], i);
    const int count = (threads + WARP - 1) / WARP;
    for (;;) {
        for (int i = 0; i < MOST / WARP; ++i) {
            if (warps[i] >= count) continue;
            const int first = warps[i] * WARP;
            if (run_warp(first, threads - first < WARP ? threads - first : WARP, lanes)) return 1;
        }
        for (int i = 1; i < threads; ++i)
            if (fibers[0].state != fibers[i].state || fibers[0].line != fibers[i].line)
                return mismatch("block", &fibers[0], &fibers[i]);
        if (fibers[0].state == DONE) break;
        for (int i = 0; i < threads; ++i) fibers[i].state = READY;
    }
    for (int i = 0; i < GUARD; ++i)
        if (dynamic[shared + i] != 0xff)
            return say("block (%u, %u, %u) wrote past the end of its %zu bytes of dynamic shared "
                       "memory, at byte %zu", blockIdx.x, blockIdx.y, blockIdx.z, shared,
                       shared + i);
    return 0;
}

// Order 0 is forward, 1 is reverse, anything else the seed of a shuffle.
static void arrange(int* places, int count, unsigned& order) {
    for (int i = 0; i < count; ++i) places[i] = order == 1 ? count - 1 - i : i;
    for (int i = count - 1; order > 1 && i > 0; --i) {
        order = (order * 1664525u + 1013904223u) | 2u;
        const int j = int((order >> 8) % unsigned(i + 1)), kept = places[i];
        places[i] = places[j];
        places[j] = kept;
    }
}

static int run(void (*kernel)(void**), void** args, const unsigned* shape, size_t shared,
               unsigned order, int most, char* text, size_t size) {
    message = text;
    room = size;
    message[0] = 0;
    body = kernel;
    arguments = args;
    where = nullptr;
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    const int threads = int(blockDim.x * blockDim.y * blockDim.z);
    if (threads < 1 || threads > most)
        return say("a block has 1 to %d threads (see its __launch_bounds__), not %d", most, threads);
    if (shared > LARGEST) return say("too much dynamic shared memory: %zu bytes", shared);
    if (!stacks) {
        void* got = mmap(nullptr, size_t(MOST) * STACK, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (got == MAP_FAILED) return say("no memory for the stacks of %d threads", int(MOST));
        stacks = static_cast<char*>(got);
    }
    for (int i = 0; i < threads; ++i)
        fibers[i].index = {unsigned(i) % blockDim.x, unsigned(i) / blockDim.x % blockDim.y,
                           unsigned(i) / blockDim.x / blockDim.y};
    int lanes[WARP], warps[MOST / WARP];
    arrange(lanes, WARP, order);
    arrange(warps, MOST / WARP, order);
    const int signals[4] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    struct sigaction ours, before[4];
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = trap;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &ours, &before[i]);
    const size_t blocks = size_t(gridDim.x) * gridDim.y * gridDim.z;
    int failed = 0;
#ifdef STANDIN_FLUSHES
    const unsigned mode = __builtin_ia32_stmxcsr();
    if (sizeof(REAL) == 4) __builtin_ia32_ldmxcsr(mode | 0x8040);
#endif
    for (size_t b = 0; b < blocks && !failed; ++b) {
        const size_t i = order == 1 ? blocks - 1 - b : b;
        blockIdx = {unsigned(i % gridDim.x), unsigned(i / gridDim.x % gridDim.y),
                    unsigned(i / gridDim.x / gridDim.y)};
        failed = run_block(threads, shared, warps, lanes);
    }
#ifdef STANDIN_FLUSHES
    __builtin_ia32_ldmxcsr(mode);
#endif
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &before[i], nullptr);
    return failed;
}

}  // namespace standin

// The address of the last trap, from where this library is loaded.
extern "C" size_t standin_where() {
    extern char __executable_base[] __asm__("__ehdr_start") STANDIN_HIDDEN;
    return standin::where ? size_t(static_cast<char*>(standin::where) - __executable_base) : 0;
}
