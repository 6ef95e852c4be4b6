"""Tensors that look like torch's and JAX's on a CUDA device, over the stand-in for CuPy."""

from __future__ import annotations

from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["Exporter", "Interface", "jax_array", "torch_module"]


class Exporter:
    """Exports DLPack from a kind and number of device."""

    def __init__(self, a: Any = None, device: tuple[int, int] = (2, 0)):
        self._a, self._device = a, device

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._a.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


class Interface:
    """Exports nothing but __cuda_array_interface__."""

    def __init__(self, a: Any):
        self.__cuda_array_interface__ = a.__cuda_array_interface__
        self.dtype = a.dtype


class _Dtype:
    def __init__(self, name: str):
        self.name_ = name

    def __repr__(self) -> str:
        return f"torch.{self.name_}"


def torch_module(xp: Any) -> ModuleType:
    """Return a module torch whose tensors keep to the rules of torch's export."""
    torch: Any = ModuleType("torch")
    dtypes = {}
    current = [0]

    def dtype_of(a: Any, name: str = "") -> _Dtype:
        name = name or a.dtype.name
        return dtypes.setdefault(name, _Dtype(name))

    class Tensor:
        layout = _Dtype("strided")

        def __init__(self, a: Any, dtype: str = "", requires_grad: bool = False, neg: bool = False):
            self._a, self.dtype, self.requires_grad = a, dtype_of(a, dtype), requires_grad
            self._neg = neg
            self.device = SimpleNamespace(type="cuda", index=a.device.id)

        def is_neg(self) -> bool:
            return self._neg

        def detach(self) -> Any:
            return Tensor(self._a, self.dtype.name_)

        def view(self, dtype: _Dtype) -> Any:
            assert not self.requires_grad
            with xp.cuda.Device(self._a.device.id):
                return Tensor(self._a.view(dtype.name_))

        def to(self, dtype: _Dtype) -> Any:
            if dtype is self.dtype:
                return self
            kind = getattr(ml_dtypes, dtype.name_, None)
            host = self._a.get().astype(kind or dtype.name_)
            with xp.cuda.Device(self._a.device.id):
                bits = host if kind is None else host.view(f"u{host.dtype.itemsize}")
                return Tensor(xp.asarray(bits), dtype.name_)

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, self.device.index

        def __dlpack__(self, **kwargs: Any) -> Any:
            if self.requires_grad:
                raise BufferError("Can't export tensors that require gradient")
            if self.device.index != current[0]:
                raise BufferError("Can't export tensors on a different CUDA device index.")
            if self.dtype.name_ not in ("float16", "float32", "float64", "int16", "uint8", "int64"):
                raise BufferError(f"the test exports no {self.dtype}")
            return self._a.__dlpack__(**kwargs)

    @contextmanager
    def device(number: int) -> Any:
        before, current[0] = current[0], number
        try:
            yield
        finally:
            current[0] = before

    Tensor.__module__ = "torch"
    torch.Tensor = Tensor
    torch.cuda = SimpleNamespace(device=device)
    torch.from_dlpack = lambda a: Tensor(a)
    for name in ("int16", "uint8", "float16", "float32", "float64", "bfloat16", "float8_e4m3fn"):
        setattr(torch, name, dtype_of(None, name))
    return torch


def jax_array(xp: Any) -> type:
    """Return the class of arrays of JAX, with a static method from_dlpack as jax.numpy has."""

    class ArrayImpl:
        def __init__(self, a: Any, dtype: Any = None):
            self._a, self.dtype = a, np.dtype(dtype or a.dtype)

        def devices(self) -> list[Any]:
            return [SimpleNamespace(platform="gpu")]

        def view(self, dtype: Any) -> Any:
            return ArrayImpl(self._a.view(dtype))

        def astype(self, kind: np.dtype) -> Any:
            host = self._a.get().astype(kind)
            with xp.cuda.Device(self._a.device.id):
                if kind.type.__module__ == "ml_dtypes":
                    return ArrayImpl(xp.asarray(host.view(f"u{kind.itemsize}")), kind)
                return ArrayImpl(xp.asarray(host))

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, self._a.device.id

        def __dlpack__(self, **kwargs: Any) -> Any:
            assert self.dtype == self._a.dtype, "narrow floats are exported by their bits"
            return self._a.__dlpack__(**kwargs)

        @staticmethod
        def from_dlpack(a: Any) -> Any:
            assert a.flags.c_contiguous
            return ArrayImpl(a)

    ArrayImpl.__module__ = "jaxlib._jax"
    return ArrayImpl
