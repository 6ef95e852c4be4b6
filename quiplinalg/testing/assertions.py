"""Assertions on the results of rounding, whoever rounded: arrays of any framework.

They raise AssertionError, under ``python -O`` too, and a NaN never passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.arrays import as_matrix, to_numpy
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference import exhaustive, ldlq, nearest, row_losses, udu
from quiplinalg.reference.grids import dequantise
from quiplinalg.testing.comparing import targets, wrongness
from quiplinalg.testing.given import (
    read_codes,
    read_grid,
    read_hessian,
    read_numbers,
    read_order,
    read_pair,
    read_uniforms,
)

__all__ = [
    "assert_loss_identity",
    "assert_lower_bounds",
    "assert_monotone",
    "assert_on_grid",
    "assert_rounds_targets",
]

_ENUMERATED = 65536


def assert_on_grid(
    W_hat: Any,
    scale: Any,
    zero: Any,
    maxq: float,
    *,
    group_index: np.ndarray | None = None,
) -> np.ndarray:
    """Assert that every rounded weight is a point of its grid, and return the codes.

    Parameters
    ----------
    W_hat : array, (m, n)
        Integers are codes; floats are rounded weights, scale * (code - zero).
    scale, zero : array, (rows, groups)
        Rows is m or 1.
    maxq : float
        Largest code, or inf.
    group_index : ndarray, (n,), or None

    Returns
    -------
    ndarray, (m, n), int64
        The codes.

    Raises
    ------
    AssertionError
        A weight that is no grid point to 8 units of its precision, a code outside 0 .. maxq, or
        NaN.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> assert_on_grid(np.array([[-1.0, 2.0]]), one, one, 3)
    array([[0, 3]])
    >>> assert_on_grid(np.array([[-1.0, 2.5]]), one, one, 3)
    Traceback (most recent call last):
        ...
    AssertionError: 1 of 2 weights are no points of the grid, the first at row 0, column 1: ...
    """
    array = to_numpy(W_hat, "W_hat", integers=True)
    if array.ndim != 2:
        raise AssertionError(f"W_hat must be a matrix; it has shape {array.shape}")
    m, n = array.shape
    s, o, group = read_grid(scale, zero, maxq, m, n, group_index)
    if array.dtype.kind not in "iub":
        s, o = (np.broadcast_to(a[:, group], (m, n)) for a in (s, o))
        values = array.astype(np.float64)
        with np.errstate(invalid="ignore"):
            whole = np.rint(values / s + o)
            error = np.abs(values - s * (whole - o))
        # scale and zero may have been rounded to the precision of W_hat before
        unit = 8 * float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 2.0**-6
        bad = ~(error <= unit * s * (np.abs(whole) + np.abs(o) + 1))
        if bad.any():
            i, j = (int(x) for x in np.argwhere(bad)[0])
            raise AssertionError(
                f"{int(bad.sum())} of {bad.size} weights are no points of the grid, the first at "
                f"row {i}, column {j}: {values[i, j]:.9g} is {error[i, j] / s[i, j]:.3g} steps off"
            )
        array = whole
    return read_codes(array, "codes", (m, n), maxq)


def assert_rounds_targets(
    codes: Any,
    W: Any,
    H: Any,
    scale: Any,
    zero: Any,
    maxq: float,
    *,
    order: np.ndarray | None = None,
    group_index: np.ndarray | None = None,
    uniforms: np.ndarray | None = None,
    tau: float | np.ndarray = 1e-9,
) -> float:
    """Assert the certificate of rounding with feedback: |eta| <= 1/2, or clipped.

    With H = T D T^T in the order of rounding, E T = eta = W_hat - z: from the codes alone come the
    targets z that LDLQ (and GPTQ, OBQ in this order, and Babai's nearest plane) would have rounded,
    and each code must be the rounding of its own.

    Parameters
    ----------
    codes : array, (m, n), integer
    W : array, (m, n)
    H : array, (n, n)
        What was factored: with its damping.
    scale, zero : array, (rows, groups)
    maxq : float
        Largest code, or inf.
    order : ndarray, (n,), or None
        Column ``order[k]`` is rounded at step k.
    group_index : ndarray, (n,), or None
    uniforms : ndarray, (m, n), or None
        The u of code = floor(z / scale + zero + u), for stochastic rounding.
    tau : float, or ndarray that broadcasts to (m, n)
        What rounding errors of a target may be, in grid units; in the order of rounding.

    Returns
    -------
    float
        By how much the worst code misses, in grid units.

    Raises
    ------
    AssertionError

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304), section 3.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> one, zero = np.ones((1, 1)), np.zeros((1, 1))
    >>> assert_rounds_targets(np.array([[0, 1]]), W, H, one, zero, 3)
    0.0
    >>> assert_rounds_targets(np.array([[0, 0]]), W, H, one, zero, 3)  # nearest
    Traceback (most recent call last):
        ...
    AssertionError: 1 of 2 codes are not the rounding of their targets, the first at row 0, step ...
    """
    weight = as_matrix(W, "W").astype(np.float64)
    m, n = weight.shape
    hessian, perm = read_hessian(H, n), read_order(order, n)
    s, o, group = read_grid(scale, zero, maxq, m, n, group_index)
    whole = read_codes(codes, "codes", (m, n), maxq)
    z, s, o = targets(whole, weight, hessian, s, o, perm, group)
    u = None if uniforms is None else read_uniforms(uniforms, m, n)[:, perm]
    missed = wrongness(whole[:, perm], z, s, o, maxq, u)
    bad = ~(missed <= tau)
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        step = int(np.argmax(bad[row]))
        raise AssertionError(
            f"{int(bad.sum())} of {bad.size} codes are not the rounding of their targets, the "
            f"first at row {row}, step {step} (column {int(perm[step])}): code "
            f"{int(whole[row, perm[step]])} for the target {z[row, step] / s[row, step]:.6g} steps "
            f"from zero; the worst is off by {missed.max():.3g} steps"
        )
    return float(missed.max(initial=0.0))


def assert_loss_identity(
    W_hat: Any,
    W: Any,
    H: Any,
    loss: float | None = None,
    *,
    order: np.ndarray | None = None,
    factor: tuple[Any, Any] | None = None,
    damp: float = 0.0,
    rtol: float = 1e-9,
) -> float:
    """Assert sum_rk D_k eta_rk^2 - damp ||E||^2 = tr(E H E^T), E = W_hat - W, eta = E T.

    True of any rounding: clamped, stochastic, wrong.  So what it tests is a factor, or a reported
    loss.

    Parameters
    ----------
    W_hat, W : array, (m, n), floating
    H : array, (n, n), floating
        Without damping.
    loss : float, optional
        What your quantiser reports; compared with tr(E H E^T).
    order : ndarray, (n,), or None
        Column ``order[k]`` is rounded at step k.
    factor : (T, D), optional
        Your factor of H + damp I in that order, T unit upper triangular.  Default: a reference one.
    damp : float
        In H's units.
    rtol : float
        Of sum D eta^2 + damp ||E||^2, the terms of the difference.

    Returns
    -------
    float
        tr(E H E^T).

    Raises
    ------
    AssertionError

    Notes
    -----
    GPTQ's printed error is half of the damped loss: (tr(E H E^T) + damp ||E||^2) / 2.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> round(assert_loss_identity(np.array([[0.0, 1.0]]), W, H), 6)
    0.0665
    >>> assert_loss_identity(np.array([[0.0, 1.0]]), W, H, loss=0.07)
    Traceback (most recent call last):
        ...
    AssertionError: the reported loss is 0.07; tr(E H E^T) is 0.0665
    """
    rounded, weight = read_pair(W_hat, W)
    n = weight.shape[1]
    hessian, perm = read_hessian(H, n), read_order(order, n)
    if not as_float(damp) >= 0:
        raise InvalidArgumentError(f"damp must be at least 0; got damp={damp!r}. 0 for none.")
    E = rounded.astype(np.float64) - weight.astype(np.float64)
    if not np.isfinite(E).all():
        raise AssertionError("W_hat - W holds NaN or infinity")
    if factor is None:
        T, D = udu(hessian[np.ix_(perm, perm)] + damp * np.eye(n))
    else:
        T, D = (to_numpy(a, "factor").astype(np.float64) for a in factor)
        if T.shape != (n, n) or D.shape != (n,):
            raise InvalidArgumentError(
                f"factor must be (T, D) of shapes ({n}, {n}) and ({n},); got {T.shape} and "
                f"{D.shape}. T is unit upper triangular, D the pivots."
            )
    direct = float(row_losses(rounded, weight, hessian).sum())
    whole = float((D * np.square(E[:, perm] @ T)).sum())
    added = damp * float(np.square(E).sum())
    allowed = rtol * (whole + added)
    if not abs(whole - added - direct) <= allowed:
        raise AssertionError(
            f"sum D eta^2 - damp ||E||^2 is {whole - added:.9g}; tr(E H E^T) is {direct:.9g}: "
            "T diag(D) T^T is not H + damp I in this order"
        )
    if loss is not None and not abs(as_float(loss) - direct) <= allowed:
        raise AssertionError(
            f"the reported loss is {as_float(loss):.9g}; tr(E H E^T) is {direct:.9g}"
        )
    return direct


def assert_monotone(values: Any, *, increasing: bool = False, slack: float = 0.0) -> None:
    """Assert that a sequence never rises (or never falls): losses of descent passes, bounds.

    Parameters
    ----------
    values : array, (k,) or (m, k)
        Along the last axis.
    increasing : bool
        Ask that it never falls instead.
    slack : float
        What rounding errors may add to a step, absolutely.

    Raises
    ------
    AssertionError

    Returns
    -------
    None

    Examples
    --------
    >>> assert_monotone([3.0, 2.0, 2.0])
    >>> assert_monotone([3.0, 2.0, 2.5])
    Traceback (most recent call last):
        ...
    AssertionError: step 2 goes from 2 to 2.5, up by 0.5
    """
    array = read_numbers(values, "values")
    if array.ndim == 0:
        raise InvalidArgumentError(
            f"values must be a sequence; got values={values!r}. Pass the loss after each pass."
        )
    if not np.isfinite(array).all():
        raise AssertionError("the values must be finite")
    rise = np.diff(array, axis=-1) * (-1 if increasing else 1)
    bad = ~(rise <= slack)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        after = array[(*at[:-1], at[-1] + 1)]
        raise AssertionError(
            f"step {at[-1] + 1} goes from {array[at]:.9g} to {after:.9g}, "
            f"{'down' if increasing else 'up'} by {rise[at]:.3g}"
        )


def assert_lower_bounds(
    bounds: Any,
    W: Any,
    H: Any,
    scale: Any,
    zero: Any,
    maxq: float,
    *,
    group_index: np.ndarray | None = None,
    rtol: float = 1e-12,
) -> float:
    """Assert that certified lower bounds are below the loss of the best codes of each row.

    Parameters
    ----------
    bounds : array, (m,)
        What a certificate says no codes can beat.
    W : array, (m, n)
    H : array, (n, n)
    scale, zero : array, (rows, groups)
    maxq : float
        Largest code, or inf.
    group_index : ndarray, (n,), or None
    rtol : float
        For the rounding errors of the loss.

    Returns
    -------
    float
        The largest ratio of a bound to the least loss known: how tight the bounds are.

    Raises
    ------
    AssertionError

    Notes
    -----
    Against the exact optimum, by enumeration, where (maxq + 1)^n is at most 65536; else against
    LDLQ in two orders and nearest, which is a weaker test.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> one, zero = np.ones((1, 1)), np.zeros((1, 1))
    >>> assert_lower_bounds([0.0], W, H, one, zero, 3)
    0.0
    >>> assert_lower_bounds([0.1], W, H, one, zero, 3)
    Traceback (most recent call last):
        ...
    AssertionError: the bound of row 0 is 0.1; codes of loss 0.0665 exist
    """
    weight = as_matrix(W, "W").astype(np.float64)
    m, n = weight.shape
    hessian = read_hessian(H, n)
    claimed = read_numbers(bounds, "bounds")
    if claimed.shape != (m,):
        raise InvalidArgumentError(
            f"bounds must be one number a row, ({m},); got {claimed.shape}. Divide a total by none."
        )
    s, o, group = read_grid(scale, zero, maxq, m, n, group_index)
    grid = {"group_index": group}
    if np.isfinite(maxq) and (maxq + 1) ** n <= _ENUMERATED:
        least = exhaustive(weight, hessian, s, o, maxq, **grid)[1]
    else:
        found = [
            row_losses(
                dequantise(nearest(weight, s, o, maxq, **grid), s, o, **grid), weight, hessian
            )
        ]
        for order in (np.arange(n), np.argsort(-hessian.diagonal(), kind="stable")):
            found.append(ldlq(weight, hessian, s, o, maxq, order=order, **grid).loss)
        least = np.min(found, axis=0)
    bad = ~(claimed <= least * (1 + rtol))
    if bad.any():
        row = int(np.argmax(bad))
        raise AssertionError(
            f"the bound of row {row} is {claimed[row]:.9g}; codes of loss {least[row]:.9g} exist"
        )
    ratios = claimed[least > 0] / least[least > 0]
    return float(ratios.max(initial=0.0))
