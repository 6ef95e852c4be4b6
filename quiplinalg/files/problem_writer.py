"""Writing problem files: the weights and Hessians of many layers in one HDF5 file."""

from __future__ import annotations

import hashlib
import os
from numbers import Real
from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix, check_finite, to_numpy
from quiplinalg.errors import DTypeError, InvalidArgumentError
from quiplinalg.files.elements import FLOATS, make_group, set_attributes, write_array
from quiplinalg.files.reader import NORMALIZATIONS, ORIENTATIONS, STORAGES, input_count
from quiplinalg.files.triangle import pack_lower
from quiplinalg.files.writer import AtomicWriter
from quiplinalg.hessian.accumulate import Hessian

__all__ = ["ProblemWriter"]


class ProblemWriter(AtomicWriter):
    """Write a problem file; it appears under its name when the ``with`` block ends cleanly.

    Parameters
    ----------
    path : str or path-like
        Where the file will be; the data go to a hidden temporary file beside it until then.
    overwrite : bool
        Replace an existing file, in one step at the end.

    Raises
    ------
    InvalidArgumentError
        The file exists and ``overwrite`` is False, or its directory does not exist.

    Examples
    --------
    >>> import tempfile, os, numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "problem.h5")
    >>> with ProblemWriter(path) as writer:
    ...     writer.add("block/q", np.ones((3, 2)), np.eye(2))
    ...     writer.add("block/k", np.ones((5, 2)), shared_hessian_of="block/q")
    >>> from quiplinalg.files import open_problem
    >>> with open_problem(path) as problem:
    ...     problem.shared()
    [['block/k', 'block/q']]
    """

    _encoding = "quiplinalg-problem"
    _groups = ("layers", "arrays")

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        super().__init__(path, overwrite)
        self._hessian_of: dict[str, tuple[str, int]] = {}  # layer name: (dataset, n)
        self._stored: dict[tuple, str] = {}  # content of a Hessian: dataset

    def add(
        self,
        name: str,
        weight: Any,
        hessian: Any = None,
        *,
        orientation: str = "out_in",
        n_samples: int | None = None,
        normalization: str = "mean",
        storage: str = "lower",
        shared_hessian_of: str | None = None,
        sensitivity: float | None = None,
    ) -> None:
        """Add a layer.

        Parameters
        ----------
        name : str
            Parts joined by ``/`` become nested groups.
        weight : array_like, (m, n) for "out_in", (n, m) for "in_out"
            float16, bfloat16, float32 or float64, of any framework, in host memory.
        hessian : array_like, (n, n), symmetric, or (n,), or Hessian
            Second moments of the inputs.  A Hessian equal to an earlier one is stored once.  Of an
            accumulator, its mean and its count: leave ``n_samples`` and ``normalization`` out.
        orientation : str
            "out_in", or "in_out" for Keras and Flax kernels.
        n_samples : int or None
            Inputs the Hessian was made of.
        normalization : str
            "mean" (X X^T / N), "sum" (X X^T), "2mean" (2 X X^T / N) or "unknown".
        storage : str
            "lower" stores the lower triangle, half the size; "full" the matrix as it is, which
            other programs can memory-map; "diagonal" takes a vector, the diagonal of a Hessian of
            which no more is known: such layers can only be rounded by `nearest`.
        shared_hessian_of : str or None
            An earlier layer whose Hessian (with its samples and normalisation) this layer
            shares, instead of ``hessian``.
        sensitivity : float > 0, or None for 1
            What the layer's loss is multiplied by where bits are shared out among layers, as the
            second derivative of the model's loss along its outputs.

        Raises
        ------
        InvalidArgumentError
            A name, shape or keyword that does not fit; a Hessian that is not symmetric.
        DTypeError, NonFiniteError
            Not floats; NaN or infinity.
        """
        file, parts = self._file, self._check_name("layers", name)
        _check_choice("orientation", orientation, ORIENTATIONS)
        _check_sensitivity(sensitivity)
        W = _floats(weight, "weight")
        n = input_count(W.shape, orientation)
        if (hessian is None) == (shared_hessian_of is None):
            raise InvalidArgumentError(
                f"one of hessian and shared_hessian_of must be given; got "
                f"{'neither' if hessian is None else 'both'} for layer {name!r}."
            )
        if hessian is None:
            target: str | None = self._earlier(shared_hessian_of, n)
        else:
            if isinstance(hessian, Hessian):
                if n_samples is not None or normalization != "mean":
                    raise InvalidArgumentError(
                        f"n_samples and normalization must be left out where hessian is a Hessian, "
                        f"which knows them; got n_samples={n_samples!r}, "
                        f"normalization={normalization!r}."
                    )
                hessian, n_samples = hessian.mean(), hessian.count
            _check_choice("normalization", normalization, NORMALIZATIONS)
            _check_choice("storage", storage, STORAGES)
            count = _check_count(n_samples)
            if storage == "diagonal":
                stored = _diagonal(hessian, n)
            else:
                H = _floats(hessian, "hessian")
                _check_fit(H, W, n, orientation)
                stored = pack_lower(H) if storage == "lower" else np.ascontiguousarray(H)
            key = (_digest(stored), stored.dtype, stored.shape, storage, count, normalization)
            target = self._stored.get(key)

        with self._writing("layers", name):
            group = make_group(file["layers"], parts, "layer")
            set_attributes(group, sensitivity=sensitivity)
            write_array(group, "weight", W, "array", orientation=orientation)
            if target is not None:
                group["hessian"] = file[target]
            else:
                dataset = write_array(
                    group,
                    "hessian",
                    stored,
                    "hessian",
                    storage=storage,
                    n_samples=count,
                    normalization=normalization,
                )
                target = self._stored[key] = dataset.name
        self._hessian_of[name] = (target, n)

    def add_array(self, name: str, array: Any) -> None:
        """Add an array of floats or integers of any shape, such as a bias or held-out inputs."""
        parts = self._check_name("arrays", name)
        a = to_numpy(array, name, integers=True)
        if a.dtype.newbyteorder("=") not in FLOATS and (a.dtype.kind not in "iub"):
            raise DTypeError(
                f"{name} must be float16, bfloat16, float32, float64 or integers; got {a.dtype}. "
                "Convert it first."
            )
        with self._writing("arrays", name):
            group = self._file["arrays"]
            if len(parts) > 1:
                parents = "/".join(parts[:-1])
                group = (
                    group[parents] if parents in group else make_group(group, parts[:-1], "group")
                )
            write_array(group, parts[-1], a, "array")

    def _earlier(self, other: str | None, n: int) -> str:
        if other not in self._hessian_of:
            raise InvalidArgumentError(
                f"shared_hessian_of must be a layer that was added before; got {other!r}. "
                "Add that layer first, with its Hessian."
            )
        target, size = self._hessian_of[other]
        if size != n:
            raise InvalidArgumentError(
                f"layers that share a Hessian must have as many inputs; got {n}, and {size} in "
                f"{other!r}. Pass weight.T, or orientation='in_out' for Keras/Flax kernels."
            )
        return target


def _check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidArgumentError(
            f"{argument} must be one of {', '.join(choices)}; got {argument}={value!r}."
        )


def _check_sensitivity(value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < np.inf:
        raise InvalidArgumentError(
            f"sensitivity must be a finite number above 0; got sensitivity={value!r}. "
            "Leave it out for 1."
        )


def _check_count(n_samples: int | None) -> int:
    if n_samples is None:
        return -1
    if isinstance(n_samples, bool) or not isinstance(n_samples, int | np.integer) or n_samples < 0:
        raise InvalidArgumentError(
            f"n_samples must be a whole number, or None if unknown; got n_samples={n_samples!r}."
        )
    return int(n_samples)


def _floats(x: Any, argument: str) -> np.ndarray:
    """A finite 2-D array in one of the dtypes that files hold."""
    return _finite_floats(as_matrix(x, argument), argument)


def _diagonal(x: Any, n: int) -> np.ndarray:
    a = to_numpy(x, "hessian")
    if a.shape != (n,):
        raise InvalidArgumentError(
            f"hessian must be its diagonal, ({n},), with storage='diagonal'; got "
            f"hessian.shape={a.shape}. Pass hessian.diagonal(), or leave storage out."
        )
    a = np.ascontiguousarray(_finite_floats(a, "hessian"))
    if (a < 0).any():
        raise InvalidArgumentError(
            f"hessian must have no negative diagonal; got {float(a.min()):.3g}. Take second "
            "moments of the inputs, or estimates of the trace that are not below 0."
        )
    return a


def _finite_floats(a: np.ndarray, argument: str) -> np.ndarray:
    if a.dtype.newbyteorder("=") not in FLOATS:
        raise DTypeError(
            f"{argument} must be float16, bfloat16, float32 or float64; got {a.dtype}. "
            f"Pass {argument}.astype(numpy.float32)."
        )
    check_finite(a, argument)
    return a


def _check_fit(H: np.ndarray, W: np.ndarray, n: int, orientation: str) -> None:
    if H.shape != (n, n):
        raise InvalidArgumentError(
            f"hessian must be ({n}, {n}) to match the {n} inputs of weight, {W.shape} in "
            f"orientation={orientation!r}; got hessian.shape={H.shape}. Pass weight.T / "
            "orientation='in_out' for Keras/Flax kernels."
        )
    # The error of a symmetric product in H's own precision stays far below sqrt(eps).
    work = np.float64 if H.dtype.itemsize == 8 else np.float32
    eps = 2.0**-7 if H.dtype.itemsize == 2 else float(np.finfo(H.dtype).eps)
    error = largest = 0.0
    for i in range(0, n, 256):
        rows = H[i : i + 256].astype(work)
        error = max(error, float(np.abs(rows - H[:, i : i + 256].T.astype(work)).max()))
        largest = max(largest, float(np.abs(rows).max()))
    if error > np.sqrt(eps) * largest:
        raise InvalidArgumentError(
            f"hessian must be symmetric; got max|H - H.T|={error:.3g} at max|H|={largest:.3g}. "
            "Fill in the other triangle, or pass (H + H.T) / 2."
        )


def _digest(a: np.ndarray) -> bytes:
    return hashlib.blake2b(a.reshape(-1).view(np.uint8).data).digest() if a.size else b""
