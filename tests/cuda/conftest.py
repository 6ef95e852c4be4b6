"""The CUDA backend without a GPU: a stand-in for CuPy, with kernels compiled by g++."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_frameworks import jax_array, torch_module
from standin.fake_cupy import installed
from standin.host_compiler import KernelError, compiler
from standin.needs import needed
from standin.raw_module import order


def forget() -> None:
    """Empty the caches of the backend: they hold modules of one cupy."""
    for name, module in list(sys.modules.items()):
        if name.startswith("quiplinalg.kernels"):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


@pytest.fixture
def cuda(request):
    """Give .xp, which stands in for cupy, .order(way) and .KernelError.

    With --backend cuda it is CuPy itself, and its device.
    """
    if request.config.getoption("--backend") == "cuda":
        import cupy

        yield SimpleNamespace(xp=cupy, order=lambda _: nullcontext(), KernelError=RuntimeError)
        return
    if compiler() is None:
        needed("g++")
    forget()
    with installed() as xp:
        yield SimpleNamespace(xp=xp, order=order, KernelError=KernelError)
    forget()


@pytest.fixture
def torch(cuda, monkeypatch):
    """Stand in for torch, with tensors on a device."""
    module = torch_module(cuda.xp)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.fixture
def jax(cuda, monkeypatch):
    """Stand in for arrays of JAX on a device."""
    kind = jax_array(cuda.xp)
    monkeypatch.setitem(sys.modules, "jax.numpy", SimpleNamespace(from_dlpack=kind.from_dlpack))
    return kind
