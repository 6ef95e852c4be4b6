"""A test of quantisers that fit the scales of groups of columns while they round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float, suggest_keywords
from quiplinalg.arrays import to_numpy
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.parallel import single_blas_thread
from quiplinalg.reference import minmax_grid
from quiplinalg.testing.assertions import assert_on_grid, assert_rounds_targets
from quiplinalg.testing.builders import make_hessian, make_weights
from quiplinalg.testing.comparing import targets
from quiplinalg.testing.report import GUARANTEES, Broken, QuantizerReport

__all__ = ["check_group_quantizer"]

_BLOCKS = (16, 32, 64, 96, 100, 128, 256, 1 << 30)
_PROBLEMS = ((6, 24, 8, 4), (6, 80, 32, 3), (8, 200, 32, 2), (4, 272, 48, 4))


@suggest_keywords()
def check_group_quantizer(
    quantize: Callable[..., Any],
    *,
    fit: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]] = minmax_grid,
    rtol: float = 1e-5,
    damp: float = 0.0,
    convert: Callable[[np.ndarray], Any] | None = None,
) -> QuantizerReport:
    """Run a quantiser with group scales over seeded problems; find scales that are out of date.

    The scale of a group must be fitted to its weights as they are when its first column is
    reached: with the errors of all columns before it made up for.  Code that applies the feedback
    in blocks, and fits inside a block, fits to weights that are not: its result depends on the size
    of the block.

    Parameters
    ----------
    quantize : callable, (W, H, bits, group_size) -> (codes, scale, zero)
        Columns are rounded from 0 to n-1, group_size at a time; codes are integers, or floats for
        rounded weights; scale and zero are (m, groups).
    fit : callable, (X, bits) -> (scale, zero)
        How a grid is fitted to the (m, group_size) weights of a group, each result (m, 1).
        Default: the min-max grid of the GPTQ code.
    rtol : float
        Of the scales.
    damp : float
        The fraction of the mean diagonal of H that it adds itself.
    convert : callable, optional
        Makes your framework's array of a NumPy one.

    Returns
    -------
    QuantizerReport

    Notes
    -----
    Groups of 8 to 48 columns in layers of up to 272: blocks of 16 to 256 show.

    References
    ----------
    Frantar, Ashkboos, Hoefler, Alistarh, GPTQ (arXiv 2210.17323), section 4 on grouping.

    Examples
    --------
    >>> from quiplinalg import reference
    >>> def fresh(W, H, bits, group_size):
    ...     r = reference.gptq(W, H, group_size=group_size, bits=bits)
    ...     return r.codes, r.scale, r.zero
    >>> print(check_group_quantizer(fresh))
    5 guarantees hold on 4 calls
    >>> def static(W, H, bits, group_size):
    ...     s, o = reference.minmax_grid(W, bits, group_size=group_size)
    ...     group = np.arange(W.shape[1]) // group_size
    ...     return reference.ldlq(W, H, s, o, 2**bits - 1, group_index=group).codes, s, o
    >>> print(check_group_quantizer(static).diagnosis)
    the scales are those of the original weights: no feedback has reached them
    """
    for name, value, wrong in (
        ("quantize", quantize, not callable(quantize)),
        ("fit", fit, not callable(fit)),
        ("convert", convert, not (convert is None or callable(convert))),
        ("rtol", rtol, not 0 < as_float(rtol) < 1),
        ("damp", damp, not 0 <= as_float(damp) < 1),
    ):
        if wrong:
            wanted = "between 0 and 1" if name in ("rtol", "damp") else "a function"
            raise InvalidArgumentError(
                f"{name} must be {wanted}; got {name}={value!r}. The default is the usual choice."
            )
    found: dict[str, list[tuple[str, str]]] = {}
    origins: set[int] = set(_BLOCKS)
    with single_blas_thread():  # the problems are small
        for seed, (m, n, size, bits) in enumerate(_PROBLEMS):
            name = f"{m} x {n}, groups of {size}, {bits} bits"
            W, H = make_weights("normal", m, n, seed), make_hessian("power", n, seed)
            arrays = [W.copy(), H.copy()]
            passed = arrays if convert is None else [convert(a) for a in arrays]
            try:
                result, scale, zero = (
                    to_numpy(a, "result", integers=True) for a in quantize(*passed, bits, size)
                )
                if scale.shape != (m, -(-n // size)) or zero.shape != scale.shape:
                    raise AssertionError(f"scale is {scale.shape}, zero {zero.shape}")
                if not ((scale > 0) & np.isfinite(scale) & np.isfinite(zero)).all():
                    raise AssertionError("scale must be positive and finite, and zero finite")
            except Exception as error:
                found.setdefault("runs", []).append((name, f"{type(error).__name__}: {error}"))
                continue
            if not (np.array_equal(arrays[0], W) and np.array_equal(arrays[1], H)):
                found.setdefault("inputs", []).append((name, "an argument was written into"))
            s, o = scale.astype(np.float64), zero.astype(np.float64)
            group = np.arange(n) // size
            damped = H + damp * np.trace(H) / n * np.eye(n)
            try:
                codes = assert_on_grid(result, s, o, 2**bits - 1, group_index=group)
            except AssertionError as error:
                found.setdefault("grid", []).append((name, str(error)))
                continue
            tau = (
                max(1e-9, 1e2 * n * float(np.finfo(result.dtype).eps))
                if result.dtype.kind == "f"
                else 1e-9
            )
            try:
                assert_rounds_targets(
                    codes,
                    W,
                    damped,
                    s,
                    o,
                    2**bits - 1,
                    group_index=group,
                    tau=max(tau, 1e2 * rtol**2),
                )
            except AssertionError as error:
                found.setdefault("targets", []).append((name, str(error)))
            bad = _stale(W, damped, codes, s, o, group, size, bits, fit, rtol)
            if bad is not None:
                found.setdefault("group scales", []).append((name, bad[0]))
                origins &= bad[1]
        broken = tuple(Broken(g, *found[g][0], len(found[g])) for g in GUARANTEES if g in found)
    diagnosis = ""
    if broken:
        first = broken[0]
        diagnosis = f"{first.guarantee} on {first.problem}: {first.message}"
    if "targets" in found:
        diagnosis = "the codes are wrong even for these scales: try check_quantizer first"
    elif "group scales" in found:
        diagnosis = _origin(origins)
    checked = ("runs", "inputs", "grid", "targets", "group scales")
    return QuantizerReport(not broken, broken, diagnosis, checked, len(_PROBLEMS))


def _stale(
    W: np.ndarray,
    H: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    group: np.ndarray,
    size: int,
    bits: int,
    fit: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    rtol: float,
) -> tuple[str, set[int]] | None:
    """What is wrong with the scales, and the blocks that explain it; None if nothing is wrong."""
    m, n = W.shape
    _, s, o = targets(codes, W, H, scale, zero, None, group)
    E = s * (codes - o) - W

    def current(start: int, known: int) -> np.ndarray:
        """The weights of the group at ``start``, with the columns before ``known`` made up for."""
        if known == 0:
            return W[:, start : start + size]
        # w_F - E_S H_SF H_FF^-1: the minimum that is left when the columns S are fixed
        rest = (
            W[:, known:] - np.linalg.solve(H[known:, known:], H[known:, :known] @ E[:, :known].T).T
        )
        return rest[:, start - known : start - known + size]

    def same(start: int, known: int) -> bool:
        step, offset = (np.reshape(a, m) for a in fit(current(start, known), bits))
        mine = np.abs(scale[:, start // size] - step) <= rtol * step
        # a whole zero is rounded too: at a tie, in one row, it may be the next one
        shifted = np.abs(zero[:, start // size] - offset)
        return bool(mine.all() and (shifted <= 1 + rtol).all() and (shifted > rtol).sum() <= 1)

    wrong = [start for start in range(0, n, size) if not same(start, start)]
    if not wrong:
        return None
    message = (
        f"{len(wrong)} of {-(-n // size)} groups have other scales, the first at column {wrong[0]}"
    )
    # a block so large that it is the whole layer stands for scales of the original weights
    return message, {
        block
        for block in _BLOCKS
        if all(same(start, start // block * block) for start in range(0, n, size))
    }


def _origin(blocks: set[int]) -> str:
    """Say which weights the scales fit."""
    if max(_BLOCKS) in blocks:
        return "the scales are those of the original weights: no feedback has reached them"
    if blocks:
        return (
            f"the scales are out of date inside blocks of {min(blocks)} columns: the feedback of "
            "the block has not reached them"
        )
    return "the scales fit neither the current nor the original weights"
