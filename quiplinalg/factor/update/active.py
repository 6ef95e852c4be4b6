"""The inverse of H_F, F the active rows: removing rows and columns, adjoining one back."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.update.checks import (
    check_range,
    indices,
    member_rows,
    numbers,
    symmetric_stack,
    vectors,
    writable,
)
from quiplinalg.factor.update.engine import apply, check_squares, condense, product
from quiplinalg.kernels.record import Kernels, select

__all__ = ["inverse_adjoin", "inverse_adjoin_into", "inverse_remove", "inverse_remove_into"]

_REMEDY = "Compute the inverse anew, in float64, from a damped H."


def inverse_remove(Hinv: Any, S: Any, *, backend: str = "auto") -> np.ndarray:
    """Return the inverse of H without its rows and columns S, from the inverse of H.

    With F the rows that stay (the downdate of Optimal Brain Surgeon)::

        (H_FF)^-1 = [H^-1]_FF - [H^-1]_FS ([H^-1]_SS)^-1 [H^-1]_SF

    Parameters
    ----------
    Hinv : array, (n, n) or (b, n, n), floating
        Inverse of a symmetric positive definite H, or a stack of them; both triangles are checked.
        float64 in float64, anything narrower in float32.  Not changed.
    S : int, or a sequence or set of k int; for a stack int, (b,) or (b, k)
        What is removed, counted in Hinv: for a stack, one index or one group for each matrix.
        All may be removed, or none.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    ndarray, (n - k, n - k) or (b, n - k, n - k)
        The rows that stay, in their order; NumPy, C order, as symmetric as Hinv.

    Raises
    ------
    NotPositiveDefiniteError
        [H^-1]_SS is not: Hinv has lost its accuracy, or was no such inverse.
    NonFiniteError, InvalidArgumentError, DTypeError
        NaN or infinity; an index out of range or twice, a matrix that is not square; not floating.

    Notes
    -----
    2 k n^2 flops; reads n^2 elements twice, one time for the check, and writes (n - k)^2.  A group
    is one Cholesky factorisation of k x k, in float64, and is equal to one removal after the
    other up to rounding.  Each removal adds an error of a few eps cond(H) relative to ||H^-1||,
    and never amplifies what error there was (`ActiveInverse` says in which norm).  n removals in
    float32 lose positive definiteness for n above about 1000: use float64, or refresh.

    The divisor is the diagonal of the inverse; dividing by H_qq instead is a common mistake.

    References
    ----------
    Hassibi and Stork, Second order derivatives for network pruning, NIPS 1992.
    Frantar and Alistarh, Optimal Brain Compression (arXiv 2208.11580), lemma 1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> H = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
    >>> np.round(ql.inverse_remove(np.linalg.inv(H), 0), 12)
    array([[0.5 , 0.  ],
           [0.  , 0.25]])
    """
    kernels = select(backend)
    inverse, single = symmetric_stack(Hinv, "Hinv", kernels)
    b, n, _ = inverse.shape
    chosen = indices(S, "S", b, n, single)
    left = n - chosen.shape[1]
    out = np.empty((b, left, left), inverse.dtype)
    _remove(inverse, chosen, single, out, kernels)
    return out[0] if single else out


def inverse_remove_into(Hinv: np.ndarray, S: Any, *, backend: str = "auto") -> np.ndarray:
    """Overwrite the leading block of the inverse of H with the inverse without rows S.

    Parameters
    ----------
    Hinv : ndarray, (n, n) or (b, n, n), float32 or float64, writable
        C or Fortran order, or a leading block of such an array, as this function returns it.  Its
        values are not checked: this is the form for inner loops.  What lies outside of the
        leading block afterwards has no meaning.
    S, backend
        As in `inverse_remove`.

    Returns
    -------
    ndarray, (n - k, n - k) or (b, n - k, n - k)
        A view of Hinv: its leading block.

    Raises
    ------
    NotPositiveDefiniteError, InvalidArgumentError, DTypeError
        As `inverse_remove`; Hinv is unchanged then.

    Notes
    -----
    Reads and writes n^2 elements once; k n elements of work space.  Of one matrix it uses one
    thread, because the rows move up.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> Hinv = np.diag([1.0, 2.0, 3.0])
    >>> ql.inverse_remove_into(Hinv, 1)
    array([[1., 0.],
           [0., 3.]])
    """
    a, single = writable(Hinv, "Hinv")
    inverse = a if a.strides[2] == a.itemsize else a.swapaxes(1, 2)
    b, n, _ = inverse.shape
    chosen = indices(S, "S", b, n, single)
    left = n - chosen.shape[1]
    _remove(inverse, chosen, single, inverse[:, :left, :left], select(backend))
    return Hinv[..., :left, :left]


def inverse_adjoin(
    Hinv: Any, a: Any, s: Any, at: Any = None, *, backend: str = "auto"
) -> np.ndarray:
    """Return the inverse of H_F with a row and column q put back, from the inverse of H_F.

    With u = H_F^-1 a and the Schur complement r = s - a^T u, q last::

        [[H_F, a], [a^T, s]]^-1 = [[H_F^-1 + u u^T / r, -u / r], [-u^T / r, 1 / r]]

    Parameters
    ----------
    Hinv : array, (n, n) or (b, n, n), floating
        Inverse of H_F, as in `inverse_remove`.
    a : array, (n,) or (b, n)
        H_Fq, in the order of Hinv.
    s : float, or (b,)
        H_qq.
    at : int, (b,) or None
        Position of the new row in the result, 0 to n; None: last.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    ndarray, (n + 1, n + 1) or (b, n + 1, n + 1)
        NumPy, C order, as symmetric as Hinv.

    Raises
    ------
    NotPositiveDefiniteError
        r <= 0: the larger H is not positive definite.  ``index`` is ``at``, ``pivot`` is r.
    NonFiniteError, InvalidArgumentError, DTypeError
        As `inverse_remove`.

    Notes
    -----
    4 n^2 flops; reads n^2 elements three times, one time for the check, and writes (n + 1)^2.  An
    error that Hinv has is amplified by s / r at most.  It undoes `inverse_remove` of one row.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 2.1.4.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> H = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
    >>> Hinv = np.linalg.inv(H)
    >>> again = ql.inverse_adjoin(ql.inverse_remove(Hinv, 1), H[[0, 2], 1], H[1, 1], 1)
    >>> bool(np.abs(again - Hinv).max() < 1e-15)
    True
    """
    kernels = select(backend)
    inverse, single = symmetric_stack(Hinv, "Hinv", kernels)
    b, n, _ = inverse.shape
    out = np.empty((b, n + 1, n + 1), inverse.dtype)
    _adjoin(inverse, a, s, at, single, out, kernels)
    return out[0] if single else out


def inverse_adjoin_into(
    Hinv: np.ndarray, a: Any, s: Any, at: Any = None, *, backend: str = "auto"
) -> np.ndarray:
    """Overwrite an array, whose leading block is the inverse of H_F, with that of one row more.

    Parameters
    ----------
    Hinv : ndarray, (n + 1, n + 1) or (b, n + 1, n + 1), float32 or float64, writable
        C or Fortran order, or a leading block of such an array.  Its leading (n, n) block is the
        inverse of H_F; its last row and column are not read.  Values are not checked.
    a, s, at, backend
        As in `inverse_adjoin`.

    Returns
    -------
    ndarray
        ``Hinv`` itself.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `inverse_adjoin`; Hinv is unchanged then.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> room = np.empty((2, 2))
    >>> room[0, 0] = 0.5
    >>> ql.inverse_adjoin_into(room, np.array([0.0]), 4.0)
    array([[0.5 , 0.  ],
           [0.  , 0.25]])
    """
    room, single = writable(Hinv, "Hinv")
    if room.shape[1] == 0:
        raise InvalidArgumentError(
            f"Hinv must have room for the new row, (n + 1, n + 1); got Hinv.shape={Hinv.shape}. "
            "Pass the array whose leading block the inverse is."
        )
    out = room if room.strides[2] == room.itemsize else room.swapaxes(1, 2)
    _adjoin(out[:, :-1, :-1], a, s, at, single, out, select(backend))
    return Hinv


def _remove(A: np.ndarray, S: np.ndarray, single: bool, out: np.ndarray, kernels: Kernels) -> None:
    """out = A_FF - V^T V with V = G^-1 A_SF, A_SS = G G^T; S is (b, k)."""
    b, k = S.shape
    n = A.shape[1]
    gone = np.zeros((b, n), bool)
    np.put_along_axis(gone, S, True, axis=1)
    keep = np.nonzero(~gone)[1].reshape(b, n - k)
    member = np.arange(b)[:, None, None]
    C = A[member, S[:, :, None], S[:, None, :]].astype(np.float64)
    W = A[member, S[:, :, None], keep[:, None, :]]
    V = condense(C, W, S, _REMEDY, "Hinv", single)
    apply(A, V, -1, keep, out, kernels)


def _adjoin(
    A: np.ndarray, a: Any, s: Any, at: Any, single: bool, out: np.ndarray, kernels: Kernels
) -> None:
    """out = [[A, 0], [0, 0]] + v v^T, v = (u, -1) / sqrt(r), with the last row moved to ``at``."""
    b, n, _ = A.shape
    column = vectors(a, "a", A, single)
    if column.shape[1] != 1:
        raise InvalidArgumentError(
            f"a must be one column for each matrix; got {column.shape[1]}. Adjoin one at a time."
        )
    diagonal = numbers(s, "s", A, single)
    place = member_rows(n if at is None else at, "at", b, n + 1, single, "position")
    u = product(A, column, kernels)
    with np.errstate(over="ignore", invalid="ignore"):
        schur = diagonal - (column[:, 0].astype(np.float64) * u[:, 0]).sum(axis=1)
    check_range(schur, "s - a^T Hinv a")
    v = np.empty((b, 1, n + 1), A.dtype)
    keep = np.empty((b, n + 1), np.int64)
    for m, p in enumerate(place):
        if not schur[m] > 0:
            name = "H_F with the new row" if single else f"H_F[{m}] with the new row"
            raise NotPositiveDefiniteError(
                int(p), float(schur[m]), "Raise its diagonal element s, or damp H.", name
            )
        v[m, 0, :p], v[m, 0, p], v[m, 0, p + 1 :] = u[m, 0, :p], -1, u[m, 0, p:]
        keep[m] = np.insert(np.arange(n), p, -1)
    v /= np.sqrt(schur).astype(A.dtype)[:, None, None]
    check_squares(v, "the larger inverse")
    apply(A, v, 1, keep, out, kernels)
