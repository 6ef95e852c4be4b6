"""The oracle: fast codes are the reference's on 2e5 problems, 1e7 in the deep profile.

A problem is a row of W with its H, grid and order.  Many rows share an H, because rows are
independent; every block of rows has another size, H, width, order and precision.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from comparing import assert_same_rounding
from strategies import HESSIANS, WEIGHTS, make_problem

import quiplinalg as ql
from quiplinalg import reference

DEEP = os.environ.get("QUIPLINALG_PROFILE") == "deep"
ROWS = 250
SHARDS = 10
PROBLEMS = 10_000_000 if DEEP else 200_000


def run(seed):
    """Round ROWS problems both ways; return how many have a near tie."""
    rng = np.random.default_rng([seed, 77])

    def pick(*choices):  # each by itself: residues of the seed would tie one choice to another
        return choices[rng.integers(len(choices))]

    n = int(rng.integers(1, 13)) if rng.random() < 7 / 8 else int(rng.integers(13, 66))
    bits = pick(1, 2, 3, 4, 8, None)
    p = make_problem(
        ROWS, n, seed, bits, pick(*HESSIANS), pick(*WEIGHTS), dead=pick(0, 0, 0, 0, 0, 1)
    )
    dtype = pick(np.float32, np.float64)
    scale = np.exp(rng.uniform(-2, 0.5, (ROWS, 1))).astype(np.float32)
    zero = rng.integers(0, 2 ** (bits or 3), (ROWS, 1)) + pick(0.0, 0.0, 0.5)
    grid = ql.UniformGrid(scale, zero.astype(np.float32), bits)
    order = pick("natural", "act", "min-pivot")
    noisy = rng.random() < 1 / 9
    keywords = {"rounding": "stochastic", "seed": seed} if noisy else {}
    damp = pick(0.0, 0.01, 0.3)
    backend = "generic" if rng.random() < 1 / 16 else "auto"
    W = p.W.astype(dtype)
    q = ql.ldlq(W, p.H, grid=grid, order=order, damp=damp, backend=backend, **keywords)
    shift = np.full(n, q.damp)
    if q.damp == 0 and q.dead.size:
        shift[q.dead] = 1.0  # any positive number: T has no feedback there
    H = p.H + np.diag(shift)
    perm = np.arange(n) if q.permutation is None else q.permutation
    u = reference.uniforms(seed, ROWS, n).astype(float) if noisy else None
    wide = W.astype(float), scale.astype(float), grid.zero.astype(float)
    twin = reference.ldlq(wide[0], H, wide[1], wide[2], p.maxq, order=perm, uniforms=u)
    # n sums of terms as large as the largest weight in steps
    size = 1 + float(np.abs(W / scale).max()) + float(np.abs(zero).max())
    tau = 8 * float(np.finfo(dtype).eps) * n * size * (1e3 if dtype == np.float64 else 1)
    near = assert_same_rounding(
        q.codes, twin.codes, wide[0], H, wide[1], wide[2], p.maxq, perm, tau, uniforms=u
    )
    direct = reference.row_losses(q.dequantize(), wide[0], p.H).sum()
    base = reference.row_losses(np.zeros_like(wide[0]), wide[0], H).sum()
    assert abs(q.loss - direct) <= 64 * n * np.finfo(dtype).eps * max(base, direct, 1e-300)
    return near


@pytest.mark.parametrize("shard", range(SHARDS))
def test_fast_codes_are_the_reference_codes(shard):
    count = PROBLEMS // ROWS // SHARDS
    near = sum(run(shard * count + i) for i in range(count))
    assert near <= 0.05 * count * ROWS  # else ties are what is tested, not codes
