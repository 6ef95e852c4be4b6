"""What a layer costs: operations, which decide the order, and memory, which decides the path."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from quiplinalg.files import LayerInfo
    from quiplinalg.model.options import LayerOptions

__all__ = ["KEPT", "base_memory", "factor_flops", "file_memory", "flops", "memory"]

KEPT = 32 << 20  # bytes that malloc may keep of what was freed

_BASE = 240_000_000  # resident bytes of a process that has the kernels loaded, without a layer
_TILE = 8 << 20  # bytes of a work array of a thread, see rounding/tiles.py
_LANES = 48  # rows that it has at least
_LOSS_ROWS = 3 * 256  # of float64, that proxy_loss works on at a time
_PACKED = 1 << 22  # codes that pack expands to bits at a time, twice
_GRIDS = 6  # that quip tries for each row where it searches for the range
_PATH = 4000  # flops that a step of a path of kbest takes the time of
_LANCZOS = 400  # m^2 flops of the eigenvectors of a correction
_SUMS = 4 * (32 << 20)  # bytes of H summed by code that a thread of lnq holds at most
_FIT_ROWS = 64  # that a thread of lnq and of a refit works on
_BOUNDED = 20  # n^3 flops of safe's solver, where the bound is reached
_PASS = 0.02  # of 2 m n^2 flops: codes that a pass of descent changes
_PASSES = 10  # of descent until nothing changes


class _Phase(NamedTuple):
    """What a layer holds at a time, beside W and H as they are read and as they are worked on."""

    wide: float = 0  # n x n arrays of float64
    work: float = 0  # n x n arrays of the work precision of W
    rows: float = 0  # bytes for each weight, where W is worked on in float32
    copies: int = 0  # of H in float64, where it is not float64 itself, for a loss by definition
    tiles: float = 0  # work arrays of each thread
    threads: float = 0  # n x n arrays of float64 of each thread
    bytes: float = 0  # of anything else
    bytes_a_thread: float = 0


_FACTOR = _Phase(wide=1, work=0.5)  # while the feedback is packed, half a matrix
_ROUND = _Phase(work=0.5, rows=3, tiles=1.5)  # codes, of two grids and the better of them
_LOSS = _Phase(work=0.5, rows=5, copies=1)  # codes and what they mean; where damping is large
_DESCENT = _Phase(work=2, rows=3, tiles=3)  # H in panels, and in the work precision
_SYMMETRIC = _Phase(wide=2)  # (H + H^T) / 2, if H is float64 and not quite symmetric
_METHODS: dict[str, tuple[_Phase, ...]] = {
    "nearest": (_LOSS._replace(work=0),),
    "ldlq": (_FACTOR, _ROUND, _LOSS),
    "gptq": (_FACTOR, _ROUND, _LOSS),
    "kbest": (_FACTOR, _ROUND._replace(rows=4, tiles=2), _LOSS),
    # the inverse in two orders; one of them, and what is left of it for each thread; the loss
    "obq": (_Phase(wide=2), _Phase(wide=1, rows=24, threads=0.5), _LOSS._replace(wide=1, rows=32)),
    # the dual and its curvature at two points of a line search
    "lnq": (_FACTOR, _ROUND, _LOSS._replace(rows=10)),
    "safe": (_Phase(wide=9), _ROUND, _LOSS),
    # H in the rotated basis and its factor; rounding in it; refinement, and the loss after it
    "quip": (_FACTOR._replace(wide=2, rows=9), _ROUND._replace(wide=1, rows=16, tiles=3),
             _LOSS._replace(wide=1, rows=24)),
}  # fmt: skip
_RMS = _Phase(wide=1, rows=36)  # quip's scales of whole rows, in float64


def factor_flops(options: LayerOptions, n: int) -> float:
    """Return what layers that share the factor of an (n, n) H do once: n^3/3, or 0 for none."""
    return n**3 / 3 if options.shared_factor else 0.0


def flops(options: LayerOptions, m: int, n: int) -> float:
    """Return about how many operations an (m, n) layer takes, without its file.

    n^3/3 for the factor and m n^2 for each rounding with feedback; other methods by their
    docstrings.  Good for comparing layers, to a factor of 2 or so.
    """
    keywords = options.keywords
    factor, sweep = n**3 / 3, float(m * n * n)
    tried = 2 if keywords.get("clip") == "best" else 1
    cost = {
        "nearest": 2 * sweep,
        "ldlq": factor + tried * sweep,
        "gptq": factor + tried * sweep,
        "obq": 3 * factor + (m * n**3 / 3 if n else 0) + 2 * sweep,
        "kbest": factor + tried * (2 * sweep + _PATH * keywords.get("k", 1) * m * n),
        "lnq": factor + 13 * sweep,
        "safe": factor + _BOUNDED * n**3 + (tried + 2) * sweep,
        "quip": _quip(keywords, m, n),
    }[options.method]
    return cost + _refinement(options, sweep) + _fits(options, m, n)


def _quip(keywords: dict, m: int, n: int) -> float:
    """Each basis is processed, factored and rounded in on every grid."""
    bases = 3 if keywords.get("rotation") == "auto" else 1
    grids = _GRIDS if keywords.get("rho") == "search" else 1
    return bases * (n**3 / 3 + grids * m * n**2 + 2 * (m + 2 * n) * n**1.5)


def _refinement(options: LayerOptions, sweep: float) -> float:
    passes = options.keywords.get("refine", options.refine)
    if passes == 0:
        return 0.0
    return 2 * sweep * (1 + _PASS * (_PASSES if passes is None else passes))


def _fits(options: LayerOptions, m: int, n: int) -> float:
    """Refitting, by its docstring, and the correction: of few eigenvectors where m is large."""
    sweep = float(m * n * n)
    refit = {None: 0.0, "scale": 6 * sweep, "both": 10 * sweep}[options.refit]
    if not options.rank:
        return refit
    return refit + 4 * sweep + 2 * m * m * n + min(4 * m**3 / 3, _LANCZOS * m * m)


def memory(options: LayerOptions, info: LayerInfo, threads: int, shares: int = 1) -> int:
    """Return the bytes that a layer takes at its peak in memory, beyond `base_memory`.

    Parameters
    ----------
    options : LayerOptions
    info : LayerInfo
        Shape and dtypes of W and H.
    threads : int
        Threads that round.
    shares : int
        Layers of its task: from 2 on the factored H is kept from one to the next.

    Notes
    -----
    From the arrays that are alive at each step: never less than is used, and up to 1.6 times as
    much, as the largest step may be one that is rare.
    """
    m, n = info.shape
    w = 8 if info.dtype == np.float64 else 4
    h = 8 if info.hessian_dtype == np.float64 else 4
    stored, read = info.hessian_dtype.itemsize, info.dtype.itemsize
    copied = read != w or info.orientation != "out_in"
    square = n if info.storage == "diagonal" else n * n
    held = square * (h + (stored if stored < h else 0)) + m * n * (read + w * copied)
    tile = max(_TILE, _LANES * w * n * options.keywords.get("k", 1))

    def size(phase: _Phase) -> float:
        own = tile * phase.tiles + 8 * phase.threads * n * n + 8 * _LOSS_ROWS * n * phase.copies
        squares = 8 * phase.wide + w * phase.work + 8 * phase.copies * (h == 4)
        rows = m * n * phase.rows * w / 4 + phase.bytes
        return square * squares + rows + threads * (own + phase.bytes_a_thread)

    phases = _phases(options, h, shares) + _fit_phases(options, m, n, w)
    most = max(*map(size, phases), file_memory(options, m, n))
    reading = square * stored * 1.5 + m * n * read  # a triangle, and both
    return int(max(reading, held + most) + _grid(options, m, n, w) + KEPT)


def _phases(options: LayerOptions, h: int, shares: int) -> list[_Phase]:
    """The phases of a layer with an H of ``h`` bytes an element."""
    phases = list(_METHODS[options.method])
    if options.refine != 0:
        kept = 0.5 if shares > 1 else 0.0  # the feedback, for the next layer
        phases.append(_DESCENT._replace(work=_DESCENT.work + kept))
        if h == 8:
            phases.append(_SYMMETRIC)
    if options.method == "quip" and options.keywords["group_size"] is None:
        phases.append(_RMS)
    return phases


def _fit_phases(options: LayerOptions, m: int, n: int, w: int) -> list[_Phase]:
    """Levels of lnq, with the feedback packed and not; fits to the codes; a correction."""
    phases, rows = [], _FIT_ROWS * n
    if options.method == "lnq":
        sums = min(_SUMS, 4 * rows * w << options.bits)
        phases.append(_Phase(work=1.5, rows=4, bytes_a_thread=sums + 8 * rows * w))
    rotated = options.method == "quip"
    if options.refit is not None:
        size = options.keywords.get("group_size") or max(n, 1)
        found = ceil(n / size) * (2 if options.refit == "both" else 1)
        own = 8 * (_FIT_ROWS * 3 * found**2 + 8 * rows)
        phases.append(_Phase(wide=rotated, rows=10 + 12 * rotated, copies=1, bytes_a_thread=own))
    if options.rank:
        phases.append(_Phase(rows=20 + 8 * rotated, copies=1, bytes=16 * m * m))
    return phases


def _grid(options: LayerOptions, m: int, n: int, w: int) -> float:
    """Bytes of scales and zeros: those that are fitted, and those that are stored."""
    size = options.keywords.get("group_size")
    return 0.0 if size is None else m * ceil(n / size) * 2 * (w + 4 + 4)


def file_memory(options: LayerOptions, m: int, n: int) -> float:
    """Return the bytes of codes, of packed codes, and of the file, which grows as it is made."""
    bits = options.bits
    return m * n * (1 + 3 * bits / 8) + 2 * min(_PACKED, m * n) * bits


def base_memory() -> int:
    """Return the bytes that a process takes before its first layer: interpreter and libraries."""
    return _BASE
