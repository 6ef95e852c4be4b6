"""Levels of each row's own: k-means, rounding with feedback, least squares, and descent."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.losses import row_losses
from quiplinalg.reference.precision import working_dtype
from quiplinalg.reference.refit import root
from quiplinalg.reference.udu import udu

__all__ = ["descend_levels", "fit_levels", "kmeans", "level_codes", "levels_ldlq", "lnq"]


def level_codes(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the code of the level nearest to each x, the lower of two that tie.

    Parameters
    ----------
    x : ndarray, (k,)
    levels : ndarray, (K,)
        Ascending.

    Examples
    --------
    >>> level_codes(np.array([-1.0, 0.5, 0.6]), np.array([0.0, 1.0]))
    array([0, 0, 1])
    """
    return np.argmin(np.abs(np.asarray(x)[:, None] - levels), axis=1)


def kmeans(x: np.ndarray, levels: np.ndarray, passes: int) -> np.ndarray:
    """Return levels after passes of Lloyd's iteration: the mean of what is nearest to each.

    Parameters
    ----------
    x : ndarray, (n,)
        Points of a row.
    levels : ndarray, (K,)
        Ascending; one that nothing is nearest to stays.
    passes : int
        How often.

    References
    ----------
    Lloyd, IEEE Trans. Inf. Theory 28 (1982).

    Examples
    --------
    >>> kmeans(np.array([0.0, 1.0, 10.0]), np.array([0.0, 9.0]), 5)
    array([ 0.5, 10. ])
    """
    levels = np.array(levels, float)
    for _ in range(passes):
        codes = level_codes(x, levels)
        for c in np.unique(codes):
            levels[c] = np.mean(x[codes == c])
    return levels


def levels_ldlq(W: np.ndarray, H: np.ndarray, levels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the codes of LDLQ on levels: the target of a column is W_k and the feedback.

    Parameters
    ----------
    W : ndarray, (m, n)
    H : ndarray, (n, n)
        Positive definite, already damped.
    levels : ndarray, (m, K)
        Ascending in each row.
    order : ndarray, (n,)
        Columns as they are rounded.

    Returns
    -------
    ndarray, (m, n), int64

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, algorithm 3, with Q to the nearest level.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.4]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> levels_ldlq(W, H, np.array([[0.0, 1.0]]), np.arange(2))
    array([[0, 1]])
    """
    dtype = working_dtype(W, H)
    T, _ = udu(np.asarray(H, dtype)[np.ix_(order, order)])
    U = T - np.eye(len(order))
    w = np.asarray(W, dtype)[:, order]
    codes, E = np.zeros(w.shape, np.int64), np.zeros_like(w)
    for i in range(len(w)):
        for k in range(len(order)):
            target = w[i, k] + E[i, :k] @ U[:k, k]
            codes[i, k] = level_codes(target[None], levels[i])[0]
            E[i, k] = w[i, k] - levels[i, codes[i, k]]
    out = np.empty_like(codes)
    out[:, order] = codes
    return out


def fit_levels(W: np.ndarray, H: np.ndarray, codes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the levels of least e H e^T in each row for its codes; others stay.

    Parameters
    ----------
    W : ndarray, (m, n)
    H : ndarray, (n, n)
        Symmetric positive semidefinite.
    codes : ndarray, (m, n)
        They stay.
    levels : ndarray, (m, K)
        Of codes that no weight has, or only those whose diagonal of H is 0.

    Returns
    -------
    ndarray, (m, K)
        In no order.

    Examples
    --------
    >>> fit_levels(np.array([[1.0, 3.0]]), np.eye(2), np.array([[1, 1]]), np.array([[0.0, 9.0]]))
    array([[0., 2.]])
    """
    half, levels = root(H), np.array(levels, float)
    for i, row in enumerate(codes):
        used = np.unique(row[np.diagonal(H) > 0])
        hot = (row == used[:, None]).astype(float)
        levels[i, used] = np.linalg.lstsq((hot @ half).T, W[i] @ half, rcond=None)[0]
    return levels


def descend_levels(
    W: np.ndarray, H: np.ndarray, codes: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the codes after one pass over the columns, each to the level of the least loss.

    Each is judged by the loss itself, and changes only for less of it.

    Parameters
    ----------
    W : ndarray, (m, n)
    H : ndarray, (n, n)
        Columns whose diagonal is zero are skipped.
    codes : ndarray, (m, n)
    levels : ndarray, (m, K)

    Returns
    -------
    codes : ndarray, (m, n)
    margin : float
        How much of a row's loss the nearest decision was about: what rounding errors may change.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> descend_levels(W, H, np.array([[0, 0]]), np.array([[0.0, 1.0]]))[0]
    array([[1, 0]])
    """
    codes, margin = np.array(codes), np.inf
    every = np.arange(len(codes))
    for k in np.flatnonzero(np.diagonal(H) > 0):
        tried = np.stack([np.array(codes)] * levels.shape[1])
        for c in range(levels.shape[1]):
            tried[c, :, k] = c
        losses = np.stack([row_losses(np.take_along_axis(levels, q, 1), W, H) for q in tried])
        old = losses[codes[:, k], every]
        ranked = np.sort(losses, axis=0)
        margin = min(margin, float(((ranked[1] - ranked[0]) / np.maximum(old, 1e-300)).min()))
        best = losses.argmin(axis=0)
        codes[:, k] = np.where(losses[best, every] < old, best, codes[:, k])
    return codes, margin


def lnq(
    W: np.ndarray, H: np.ndarray, codes: np.ndarray, levels: np.ndarray, rounds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, levels and the losses after levels, then rounds of codes and levels.

    Parameters
    ----------
    W : ndarray, (m, n)
    H : ndarray, (n, n)
    codes : ndarray, (m, n)
    levels : ndarray, (m, K)
        The start.
    rounds : int
        How often.

    Returns
    -------
    codes : ndarray, (m, n)
    levels : ndarray, (m, K)
        Ascending.
    losses : ndarray, (2 rounds + 2, m)
        Of each row, at the start and after each half step: never rising.

    References
    ----------
    Kim et al., GuidedQuant, arXiv 2505.07004: LNQ.

    Examples
    --------
    >>> W, H = np.array([[0.0, 1.0, 5.0]]), np.eye(3)
    >>> lnq(W, H, np.array([[0, 0, 0]]), np.array([[0.0, 4.0]]), 2)[1]
    array([[0.5, 5. ]])
    """
    codes, levels = np.array(codes), np.array(levels, float)

    def loss() -> np.ndarray:
        return row_losses(np.take_along_axis(levels, codes, axis=1), W, H)

    losses = [loss()]
    for step in range(rounds + 1):
        if step:
            codes, _ = descend_levels(W, H, codes, levels)
            losses.append(loss())
        levels = fit_levels(W, H, codes, levels)
        losses.append(loss())
        rank = np.argsort(levels, axis=1, kind="stable")
        levels = np.take_along_axis(levels, rank, axis=1)
        codes = np.take_along_axis(np.argsort(rank, axis=1), codes, axis=1)
    return codes, levels, np.array(losses)
