"""Read all of a damaged file: everything is refused on purpose, or is finite and was written."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sound_files import HOLE, keras_mapping

import quiplinalg as ql
from quiplinalg.errors import QuipLinalgError
from quiplinalg.files import ProblemReader, ProblemSource

__all__ = ["Finding", "Reading", "contents", "examine"]

_CHECKED = ("result", "statistics")  # kinds of files with checksums


class Finding(Exception):
    """A file was read that must be refused."""


class Reading:
    """What was read, and how often the library refused to."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], Any] = {}
        self.refused = 0

    def attempt(self, key: tuple[str, ...], read: Callable[[], Any]) -> Any:
        """The value, or None where it is refused; anything but the library's errors is raised."""
        try:
            value = read()
        except QuipLinalgError:
            self.refused += 1
            return None
        self.values[key] = contents(value)
        return value


def examine(
    kind: str,
    path: Path,
    sound: Mapping | None = None,
    *,
    zeros: bool = False,
    sealed: bool = False,
) -> Reading:
    """Read everything in a file; raise :class:`Finding` for what should not have been accepted.

    ``sound`` is what was read before the damage.  ``zeros``: the damage may have written zeros.
    ``sealed``: the damage has made the checksums right.
    """
    reading = Reading()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _EXAMINERS[kind](reading, path, sound or {}, zeros)
        except QuipLinalgError:  # it could not be opened at all
            reading.refused += 1
    if kind in _CHECKED and sound is not None:
        for key, value in reading.values.items():
            if sealed:
                _require_finite(key, value)
            elif sound.get(key) != value:
                raise Finding(f"{key} is not what was written, and passed for it")
    return reading


def _problem(reading: Reading, path: Path, sound: Mapping, zeros: bool) -> None:
    with ql.open_problem(path) as problem:
        _layers(reading, problem, sound, zeros)
        for name in problem.arrays:
            reading.attempt(("array", name), lambda name=name: problem.array(name))
        for name in problem.names:
            if reading.values.get(("hessian", name)) != sound.get(("hessian", name)):
                _by_pieces(reading, problem, name)


def _by_pieces(reading: Reading, problem: ProblemReader, name: str) -> None:
    """As what rounds with a Hessian that does not fit in memory reads it."""
    reading.attempt(("digests", name), lambda: problem.digests(name))
    try:
        source = problem.hessian_source(name)
        source.check(2**20)
    except QuipLinalgError:
        reading.refused += 1
        return
    everything = slice(0, source.n)
    if not np.isfinite(source.block(everything, everything)).all():
        raise Finding(f"NaN or infinity in the Hessian of {name!r} passed, read by pieces")


def _keras(reading: Reading, path: Path, sound: Mapping, zeros: bool) -> None:
    with ql.open_keras(path, keras_mapping(path)) as problem:
        _layers(reading, problem, sound, zeros)


def _result(reading: Reading, path: Path, sound: Mapping, zeros: bool) -> None:
    with ql.open_result(path) as result:
        for name in result.names:
            kind = reading.attempt(("kind", name), lambda name=name: result.kind(name))
            read = result.pruned if kind == "pruned" else result.layer
            reading.attempt(("layer", name), lambda read=read, name=name: read(name))
            reading.attempt(("attributes", name), lambda name=name: result.attributes(name))


def _statistics(reading: Reading, path: Path, sound: Mapping, zeros: bool) -> None:
    with ql.open_statistics(path) as statistics:
        for name in statistics.names:
            info = reading.attempt(("info", name), lambda name=name: statistics.info(name))
            reading.attempt(("hessian", name), lambda name=name: statistics.hessian(name))
            if info is not None and info.kind == "cross":
                reading.attempt(("cross", name), lambda name=name: statistics.cross(name))


_EXAMINERS = {
    "problem": _problem, "keras": _keras, "result": _result, "statistics": _statistics,
}  # fmt: skip


def _layers(reading: Reading, problem: ProblemSource, sound: Mapping, zeros: bool) -> None:
    """As a program that rounds every layer reads them."""
    reading.attempt(("shared",), problem.shared)
    for name in problem.names:
        W = reading.attempt(("weight", name), lambda name=name: problem.weight(name))
        H = reading.attempt(("hessian", name), lambda name=name: problem.hessian(name))
        for argument, array in (("weight", W), ("hessian", H)):
            if array is not None and not zeros and _has_hole(array):
                raise Finding(f"{argument} of {name!r} has zeros that were never written")
        keys = ("weight", name), ("hessian", name)
        if W is None or H is None or all(reading.values[key] == sound.get(key) for key in keys):
            continue
        try:
            rounded = ql.ldlq(W, H, bits=3)
        except QuipLinalgError:
            reading.refused += 1
            continue
        if not (np.isfinite(_wide(W)).all() and np.isfinite(_wide(H)).all()):
            raise Finding(f"NaN or infinity of {name!r} was rounded")
        _require_finite(("rounded", name), contents(rounded.grid))


def _wide(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64)


def _has_hole(array: np.ndarray) -> bool:
    """Whether more zeros follow each other than HDF5 leaves anywhere between its structures."""
    stored = array if array.flags.c_contiguous else array.T
    edges = np.flatnonzero(np.concatenate([[1], _wide(stored).ravel(), [1]]))
    return int(np.diff(edges).max() - 1) * array.itemsize >= HOLE


def contents(value: Any) -> Any:
    """Everything in a value, in a form that ``==`` compares, NaN being equal to NaN."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if hasattr(value, "to_parts"):
        return contents(value.to_parts())
    if dataclasses.is_dataclass(value):
        return {f.name: contents(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: contents(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [contents(item) for item in value]
    return repr(value)


def _require_finite(key: tuple[str, ...], found: Any) -> None:
    """Raise where an array among contents has NaN or infinity."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        for item in found:
            _require_finite(key, item)
    elif isinstance(found, tuple) and found[0].lstrip("<>|=").startswith("f"):
        if not np.isfinite(np.frombuffer(found[2], found[0])).all():
            raise Finding(f"{key} has NaN or infinity")
