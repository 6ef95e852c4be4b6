"""Incoherence processing: rescale and rotate W and H together, and undo it (QuIP, alg. 1, 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix, check_finite, work_dtype
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.incoherence.draws import check_seed
from quiplinalg.incoherence.hadamard import hadamard_orthogonal
from quiplinalg.incoherence.kronecker import kronecker_orthogonal
from quiplinalg.incoherence.rescale import check_rescale, input_scales
from quiplinalg.incoherence.rotation import Rotation
from quiplinalg.kernels.record import select
from quiplinalg.parallel import run_all
from quiplinalg.symmetric import symmetric_matrix

__all__ = [
    "OUTPUT_SEED",
    "ROTATIONS",
    "SIDES",
    "Processing",
    "incoherence_process",
    "make_processing",
    "without_dead",
]

_MAKE = {"hadamard": hadamard_orthogonal, "kronecker": kronecker_orthogonal}
ROTATIONS = tuple(_MAKE)
SIDES = ("input", "both")
OUTPUT_SEED = 0x5851F42D4C957F2D  # added for the output side: square layers get two rotations
_ROWS = 64


@dataclass(frozen=True, eq=False)
class Processing:
    """How a weight and its Hessian were processed, and how to go back.

    W' = U W diag(s) V^T and H' = V diag(1/s) H diag(1/s) V^T, so that for every error E of W,
    tr(E' H' E'^T) = tr(E H E^T).

    Attributes
    ----------
    shape : (int, int)
        (m, n) of W.
    scales : ndarray, (n,), float64, or None
        s, positive; each is exactly a float16 number.  None: ones.
    input : Rotation or None
        V, (n, n).  None: the identity.
    output : Rotation or None
        U, (m, m).

    The methods take a ``backend`` for the rotations: "auto", "cpu" or "generic".
    """

    shape: tuple[int, int]
    scales: np.ndarray | None
    input: Rotation | None
    output: Rotation | None

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        m, n = self.shape
        for name, rotation, size in (("input", self.input, n), ("output", self.output, m)):
            if rotation is not None and rotation.n != size:
                raise InvalidArgumentError(
                    f"{name} must be a rotation of n={size} for weights of shape {self.shape}; got "
                    f"{rotation!r}. Make it with the size of that side."
                )
        scales = self.scales
        if scales is not None and not (
            scales.shape == (n,)
            and (scales > 0).all()
            and (scales == scales.astype(np.float16)).all()
        ):
            raise InvalidArgumentError(
                f"scales must be {n} positive float16 numbers, as they are stored; got "
                f"{scales.dtype} of shape {scales.shape}. input_scales makes them."
            )

    def weight(self, W: Any, backend: str = "auto") -> np.ndarray:
        """Return W' = U W diag(s) V^T, (m, n), float64 for a float64 W, else float32."""
        weight = self._checked(W, "W")
        if self.input is not None:
            weight = self.input.apply(weight, backend=backend, scales=self.scales)
        elif self.scales is not None:
            weight = _times(weight, self.scales)
        if self.output is not None:
            weight = self.output.apply(weight, "left", backend)
        return weight

    def hessian(self, H: Any, backend: str = "auto") -> np.ndarray:
        """Return H' = V diag(1/s) H diag(1/s) V^T, (n, n), float64, as symmetric as H."""
        hessian = symmetric_matrix(H, "H", select(backend))
        n = self.shape[1]
        if hessian.shape[0] != n:
            raise InvalidArgumentError(
                f"H must be ({n}, {n}), for W of shape {self.shape}; got {hessian.shape}. "
                "Pass the H of the layer that was processed."
            )
        inverse = None if self.scales is None else 1 / self.scales
        if self.input is not None:
            return self.input.conjugate(hessian, backend, inverse, np.float64)
        wide = hessian.astype(np.float64)
        if inverse is not None:
            for i in range(n):
                wide[i] *= inverse * inverse[i]  # symmetric to the bit
        return wide

    def undo(self, W_hat: Any, backend: str = "auto") -> np.ndarray:
        """Return U^T W_hat V diag(1/s), (m, n): the rounded weights in the original basis."""
        rounded = self._checked(W_hat, "W_hat")
        if self.output is not None:
            rounded = self.output.apply_transposed(rounded, "left", backend)
        inverse = None if self.scales is None else 1 / self.scales
        if self.input is not None:
            rounded = self.input.apply_transposed(rounded, backend=backend, scales=inverse)
        elif inverse is not None:
            rounded = _times(rounded, inverse)
        return rounded

    @property
    def storage_bits(self) -> int:
        """Bits that must be stored to undo it: 16 for each scale, and those of the rotations."""
        scales = 0 if self.scales is None else 16 * self.scales.size
        return scales + sum(r.storage_bits for r in (self.input, self.output) if r is not None)

    @property
    def is_nothing(self) -> bool:
        """Whether W' = W and H' = H."""
        return self.scales is None and self.input is None and self.output is None

    @property
    def rotation(self) -> str:
        """The kind of rotation, or "none"."""
        return "none" if self.input is None else self.input.kind

    def to_parts(self) -> tuple[dict[str, str | int], dict[str, np.ndarray]]:
        """Return the scalars and the arrays that `from_parts` makes this object from."""
        scalars: dict[str, str | int] = {}
        arrays = {} if self.scales is None else {"scales": self.scales.astype(np.float16)}
        for side, rotation in (("input", self.input), ("output", self.output)):
            if rotation is not None:
                scalars |= {f"{side}_rotation": rotation.kind, f"{side}_seed": rotation.seed}
                arrays |= {f"{side}_{key}": a for key, a in rotation.to_arrays().items()}
        return scalars, arrays

    @classmethod
    def from_parts(
        cls,
        shape: tuple[int, int],
        scalars: Mapping[str, str | int],
        arrays: Mapping[str, np.ndarray],
    ) -> Processing:
        """Return the processing of what `to_parts` gave; InvalidArgumentError where it is none."""
        stray = [
            key
            for key in arrays
            if key != "scales" and f"{key.partition('_')[0]}_rotation" not in scalars
        ]
        if stray or any(f"{side}_rotation" not in scalars and f"{side}_seed" in scalars
                        for side in ("input", "output")):  # fmt: skip
            raise InvalidArgumentError(
                f"The parts of a rotation need its kind; got {', '.join(stray) or 'a seed'} "
                "without. The layer is damaged: quantise it again."
            )
        scales = arrays.get("scales")
        if scales is not None:
            if scales.dtype.kind != "f":
                raise InvalidArgumentError(
                    f"scales must be floating; got {scales.dtype}. Quantise the layer again."
                )
            scales = scales.astype(np.float64)
        rotations: dict[str, Rotation | None] = {}
        for side, size in (("input", shape[1]), ("output", shape[0])):
            rotations[side] = None
            if f"{side}_rotation" in scalars:
                prefix = f"{side}_"
                own = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
                rotations[side] = Rotation.from_arrays(
                    str(scalars[f"{side}_rotation"]), size, check_seed(scalars.get(f"{side}_seed")),
                    own,
                )  # fmt: skip
        return cls(shape, scales, rotations["input"], rotations["output"])

    def _checked(self, W: Any, name: str) -> np.ndarray:
        matrix = as_matrix(W, name)
        matrix = np.ascontiguousarray(matrix, work_dtype(matrix))
        check_finite(matrix, name)
        if matrix.shape != self.shape:
            raise InvalidArgumentError(
                f"{name} must have the shape that was processed, {self.shape}; got {matrix.shape}. "
                "Pass W.T for Keras or Flax kernels."
            )
        return matrix

    def __repr__(self) -> str:
        parts = ["rescaled"] if self.scales is not None else []
        parts += [f"input {self.input!r}"] if self.input is not None else []
        parts += [f"output {self.output!r}"] if self.output is not None else []
        return f"Processing({self.shape[0]}x{self.shape[1]}: {', '.join(parts) or 'nothing'})"


def incoherence_process(
    W: Any,
    H: Any,
    *,
    rotation: str | None = "hadamard",
    sides: str = "input",
    rescale: bool | str | None = True,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, Processing]:
    """Rescale and rotate W and H so that neither has outliers; the loss stays the same.

    W' = U W diag(s) V^T and H' = V diag(1/s) H diag(1/s) V^T with random orthogonal U and V.

    Parameters
    ----------
    W : array, (m, n), floating
        Not changed.
    H : array, (n, n), floating
        Symmetric positive semidefinite; both triangles are checked.  Not changed.
    rotation : str or None
        "hadamard" (flattens single huge weights best, and is the fastest), "kronecker" (two Haar
        factors, as in QuIP), or None.
    sides : str
        "input": V only, U = I; with a scale per row this is as good as "both", which needs a
        rotation.
    rescale : bool or str
        True ("mean"), "trace" (the paper's), "volume", or False; see `input_scales`.
    seed : int
        0 to 2**63 - 1.

    Returns
    -------
    W', H', processing : ndarray (m, n), ndarray (n, n), Processing
        W' is float64 for a float64 W and float32 otherwise, H' is float64; ``processing.undo``
        takes rounded weights back to the original basis.

    Raises
    ------
    NonFiniteError, DTypeError, InvalidArgumentError, NotPositiveDefiniteError

    Notes
    -----
    O(m n sqrt(n)) flops for W at most, twice that with m = n for H; never a dense n x n rotation.
    The proxy loss is invariant to 1e-12 relative in float64 and 1e-5 in float32.  Whether it
    helps depends on the layer: `quip` with ``rotation="auto"`` measures it.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), algorithms 1 and 2.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> W = np.zeros((4, 64))
    >>> W[0, 0] = 1.0
    >>> W2, H2, processing = ql.incoherence_process(W, np.eye(64))
    >>> ql.mu_weight(W), bool(ql.mu_weight(W2) < 6)
    (16.0, True)
    >>> bool(np.abs(processing.undo(W2) - W).max() < 1e-14)
    True
    """
    processing = make_processing(W, H, rotation, sides, rescale, seed)
    return processing.weight(W), processing.hessian(H), processing


def without_dead(W: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Return W with zeros in the dead columns, whose diagonal of H is zero; W itself if none is.

    They cost nothing, and a rotation would spread them over the live ones.
    """
    dead = H.diagonal() == 0
    return np.where(dead, W.dtype.type(0), W) if dead.any() else W


def make_processing(
    W: Any, H: Any, rotation: str | None, sides: str, rescale: bool | str | None, seed: int
) -> Processing:
    """Return the processing of a layer, without carrying it out; see `incoherence_process`."""
    if rotation is not None and (not isinstance(rotation, str) or rotation not in _MAKE):
        raise InvalidArgumentError(
            f"rotation must be {', '.join(map(repr, ROTATIONS))} or None; got "
            f"rotation={rotation!r}. 'hadamard' is the usual choice."
        )
    if sides not in SIDES:
        raise InvalidArgumentError(
            f"sides must be {' or '.join(map(repr, SIDES))}; got sides={sides!r}. "
            "'input' is as good as 'both' with a scale per row."
        )
    if rotation is None and sides == "both":
        raise InvalidArgumentError(
            "rotation must not be None with sides='both'; got rotation=None. Choose 'hadamard', or "
            "leave out sides."
        )
    name = check_rescale(rescale)
    check_seed(seed)
    m, n = as_matrix(W, "W").shape
    scales = None if name is None else input_scales(W, H, name)
    if rotation is None:
        return Processing((m, n), scales, None, None)
    output = None
    if sides == "both":
        output = _MAKE[rotation](m, (int(seed) + OUTPUT_SEED) % (1 << 63))
    return Processing((m, n), scales, _MAKE[rotation](n, int(seed)), output)


def _times(W: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """W diag(scales), in the dtype of W."""
    out = np.empty_like(W)
    factors = scales.astype(W.dtype)

    def rows(i: int) -> None:
        np.multiply(W[i : i + _ROWS], factors, out=out[i : i + _ROWS])

    run_all(rows, [(i,) for i in range(0, W.shape[0], _ROWS)])
    return out
