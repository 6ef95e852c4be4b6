"""The rotation slots in NumPy: what the tuned kernels are tested against."""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.record import FACTOR, FOLDED, OUTPUTS, SCALE

__all__ = ["mirror", "rotate"]


def _walsh(x):
    """The Walsh-Hadamard transform along axis 1 of (outer, size, inner), not normalised."""
    outer, size, inner = x.shape
    half = 1
    while half < size:
        pairs = x.reshape(outer, size // (2 * half), 2, half * inner)
        a, b = pairs[:, :, :1], pairs[:, :, 1:]
        x = np.concatenate([a + b, a - b], axis=2).reshape(x.shape)
        half *= 2
    return x


def _unpacked(constants, at, size):
    """The (size, size) factor whose panels start at ``at``."""
    panels = -(-size // OUTPUTS)
    packed = constants[at : at + panels * size * OUTPUTS].reshape(panels, size, OUTPUTS)
    return packed.transpose(0, 2, 1).reshape(-1, size)[:size]


def _step(x, step, constants):
    """Apply a step to x, (n, count), in place."""
    kind, start, outer, size, inner, at = step
    part = x[start : start + outer * size * inner]
    if kind == SCALE:
        part *= constants[at : at + size, None]
        return
    fibres = part.reshape(outer, size, -1)
    if kind == FACTOR:
        part[:] = np.matmul(_unpacked(constants, at, size), fibres).reshape(part.shape)
    elif kind == FOLDED:
        even, odd = size // 2 + 1, (size - 1) // 2
        C = _unpacked(constants, at, even)
        S = _unpacked(constants, at + -(-even // OUTPUTS) * OUTPUTS * even, odd)
        mirrored = fibres[:, : even - 1 : -1]  # x_-k, k = 1 .. odd
        sums, differences = fibres[:, :even].copy(), fibres[:, 1 : odd + 1] - mirrored
        sums[:, 1 : odd + 1] += mirrored
        c, s = np.matmul(C, sums), np.matmul(S, differences)
        fibres[:, :even] = c
        fibres[:, 1 : odd + 1] += s
        mirrored[:] = c[:, 1 : odd + 1] - s
    else:
        part[:] = _walsh(fibres).reshape(part.shape)


def rotate(X, out, span, layout, plan, work):
    first, last, source = span
    end = source + last - first
    rows_in, rows_out, upper = layout
    (to, load_scale), (fro, store_scale), steps, constants = plan
    chunk = X[source:end].T if rows_in else X[:, source:end]
    x = np.empty((to.shape[0], last - first), X.dtype)
    x[to] = chunk * load_scale[:, None]
    for step in steps:
        _step(x, step, constants)
    x = x[fro] * store_scale[:, None]
    if rows_out:
        start = first if upper else 0
        out[first:last, start:] = x[start:].T
    else:
        out[:, first:last] = x


def mirror(A, i0, i1):
    """A[i, j] = A[j, i] for i0 <= i < i1 and j < i."""
    for i in range(i0, i1):
        A[i, :i] = A[:i, i]
