"""A CUDA device as the benchmarks use it: arrays, a clock, library calls, peak memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.common import CannotRunError, check
from bench.device_timing import Call, Sample

__all__ = ["CudaMachine", "Machine", "Peak", "Potrf"]


@dataclass(frozen=True)
class Peak:
    """Device memory during a call beyond what was in use before it, in bytes."""

    used: int  # the most that arrays held at a time, the result among them
    taken: int  # what the pool took from the device for it, with its gaps


class Potrf:
    """A factorisation in place by a library: ``prepare()`` copies the matrix, ``run()`` factors."""

    def prepare(self) -> None:
        """Copy the matrix to where it is factored."""
        raise NotImplementedError

    def run(self) -> None:
        """Factor it."""
        raise NotImplementedError

    def check(self) -> None:
        """Stop the benchmark unless the last run succeeded."""
        raise NotImplementedError


class Machine:
    """What the parts of the benchmark ask of a device.

    Attributes
    ----------
    xp : module
        Arrays of the device, with NumPy's names.
    torch_device : str or None
        Where the rival runs; None where torch does not reach the device.
    torch_missing : str
        Why not.
    """

    xp: Any
    torch_device: str | None = None
    torch_missing: str = ""

    def describe(self) -> dict[str, Any]:
        """Return names and versions for the results."""
        raise NotImplementedError

    def to_device(self, a: np.ndarray) -> Any:
        """Return a copy on the device."""
        return self.xp.asarray(a)

    def to_host(self, a: Any) -> np.ndarray:
        """Return a copy in host memory; arrays that are there already as they are."""
        return a.get() if hasattr(a, "get") else np.asarray(a)

    def wait(self) -> None:
        """Wait until the device has finished."""
        raise NotImplementedError

    def clock(self, call: Call) -> Sample:
        """Run and time a call."""
        raise NotImplementedError

    def mark(self) -> Any:
        """Return a moment in the device's stream of work."""
        raise NotImplementedError

    def seconds(self, before: Any, after: Any) -> float:
        """Return the time between two marks, once the device has finished."""
        raise NotImplementedError

    def gemm(self, alpha: float, A: Any, B: Any, beta: float, c: Any, overwrite_c: int = 1) -> None:
        """c = alpha A B + beta c by the device's BLAS, all in Fortran order."""
        raise NotImplementedError

    def potrf(self, A: Any, lower: bool) -> Potrf:
        """Return the device's dpotrf of A, one triangle or the other."""
        raise NotImplementedError

    def peak(self, call: Callable[[], Any]) -> tuple[Any, Peak]:
        """Return call()'s result, and the memory that it took."""
        raise NotImplementedError

    def release(self) -> None:
        """Give memory back that nothing uses."""


def _cupy() -> Any:
    """Return CuPy where it has a device; raise CannotRunError, saying what is missing."""
    install = "pip install 'quiplinalg[cuda12]' or 'quiplinalg[cuda13]' on a machine with a GPU"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is told below
            import cupy
    except ImportError as error:
        raise CannotRunError(f"it needs CuPy ({error}); {install}") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise CannotRunError(f"it needs a CUDA device; CuPy finds none: {error}") from None
    if count == 0:
        raise CannotRunError("it needs a CUDA device; CuPy finds none")
    try:
        from cupy_backends.cuda.libs import cublas, cusolver

        assert cublas is not cusolver
    except ImportError as error:
        raise CannotRunError(f"it needs cuBLAS and cuSOLVER ({error}); {install}") from None
    return cupy


class CudaMachine(Machine):
    """The current CUDA device, through CuPy; torch runs on it too where it can."""

    def __init__(self) -> None:
        self.xp = _cupy()
        self._events = self.xp.cuda.Event(), self.xp.cuda.Event()
        try:
            import torch
        except ImportError as error:
            self.torch_missing = str(error)
            return
        if torch.cuda.is_available():
            self.torch_device = "cuda"
        else:
            self.torch_missing = f"torch {torch.__version__} has no CUDA device"

    def describe(self) -> dict[str, Any]:
        runtime, device = self.xp.cuda.runtime, self.xp.cuda.Device()
        properties = runtime.getDeviceProperties(device.id)
        versions = {"cupy": self.xp.__version__}
        if self.torch_device is not None:
            import torch

            versions["torch"] = f"{torch.__version__}, CUDA {torch.version.cuda}"
        return {
            "name": properties["name"].decode(),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": properties["multiProcessorCount"],
            "memory_bytes": properties["totalGlobalMem"],
            "l2_bytes": properties.get("l2CacheSize"),
            "driver": _version(runtime.driverGetVersion()),
            "runtime": _version(runtime.runtimeGetVersion()),
            "versions": versions,
            "torch_missing": self.torch_missing,
        }

    def wait(self) -> None:
        self.xp.cuda.Device().synchronize()

    def clock(self, call: Call) -> Sample:
        before, after = self._events
        self.wait()
        start = time.perf_counter()
        before.record()
        call.run()
        after.record()
        after.synchronize()
        wall = time.perf_counter() - start
        return Sample(self.seconds(before, after), wall)

    def mark(self) -> Any:
        event = self.xp.cuda.Event()
        event.record()
        return event

    def seconds(self, before: Any, after: Any) -> float:
        return float(self.xp.cuda.get_elapsed_time(before, after)) * 1e-3

    def gemm(self, alpha: float, A: Any, B: Any, beta: float, c: Any, overwrite_c: int = 1) -> None:
        from cupy_backends.cuda.libs import cublas

        (m, k), n, plain = A.shape, B.shape[1], cublas.CUBLAS_OP_N
        one, other = np.array(alpha, A.dtype), np.array(beta, A.dtype)
        product = cublas.sgemm if A.dtype == np.float32 else cublas.dgemm
        product(
            self.xp.cuda.device.get_cublas_handle(), plain, plain, m, n, k, one.ctypes.data,
            A.data.ptr, m, B.data.ptr, k, other.ctypes.data, c.data.ptr, m,
        )  # fmt: skip

    def potrf(self, A: Any, lower: bool) -> Potrf:
        return _CuSolver(self.xp, A, lower)

    def peak(self, call: Callable[[], Any]) -> tuple[Any, Peak]:
        pool = self.xp.get_default_memory_pool()
        self.wait()
        pool.free_all_blocks()
        before = pool.used_bytes(), pool.total_bytes()
        hook = _hook(self.xp)
        with hook:
            result = call()
            self.wait()
        return result, Peak(hook.most, max(pool.total_bytes() - before[1], 0))

    def release(self) -> None:
        self.wait()
        self.xp.get_default_memory_pool().free_all_blocks()
        if self.torch_device is not None:
            import torch

            torch.cuda.empty_cache()


def _version(number: int) -> str:
    """12080 is 12.8."""
    return f"{number // 1000}.{number % 1000 // 10}"


class _CuSolver(Potrf):
    def __init__(self, xp: Any, A: Any, lower: bool):
        from cupy_backends.cuda.libs import cublas, cusolver

        self.xp, self.call = xp, cusolver.dpotrf
        self.source = xp.array(A, np.float64, order="C")
        self.work = xp.empty_like(self.source)
        self.n = self.source.shape[0]
        # of the matrix in Fortran order, as the library sees it
        self.triangle = cublas.CUBLAS_FILL_MODE_LOWER if lower else cublas.CUBLAS_FILL_MODE_UPPER
        self.handle = xp.cuda.device.get_cusolver_handle()
        self.size = cusolver.dpotrf_bufferSize(
            self.handle, self.triangle, self.n, self.work.data.ptr, self.n
        )
        self.space, self.info = xp.empty(self.size, np.float64), xp.zeros(1, np.int32)

    def prepare(self) -> None:
        self.xp.copyto(self.work, self.source)

    def run(self) -> None:
        self.call(
            self.handle, self.triangle, self.n, self.work.data.ptr, self.n, self.space.data.ptr,
            self.size, self.info.data.ptr,
        )  # fmt: skip

    def check(self) -> None:
        info = int(self.info.get()[0])
        check(info == 0, f"dpotrf of the library returns {info}")


def _hook(xp: Any) -> Any:
    """Return a hook of the memory pool that keeps the most bytes in use since it was entered.

    What was allocated before and is freed meanwhile counts as negative.
    """

    class Most(xp.cuda.memory_hook.MemoryHook):
        name = "Most"

        def __init__(self) -> None:
            self.now = self.most = 0

        def malloc_postprocess(self, **event: Any) -> None:
            if event["mem_ptr"]:
                self.now += event["mem_size"]
                self.most = max(self.most, self.now)

        def free_postprocess(self, **event: Any) -> None:
            self.now -= event["mem_size"]

    return Most()
