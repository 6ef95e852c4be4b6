"""The stand-in itself: what a GPU would not forgive is an error."""

from contextlib import nullcontext

import numpy as np
import pytest
from standin.needs import needed

HEAD = '#define KERNEL extern "C" __global__\ntypedef long long index_t;\n#line 1 "f.cu"\n'
FULL = "0xffffffffu"


def run(cuda, text, threads, *args, grid=(1,), shared=0, options=()):
    """Run a kernel f that is written in a test."""
    f = cuda.xp.RawModule(code=HEAD + text, options=options).get_function("f")
    f(grid, threads if isinstance(threads, tuple) else (threads,), args, shared_mem=shared)
    return args[0].get()


# -- kernels --------------------------------------------------------------------------------------


def test_blocks_threads_macros_and_every_kind_of_argument(cuda):
    text = """
    KERNEL void __launch_bounds__(64, 2) f(REAL* __restrict__ y, /* a, b */ const int n,
                                           index_t k, double s) {
        const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        const int thread = threadIdx.y * blockDim.x + threadIdx.x;
        y[block * 64 + thread] = (REAL)(n + k * thread + s);
    }"""
    args = np.int32(1), np.int64(2), np.float64(0.5)
    options = ("--std=c++17", "--fmad=false", "-DREAL=unsigned char")
    y = run(cuda, text, (16, 4), cuda.xp.empty((6, 64), np.uint8), *args,
            grid=(3, 1, 2), options=options)  # fmt: skip
    assert np.array_equal(y, np.tile(np.uint8(1.5 + 2 * np.arange(64)), (6, 1)))


@pytest.mark.parametrize("way", ["forward", "reverse", 5])
@pytest.mark.parametrize("threads", [1, 31, 32, 33, 64, 200])
def test_exchanges_of_a_warp(cuda, way, threads):
    """Against their definitions; lanes that are not there give every bit set."""
    text = f"""
    KERNEL void f(double* y) {{
        const int t = threadIdx.x, lane = t % 32;
        y[t * 6] = __shfl_xor_sync({FULL}, 100. + t, 3);
        y[t * 6 + 1] = __shfl_down_sync({FULL}, t, 5);
        y[t * 6 + 2] = __shfl_sync({FULL}, float(t), lane / 2);
        y[t * 6 + 3] = __ballot_sync({FULL}, t % 3 == 0);
        y[t * 6 + 4] = __any_sync({FULL}, t == 40) + 2 * __all_sync({FULL}, t < 40);
        __syncwarp();
        long long sum = t;
        for (int bits = 16; bits; bits >>= 1) sum += __shfl_xor_sync({FULL}, sum, bits);
        y[t * 6 + 5] = double(sum);
    }}"""
    with cuda.order(way):
        y = run(cuda, text, threads, cuda.xp.empty((threads, 6)))
    for t in range(threads):
        first, last = t // 32 * 32, min(t // 32 * 32 + 32, threads)
        lane, warp = t % 32, np.arange(first, last)
        other = first + (lane ^ 3)
        assert y[t, 0] == 100 + other if other < threads else np.isnan(y[t, 0])
        assert y[t, 1] == (t if lane + 5 > 31 else t + 5 if t + 5 < threads else -1)
        assert y[t, 2] == first + lane // 2
        assert y[t, 3] == sum(1 << int(i - first) for i in warp if i % 3 == 0)
        assert y[t, 4] == (40 in warp) + 2 * (last <= 40)
        assert last - first < 32 or y[t, 5] == warp.sum()


def test_a_missing_barrier_shows_in_one_of_the_orders(cuda):
    text = """
    KERNEL void f(float* y) {
        __shared__ float kept[64];
        kept[threadIdx.x] = float(threadIdx.x);
        BARRIER
        y[threadIdx.x] = kept[THEIR];
    }"""
    t = np.arange(64)
    for their, wanted, way in (
        ("threadIdx.x / 2", t // 2, "reverse"),
        ("63 - threadIdx.x / 2", 63 - t // 2, "forward"),
    ):
        for barrier in ("", "__syncthreads();"):
            options = (f"-DTHEIR={their}", f"-DBARRIER={barrier}")
            with cuda.order(way):
                y = run(cuda, text, 64, cuda.xp.empty(64, np.float32), options=options)
            assert np.array_equal(y, wanted) == bool(barrier)
            assert barrier or np.isnan(y).any()  # shared memory begins as NaN


@pytest.mark.parametrize("way", ["forward", "reverse"])
@pytest.mark.parametrize(
    "threads,body,said",
    [
        (64, "if (t < 40) __syncthreads();", "of a warp .* thread 32 waits at line 3, thread 40 "),
        (64, "if (t < 32) __syncthreads();", "of a block .* thread 0 waits at line 3, thread 32 "),
        (64, "if (t < 32) __syncthreads();\nelse __syncthreads();", "line 3, .* line 4"),
        (32, f"if (t < 9) __shfl_sync({FULL}, t, 0);", "of a warp .* line 3 for its warp"),
        (32, f"if (t) __syncthreads(); else __any_sync({FULL}, t);", "barrier divergence"),
        (32, "__shfl_xor_sync(0xffu, t, 1);", "line 3: the mask of a warp"),
        (32, f"__shfl_xor_sync({FULL}, t, 1, 16);", "its width 32; got 0xffffffff and 16"),
        (8, "__shared__ float a[8];\ny[t] = a[t + n];", r"thread \(\d, 0, 0\), at f.cu:4"),
        (8, "__shared__ float4 a[8];\n*(float4*)(y + 1 + n / 8) = a[t];", "misaligned.*f.cu:4"),
        (1, "y[0] = 7 / (n - 8);", "undefined behaviour"),
        (1, "y[0] = float(n * 500000000);", "undefined behaviour"),
        (1, "y[0] = float(1 << (n * 5));", "undefined behaviour"),
        (1, "y[index_t(n) << 40] = 1;", "memory that is not there.*f.cu:3"),
        (8, "y[t + 57] = 1;", "argument 0 was written out of bounds: byte 0 after its memory"),
        (8, "y[t - 2] = 1;", "argument 0 was written out of bounds: byte -8 before its memory"),
        (8, "DYNAMIC_SHARED(float, a);\na[t + 1] = 1;", "past the end of its 32 bytes .* byte 32"),
        (129, "y[0] = 1;", "1 to 128 threads .*, not 129"),
    ],
)
def test_what_a_gpu_would_not_forgive(cuda, way, threads, body, said):
    text = (
        f"KERNEL void __launch_bounds__(128) f(float* y, int n) {{\nint t = threadIdx.x;\n{body}}}"
    )
    y, n = cuda.xp.zeros(64, np.float32), np.int32(8)
    with cuda.order(way), pytest.raises(cuda.KernelError, match=said):
        run(cuda, text, threads, y, n, shared=32)
    # the next launch is not disturbed
    text = "KERNEL void f(float* y, int n) { __syncthreads(); y[threadIdx.x] = n; }"
    assert np.all(run(cuda, text, 64, cuda.xp.empty(64, np.float32), n) == 8)


def test_arguments_of_another_type_are_refused(cuda):
    xp = cuda.xp
    text = "KERNEL void f(float* y, int n, unsigned char* codes) { codes[0] = n; }"
    y, n, codes = xp.zeros(2, np.float32), np.int32(2), xp.zeros(2, np.uint8)
    run(cuda, text, 1, y, n, codes)
    assert codes.get()[0] == 2
    for args, said in (
        ((y, n), "takes 3 arguments; got 2"),
        ((y, 2, codes), "argument 1 of f is int: pass numpy.int32, not <class 'int'>"),
        ((y, np.int64(2), codes), "pass numpy.int32"),
        ((y, n, y), "array of uint8, not of float32"),
        ((xp.zeros(2, np.int32), n, codes), "array of float32, not of int32"),
        ((np.zeros(2, np.float32), n, codes), "pass a device array"),
        ((None, n, codes), "pass a device array"),
    ):
        with pytest.raises(TypeError, match=said):
            run(cuda, text, 1, *args)
    with xp.cuda.Device(1), pytest.raises(ValueError, match="array device = 0 while current = 1"):
        run(cuda, text, 1, y, n, codes)
    for options in (
        {"threads": 1025},
        {"threads": 1, "grid": (1, 65536)},
        {"threads": 1, "grid": (0,)},
        {"threads": (8, 8, 65)},
        {"threads": 1, "shared": (48 << 10) + 1},
    ):
        with pytest.raises(cuda.KernelError, match="CUDA_ERROR_INVALID_VALUE"):
            run(cuda, text, options.pop("threads"), y, n, codes, **options)


def test_more_shared_memory_is_asked_for_first(cuda):
    text = """
    KERNEL void f(int* y) {
        DYNAMIC_SHARED(int, a);
        for (int i = threadIdx.x; i < 25000; i += blockDim.x) a[i] = i;
        __syncthreads();
        if (threadIdx.x == 0) *y = a[24999];
    }"""
    f = cuda.xp.RawModule(code=HEAD + text).get_function("f")
    y = cuda.xp.empty(1, np.int32)
    for size in (100000, 48 << 10):  # what a kernel has of its own counts too
        with pytest.raises(cuda.KernelError, match="max_dynamic_shared_size_bytes"):
            f((1,), (32,), (y,), shared_mem=size)
    for size in (228 << 10, 227 << 10):
        with pytest.raises(cuda.KernelError):
            f.max_dynamic_shared_size_bytes = size
    f.max_dynamic_shared_size_bytes = 100000
    f((1,), (32,), (y,), shared_mem=100000)
    assert int(y[0]) == 24999


def test_atomics_and_bits(cuda):
    text = """
    KERNEL void f(int* y, double* s, unsigned long long* best) {
        const int t = threadIdx.x;
        atomicAdd(&y[0], t);
        atomicMax(&y[1], t);
        atomicMin(&y[2], -t);
        atomicCAS(&y[3], 0, t + 1);
        atomicAdd(s, 0.5);
        atomicMin(best, (unsigned long long)__float_as_int(float(100 - t)) << 32 | t);
        y[4] = min(3, 2) + max(5, 4) + __ldg(&y[5]);
    }"""
    xp = cuda.xp
    y, s, best = xp.zeros(6, np.int32), xp.zeros(1), xp.full(1, 2**64 - 1, np.uint64)
    run(cuda, text, 100, y, s, best)
    assert y.get().tolist() == [4950, 99, -99, 1, 7, 0]
    assert float(s[0]) == 50.0
    assert int(best[0]) & 0xFFFFFFFF == 99


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_small_numbers_are_zeros_in_float32_only(cuda, dtype):
    """As CuPy compiles, with -ftz=true: on the way in, in comparisons, and on the way out."""
    text = """
    KERNEL void f(REAL* y) {
        y[2] = y[0] * (REAL)1024;
        y[3] = y[0] > 0;
        y[4] = y[1] * (REAL)0.5;
        y[5] = y[1] * (REAL)2;
        y[6] = y[0];
    }"""
    least = np.finfo(dtype).tiny
    y = np.zeros(7, dtype)
    y[:2] = least / 4, least
    real = {np.float32: "float", np.float64: "double"}[dtype]
    found = run(cuda, text, 1, cuda.xp.asarray(y), options=(f"-DREAL={real}",))
    flushed = [0, 0, 0] if dtype == np.float32 else [256 * least, 1, least / 2]
    assert found[2:].tolist() == [*flushed, 2 * least, least / 4]  # a copy is a copy
    assert y[0] * dtype(4) == least  # the host goes on as before


def test_arrays_are_in_C_order_but_where_a_stride_is_given(cuda):
    text = "KERNEL void {}(float* y, long long stride) {{ y[stride] = 1; }}"
    y = cuda.xp.zeros((4, 6), np.float32)
    for name, array, fine in (
        ("g", y, True), ("g", y[1:3], True), ("g", y.T, False), ("g", y[:, :3], False),
        ("fit", y[:, :3], True),
    ):  # fmt: skip
        code = HEAD + text.format(name)
        kernel = cuda.xp.RawModule(code=code).get_function(name)
        with nullcontext() if fine else pytest.raises(TypeError, match="in C order, not of"):
            kernel((1,), (1,), (array, np.int64(0)))


def test_what_does_not_compile_says_where(cuda):
    with pytest.raises(cuda.KernelError, match=r"f\.cu:2"):
        run(cuda, "KERNEL void f(int* y) {\n *y = z; }", 1, cuda.xp.zeros(1, np.int32))
    with pytest.raises(cuda.KernelError, match="NOT_FOUND"):
        run(cuda, "KERNEL void g(int* y) { *y = 1; }", 1, cuda.xp.zeros(1, np.int32))


def test_a_missing_compiler_skips_unless_nothing_may_be_skipped(monkeypatch):
    monkeypatch.delenv("QUIPLINALG_REQUIRE_CXX", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"needs g\+\+"):
        needed("g++")
    monkeypatch.setenv("QUIPLINALG_REQUIRE_CXX", "1")
    with pytest.raises(pytest.fail.Exception, match=r"there is no g\+\+"):
        needed("g++")
