"""Write the layers of a result file in a format of other programs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export.codes import naming
from quiplinalg.export.dense import SUFFIXES, dense_weight, write_h5, write_npz
from quiplinalg.export.onnx import write_onnx
from quiplinalg.export.tensors import LAYOUTS, tensor_names, write_dense, write_quantized
from quiplinalg.files.atomic import check_target
from quiplinalg.files.result import ResultReader, open_result
from quiplinalg.results import Quantized

__all__ = ["DTYPES", "FORMATS", "Exported", "export_result"]

FORMATS = ("onnx", "safetensors", "dense")
DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
_ONLY = {"layout": "safetensors", "accuracy_level": "onnx"}


@dataclass(frozen=True)
class Exported:
    """What was written: the file, the layers in it, and its size in bytes."""

    path: str
    layers: tuple[str, ...]
    bytes: int


def export_result(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    to: str,
    layout: str | None = None,
    dtype: Any = None,
    accuracy_level: int | None = None,
    names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the layers of a result file in a format that other programs run.

    Parameters
    ----------
    source : str or path-like
        A result file; not changed.
    target : str or path-like
        The new file; it appears under its name when it is complete.
    to : str
        "onnx": a model of MatMulNBits nodes for onnxruntime, with an input and an output for each
        layer.  "safetensors": packed codes, in one of the layouts.  "dense": W_hat as floats, in
        an .h5, .npz or .safetensors file, as ``target`` ends.
    layout : str, optional
        Of "safetensors": "compressed-tensors" (format pack-quantized; the default) or "gptq"
        (version 2).  The file's header has the ``quantization_config`` that belongs into the
        config.json of a model; "/" in layer names becomes ".".
    dtype : dtype or str, optional
        float16, bfloat16, float32 or float64: of the weights of "dense" (default: their
        precision), or of the scales of "safetensors" (default: as they are stored).  Anything
        narrower than the default rounds.  "onnx" is float32.
    accuracy_level : int, optional
        Of "onnx": 0 (the default) multiplies in float32; 4 in int8, much faster at 2 bits, with
        an error of about 5e-3.
    names : sequence of str, optional
        The layers to write; default: all.
    overwrite : bool
        Replace an existing file, in one step at the end.

    Returns
    -------
    Exported

    Raises
    ------
    InvalidArgumentError
        A layer that the format cannot hold, and what can; an option that it has not.
    BackendUnavailableError
        The package onnx or safetensors is not installed; with the line that installs it.
    FormatError
        ``source`` is not a sound result file.
    OSError
        A full or failing disk.

    Notes
    -----
    Codes, scales and zeros stay what they are, so that the product is that of `dequantize`, up to
    the rounding of the program that computes it.  Codes go to the next width that the format has.
    Memory: the exported file, twice; of "dense" in .h5 and .npz files one layer.

    Examples
    --------
    >>> import os, tempfile, numpy as np, quiplinalg as ql
    >>> folder = tempfile.mkdtemp()
    >>> source, target = os.path.join(folder, "result.h5"), os.path.join(folder, "weights.npz")
    >>> with ql.ResultWriter(source) as file:
    ...     file.add("dense", ql.ldlq(np.ones((2, 3)), np.eye(3)))
    >>> ql.export_result(source, target, to="dense", dtype="float16").layers
    ('dense',)
    >>> np.load(target)["dense"].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if to not in FORMATS:
        raise InvalidArgumentError(
            f"to must be one of {', '.join(FORMATS)}; got to={to!r}. 'dense' takes every layer."
        )
    for option, value in (("layout", layout), ("accuracy_level", accuracy_level)):
        if value is not None and to != _ONLY[option]:
            raise InvalidArgumentError(
                f"{option} must be left out with to={to!r}; got {option}={value!r}. "
                f"It is an option of to={_ONLY[option]!r}."
            )
    if layout is not None and layout not in LAYOUTS:
        raise InvalidArgumentError(
            f"layout must be one of {', '.join(LAYOUTS)}; got layout={layout!r}. "
            "'compressed-tensors' takes 1 to 8 bits."
        )
    kind = _checked_dtype(dtype, to)
    path = check_target(target, overwrite)
    with open_result(source) as result:
        chosen = _chosen(result, names)
        if to == "onnx":
            level = _checked_level(accuracy_level)
            write_onnx(path, _quantized(result, chosen), level, overwrite)
        elif to == "safetensors":
            dotted = tensor_names(chosen)
            layers = ((dotted[name], q) for name, q in _quantized(result, chosen))
            write_quantized(path, layers, layout or next(iter(LAYOUTS)), kind, overwrite)
        else:
            _write_dense(result, path, chosen, kind, overwrite)
    return Exported(os.fspath(target), chosen, path.stat().st_size)


def _quantized(result: ResultReader, names: Sequence[str]) -> Iterator[tuple[str, Quantized]]:
    for name in names:
        if result.kind(name) == "pruned":
            raise InvalidArgumentError(
                f"layer {name!r} must be quantised; got a pruned one, which has no codes. Use "
                "to='dense', or leave it out: names=..., or --exclude."
            )
        yield name, result.layer(name)


def _write_dense(
    result: ResultReader,
    path: Path,
    names: tuple[str, ...],
    dtype: np.dtype | None,
    overwrite: bool,
) -> None:
    writers = dict(zip(SUFFIXES, (write_h5, write_npz, write_dense), strict=True))
    if path.suffix not in writers:
        raise InvalidArgumentError(
            f"target must end in {', '.join(SUFFIXES)} with to='dense'; got {path.name!r}."
        )
    called = {name: name for name in names}
    if path.suffix == ".safetensors":
        called = tensor_names(names)

    def layers() -> Iterator[tuple[str, np.ndarray]]:
        for name in names:
            pruned = result.kind(name) == "pruned"
            layer = result.pruned(name) if pruned else result.layer(name)
            with naming(name):
                weight = dense_weight(layer, dtype)
            yield called[name], weight

    writers[path.suffix](path, layers(), overwrite)


def _chosen(result: ResultReader, names: Sequence[str] | None) -> tuple[str, ...]:
    """The layers asked for, in the order of the file."""
    wanted = set(result.names if names is None else names)
    missing = sorted(wanted - set(result.names))
    if missing or not wanted:
        raise InvalidArgumentError(
            f"names must be layers of {result.path!r}, at least one; got "
            f"{missing[0] if missing else 'none'!r}. It has {', '.join(result.names[:5])}, ...; "
            "'quiplinalg inspect' lists them all."
        )
    return tuple(name for name in result.names if name in wanted)


def _checked_dtype(dtype: Any, to: str) -> np.dtype | None:
    if dtype is None:
        return None
    try:
        found = DTYPES.get(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in DTYPES.values():  # NumPy's dtypes: None == float64
        raise InvalidArgumentError(
            f"dtype must be one of {', '.join(DTYPES)}; got dtype={dtype!r}. Leave it out to keep "
            "the precision of the file."
        )
    if to == "onnx" and found != np.float32:
        raise InvalidArgumentError(
            f"dtype must be float32 with to='onnx'; got dtype={dtype!r}. Leave it out."
        )
    return found


def _checked_level(level: Any) -> int:
    if level is None:
        return 0
    if isinstance(level, bool) or level not in range(5):
        raise InvalidArgumentError(
            f"accuracy_level must be 0 to 4; got accuracy_level={level!r}. 0 is exact, 4 fast."
        )
    return int(level)
