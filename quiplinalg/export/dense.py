"""W_hat as plain floats, (out, in), for programs that know no codes: .h5, .npz or .safetensors."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export.target import new_file
from quiplinalg.files.weights_writer import WeightsWriter
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized

__all__ = ["SUFFIXES", "dense_weight", "write_h5", "write_npz"]

SUFFIXES = (".h5", ".npz", ".safetensors")
Layers = Iterable[tuple[str, np.ndarray]]


def dense_weight(layer: Quantized | Pruned, dtype: np.dtype | None) -> np.ndarray:
    """Return W_hat, (m, n), in the original basis, in ``dtype``.

    Parameters
    ----------
    layer : Quantized or Pruned
    dtype : dtype or None
        None: the precision of the layer, float32 or float64.

    Raises
    ------
    InvalidArgumentError
        Weights that overflow in ``dtype``.
    """
    own = layer.weights.dtype if isinstance(layer, Pruned) else np.dtype(layer.precision)
    wide = layer.__array__(own)
    with np.errstate(over="ignore"):
        weight = wide.astype(own if dtype is None else dtype, copy=False)
    if not np.isfinite(weight.astype(own, copy=False)).all():
        raise InvalidArgumentError(
            f"weights must fit in dtype={weight.dtype.name}; got values up to "
            f"{np.abs(wide).max():.3g}. Use dtype='float32' or 'bfloat16'."
        )
    return weight


def write_npz(target: Path, layers: Layers, overwrite: bool) -> None:
    """Write one array a layer, ``numpy.load(target)[name]``; one layer in memory at a time.

    Raises
    ------
    InvalidArgumentError
        bfloat16, which NumPy's files cannot name.
    """
    with new_file(target, overwrite) as file, zipfile.ZipFile(file, "w") as archive:
        for name, weight in layers:
            if weight.dtype.kind != "f":
                raise InvalidArgumentError(
                    f"dtype must be float16, float32 or float64 in an .npz file; got "
                    f"{weight.dtype.name}. Use a target that ends in .h5 or .safetensors."
                )
            # a ZipInfo of a fixed date: the same bytes for the same layers
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, weight, allow_pickle=False)


def write_h5(target: Path, layers: Layers, overwrite: bool) -> None:
    """Write ``layers/<name>/weight`` datasets; one layer in memory at a time."""
    with WeightsWriter(target, overwrite) as writer:
        for name, weight in layers:
            writer.add(name, weight)
