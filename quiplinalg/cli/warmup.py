"""``quiplinalg warmup``: compile the kernels once, so that the first real call need not."""

from __future__ import annotations

import time
from typing import Any

from quiplinalg.cli.common import OK, Parser

__all__ = ["ABOUT", "add_arguments", "run", "warm"]

ABOUT = {
    "description": "Compile the kernels for this machine and cache them, in float32 and float64: "
    "those of nearest, ldlq, gptq, quip, safe and of refining; with --all also those of obq, kbest "
    "and exact, of pruning, and of updates of factors and inverses."
}


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--all", action="store_true", help="every kernel there is, which takes about twice as long"
    )


def warm(dtypes: tuple[str, ...] = ("float32", "float64"), everything: bool = False) -> float:
    """Compile kernels by small calls, of the common ways to round or of all; return the seconds."""
    import numpy as np

    import quiplinalg as ql

    started = time.perf_counter()
    rng = np.random.default_rng(0)
    for name in dtypes:
        dtype = np.dtype(name)
        W = rng.standard_normal((5, 24)).astype(dtype)
        X = rng.standard_normal((64, 24)).astype(dtype)
        H = X.T @ X / 64
        unbounded = ql.UniformGrid(np.ones((1, 1), dtype), np.zeros((1, 1), dtype), None)
        ql.ldlq(W, H)
        ql.gptq(W, H, sym=True, clip="minmax", order="natural")
        ql.ldlq(W, H, order="min-pivot")
        ql.ldlq(W, H, group_size=8)
        ql.ldlq(W, H, group_size=8, static_groups=True)
        for grid in (None, unbounded):
            ql.ldlq(W, H, grid=grid)
            ql.ldlq(W, H, grid=grid, rounding="stochastic", seed=0)
            ql.nearest(W, H, grid=grid)
            ql.nearest(W, H, grid=grid, rounding="stochastic", seed=0)
            ql.descend(W, H, ql.ldlq(W, H, grid=grid))
        for rotation in ("hadamard", "kronecker"):
            ql.quip(W, H, rotation=rotation, sides="both", refine=1)
        ql.safe(W, H)
        ql.lnq(W, H)
        ql.cholesky(H), ql.ldl(H), ql.udu(H)
        if everything:
            ql.obq(W, H)
            ql.kbest(W, H)
            ql.exact(W[:, :4], H[:4, :4])
            ql.sparsegpt(W, H)
            ql.prune_quantize(W, H)
            ql.obs_prune(W, H, pattern="block:4")
            ql.sherman_morrison(H, W[0])
            ql.inverse_remove(H, [0])
            ql.cholesky_update(np.linalg.cholesky(H), W[0])
    return time.perf_counter() - started


def run(options: Any) -> int:
    """Run the command."""
    print("compiling kernels for this machine, once: float32 and float64 ...", flush=True)
    print(f"ready in {warm(everything=options.all):.1f} s")
    if not options.all:
        print(
            "obq, kbest, exact, pruning and updates are compiled when first used, or by "
            "'quiplinalg warmup --all'"
        )
    return OK
