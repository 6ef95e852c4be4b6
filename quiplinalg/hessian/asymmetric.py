"""Calibration on the inputs that the quantised network sees: the weight to round there."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.arrays import as_matrix, check_finite, to_numpy
from quiplinalg.errors import (
    ConditioningWarning,
    InvalidArgumentError,
    NotPositiveDefiniteError,
    level_of_caller,
)
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.factor.udu import udu
from quiplinalg.kernels.record import select
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.restore import like
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["shift_target"]

_ROWS = 256


@suggest_keywords()
def shift_target(W: Any, G: Any, H_tilde: Any, *, damp: float | str | AbsoluteDamp = 0.01) -> Any:
    """Return the weight whose outputs on a quantised network's inputs are nearest to the original.

    x are the inputs of the layer in the original network, x~ in the network whose earlier layers
    are quantised.  What rounding should bring down is the mean of |W x - W_hat x~|^2, which with
    G = mean of x x~^T and H~ = mean of x~ x~^T is::

        const + tr((W_hat - W*) H~ (W_hat - W*)^T),   W* = W G H~^-1

    So round W* under H~: `ldlq`, `gptq` and the others then minimise the true error.

    Parameters
    ----------
    W : array, (m, n), floating
        The original weight.
    G : array, (n, n), floating
        `CrossMoment.mean`; row i is of x_i, column j of x~_j.  Not symmetric.
    H_tilde : array, (n, n), floating
        `CrossMoment.hessian` ``.mean()``, of the same tokens and normalisation as G.
    damp : float, "auto" or AbsoluteDamp
        d, as of `ldlq`, in (W G + d W)(H~ + d I)^-1: it pulls towards W, and so keeps directions
        with few samples as they are.  0 is the least-squares solution itself.

    Returns
    -------
    array, (m, n)
        W*, in the kind and dtype of W.  W itself where G is H~, whatever the damping.

    Raises
    ------
    InvalidArgumentError, NonFiniteError, DTypeError
        Shapes that do not fit; NaN or infinity; not real floating arrays; H_tilde not symmetric,
        or an input dead in H_tilde but not in G; W* beyond the range of the dtype of W.
    NotPositiveDefiniteError
        H_tilde with its damping is not positive definite.

    Warns
    -----
    ConditioningWarning
        H_tilde is singular to working precision and the damping is too little.

    Notes
    -----
    W* = W + W (G - H~) (H~ + d I)^-1, in float64: n^3/3 + 4 m n^2 flops, one n x n factor and two
    copies.  Inputs that are dead in H~ keep their weights.  The same bits for any number of
    threads.  Rounding W* costs more than rounding W under H~ would, and is still right: the loss
    to compare is that of the outputs.  With noise in x~, W* shrinks towards zero in the noisy
    directions, as least squares does.

    References
    ----------
    Qronos (arXiv 2505.11695): after its first column, rounding W* by LDLQ is the same.

    Examples
    --------
    Inputs that the layers before have disturbed, and the error of the outputs with and without:

    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((500, 16)) @ rng.standard_normal((16, 16))
    >>> X_tilde = X + rng.standard_normal(X.shape)
    >>> W = rng.standard_normal((8, 16))
    >>> moments = ql.CrossMoment(16)
    >>> moments.add(X, X_tilde)
    >>> G, H_tilde = moments.mean(), moments.hessian().mean()
    >>> W_star = ql.shift_target(W, G, H_tilde)
    >>> errors = [
    ...     np.square(X @ W.T - X_tilde @ np.asarray(ql.ldlq(V, H_tilde, bits=4)).T).mean()
    ...     for V in (W, W_star)
    ... ]
    >>> bool(errors[1] < 0.8 * errors[0])
    True
    """
    weight, cross = as_matrix(W, "W"), as_matrix(G, "G", square=True)
    hessian = symmetric_matrix(H_tilde, "H_tilde", select())
    n = hessian.shape[0]
    if cross.shape != (n, n) or weight.shape[1] != n:
        raise InvalidArgumentError(
            f"W must be (m, n), G and H_tilde (n, n); got {weight.shape}, {cross.shape} and "
            f"{hessian.shape}. Pass W.T for Keras or Flax kernels."
        )
    check_finite(weight, "W")
    check_finite(cross, "G")
    restore = like(W)
    out = weight.astype(np.float64)
    H, C = hessian.astype(np.float64), cross.astype(np.float64)
    live = np.flatnonzero(H.diagonal() > 0)
    if live.size < n:
        dead = np.flatnonzero(H.diagonal() == 0)
        if C[:, dead].any():
            raise InvalidArgumentError(
                f"G must be zero in the columns whose inputs are dead in H_tilde; got others in "
                f"column {dead[C[:, dead].any(axis=0)][0]}. Take both from one CrossMoment."
            )
        H = H[np.ix_(live, live)]
    if not live.size or not out.shape[0]:
        return restore(out)
    try:
        factor = udu(H, damp=damp)
    except NotPositiveDefiniteError as error:
        index = int(live[error.index])
        raise NotPositiveDefiniteError(index, error.pivot, error.remedy, "H_tilde") from error
    if factor.D.min() <= n * np.finfo(np.float64).eps * H.diagonal().max():
        warnings.warn(
            f"H_tilde with damp={factor.damp:.3g} is singular to working precision (a pivot of "
            f"{factor.D.min():.3g}), so W* is mostly rounding errors. Raise damp, or add tokens.",
            ConditioningWarning,
            stacklevel=level_of_caller(),
        )
    C = C[:, live]
    C[live] -= H  # x_i = x~_i is what W is right for

    def shift(i: int) -> None:
        # W*_I = W_I + W_I (G - H~) (H~ + d I)^-1
        out[i : i + _ROWS, live] += factor.solve((weights[i : i + _ROWS] @ C).T).T

    weights = out.copy()
    with single_blas_thread():
        run_all(shift, [(i,) for i in range(0, out.shape[0], _ROWS)])
    largest = np.abs(out).max()
    with np.errstate(over="ignore"):
        fits = np.isfinite(to_numpy(restore(np.full(1, largest)), "W*").astype(np.float64)).all()
    if not fits:
        raise InvalidArgumentError(
            f"W* must fit into the dtype of W; got a largest element of {largest:.3g}. Raise damp, "
            "or pass W in float32."
        )
    return restore(out)
