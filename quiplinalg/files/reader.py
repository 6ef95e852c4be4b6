"""What every reader of weights and Hessians offers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import h5py
import numpy as np

from quiplinalg.errors import FormatError
from quiplinalg.files.elements import float_dtype, read_array, read_attribute
from quiplinalg.files.guard import has_link, leaves, open_group
from quiplinalg.files.measure import Limits
from quiplinalg.files.triangle import packed_size, unpack_lower

__all__ = [
    "NORMALIZATIONS",
    "ORIENTATIONS",
    "STORAGES",
    "LayerInfo",
    "ProblemSource",
    "array_names",
    "check_full_size",
    "check_hessian",
    "check_orientation",
    "input_count",
    "layer_names",
    "read_hessian",
]

NORMALIZATIONS = ("mean", "sum", "2mean", "unknown")
ORIENTATIONS = ("out_in", "in_out")
STORAGES = ("full", "lower", "diagonal")


@dataclass(frozen=True)
class LayerInfo:
    """What is known about a layer without reading its arrays.

    Attributes
    ----------
    name : str
    shape : (int, int)
        (out, in), whatever the orientation in the file.
    dtype : dtype
        Of the weight: float16, ``ml_dtypes.bfloat16``, float32 or float64.
    orientation : str
        How the file stores the weight, "out_in" or "in_out".
    n_samples : int or None
        Inputs that the Hessian was made of; None if unknown.
    normalization : str
        "mean" (X X^T / N), "sum" (X X^T), "2mean" (2 X X^T / N) or "unknown", for X (in, N).
    hessian_dtype : dtype
    hessian_key : str
        Equal for two layers of one reader exactly if they share one stored Hessian.
    storage : str
        What is stored of the Hessian: "full", "lower" (its triangle) or "diagonal".
    sensitivity : float
        Weight of the layer's loss among those of others, where bits are shared out.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype
    orientation: str
    n_samples: int | None
    normalization: str
    hessian_dtype: np.dtype
    hessian_key: str
    storage: str = "full"
    sensitivity: float = 1.0


class ProblemSource:
    """Weights and Hessians by layer name; the common part of the readers."""

    path: str
    names: tuple[str, ...]

    def info(self, name: str) -> LayerInfo:
        """Describe a layer."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the files; reading afterwards is an error."""
        raise NotImplementedError

    def shared(self) -> list[list[str]]:
        """The layers that share one Hessian, in lists that together hold every name once."""
        groups: dict[str, list[str]] = {}
        for name in self.names:
            groups.setdefault(self.info(name).hessian_key, []).append(name)
        return list(groups.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {len(self.names)} layers)"


def layer_names(
    file: h5py.File, limits: Limits, encodings: Collection[str] = ("layer",)
) -> tuple[str, ...]:
    """Every layer of a file, in name order; FormatError for a dataset outside of a layer."""

    def is_layer(group: h5py.Group) -> bool:
        return read_attribute(group, "encoding-type") in encodings

    found = list(leaves(open_group(file, "layers", limits), limits, is_layer))
    for name, node in found:
        if isinstance(node, h5py.Dataset):
            raise FormatError(
                "expected a group with encoding-type 'layer'; got a dataset",
                file.filename,
                f"layers/{name}",
            )
    return tuple(name for name, _ in found)


def array_names(file: h5py.File, limits: Limits) -> tuple[str, ...]:
    """Every dataset below ``arrays``, in name order."""
    if not has_link(file, "arrays"):
        return ()
    top = open_group(file, "arrays", limits)
    return tuple(name for name, _ in leaves(top, limits, lambda _: False))


def check_orientation(weight: h5py.Dataset, orientation: object) -> tuple[int, int]:
    """The (out, in) shape of a stored weight; FormatError if it is not 2-D."""
    path = weight.file.filename
    if orientation not in ORIENTATIONS:
        raise FormatError(
            f"expected orientation 'out_in' or 'in_out'; got {orientation!r}", path, weight.name
        )
    if len(weight.shape) != 2:
        raise FormatError(
            f"expected a 2-D weight; got shape {weight.shape}. Reshape kernels of convolutions to "
            "(in, out) and write them to a problem file",
            path,
            weight.name,
        )
    rows, columns = weight.shape
    return (rows, columns) if orientation == "out_in" else (columns, rows)


def input_count(shape: tuple[int, int], orientation: str) -> int:
    """n, the columns of an out_in weight or the rows of an in_out one."""
    return shape[1] if orientation == "out_in" else shape[0]


def check_hessian(
    hessian: h5py.Dataset, n: int, limits: Limits, storage: str | None = None
) -> np.dtype:
    """The dtype of a stored (n, n) Hessian; FormatError if its shape or its size does not fit.

    Without ``storage`` it is the matrix or its triangle.
    """
    path = hessian.file.filename
    if storage is None:
        storage = "full" if len(hessian.shape) == 2 else "lower"
    expected = {"full": (n, n), "lower": (packed_size(n),), "diagonal": (n,)}[storage]
    if hessian.shape != expected:
        what = "its lower triangle" if storage == "lower" else "its diagonal"
        also = "" if storage == "full" else f", {what} as {expected},"
        raise FormatError(
            f"expected a Hessian ({n}, {n}){also} to match "
            f"the {n} inputs of the weight; got shape {hessian.shape}. If the weight is stored "
            "(in, out), as Keras and Flax do, its orientation is 'in_out'",
            path,
            hessian.name,
        )
    dtype = float_dtype(hessian)
    if storage != "diagonal":
        check_full_size(hessian, n, limits)
    return dtype


def check_full_size(hessian: h5py.Dataset, n: int, limits: Limits) -> None:
    """Raise FormatError if the (n, n) array of a Hessian is larger than is allowed."""
    size = n * n * float_dtype(hessian).itemsize
    if size > limits.max_bytes:
        raise FormatError(
            f"expected at most {limits.max_bytes} bytes in one array; the full Hessian takes "
            f"{size}. Pass limits=Limits(max_bytes=...)",
            hessian.file.filename,
            hessian.name,
        )


def read_hessian(hessian: h5py.Dataset, n: int, storage: str = "full") -> np.ndarray:
    """The full symmetric (n, n) array of a dataset that :func:`check_hessian` has let pass."""
    array = read_array(hessian)
    if storage == "diagonal":
        return np.diag(array)
    return array if array.ndim == 2 else unpack_lower(array, n)
