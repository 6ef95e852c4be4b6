"""How the rows of a layer are shared out: tiles of rows, parts of tiles that fit a cache."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from quiplinalg.parallel import thread_count

__all__ = ["tile_parts"]

_WORK_BYTES = 8 << 20  # of work arrays at a time and thread: most of a share of the L3 cache


def tile_parts(rows: int, tile_bytes: int, lanes: int) -> tuple[deque[tuple[int, int]], int]:
    """Return parts (first tile, end) as a queue for threads to take from, and how many threads.

    Parameters
    ----------
    rows : int
        At least 1.
    tile_bytes : int
        What one tile needs of a work array.
    lanes : int
        Rows of a tile.
    """
    tiles = -(-rows // lanes)
    workers = min(thread_count(), tiles)
    most = max(1, _WORK_BYTES // tile_bytes)
    parts = -(-tiles // most)
    parts = min(tiles, -(-parts // workers) * workers)
    edges = [tiles * part // parts for part in range(parts + 1)]
    return deque(pairwise(edges)), workers
