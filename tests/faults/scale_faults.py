"""Faults in what is shared between layers, or too large for the memory."""

from __future__ import annotations

from fault import Fault

FILE = ("tests/factor/test_factor_file.py",)
SOURCE = ("tests/factor/test_source.py",)
DISK = ("tests/rounding/test_out_of_core.py",)
STORED = ("tests/files/test_hessian_source.py",)
SHARED = ("tests/rounding/test_prepared.py",)

FAULTS = (
    Fault(
        "another layout gets the feedback of the last one",
        "rounding/prepared.py",
        "same and np.array_equal(self._place, place)",
        "same",
        SHARED,
    ),
    Fault(
        "a prepared H is rounded in an order that it does not have",
        "rounding/prepared.py",
        '("order", order, self.order, order == self.order),',
        '("order", order, self.order, True),',
        SHARED,
    ),
    Fault(
        "the rows of each part draw the random numbers of the first",
        "rounding/driver.py",
        "first=rows.start)",
        "first=0)",
        DISK,
    ),
    Fault(
        "each part of the rows has the grid of the first",
        "rounding/driver.py",
        "scale=grid.scale[rows], zero=grid.zero[rows])",
        "scale=grid.scale[: rows.stop - rows.start], zero=grid.zero[rows])",
        DISK,
    ),
    Fault(
        "the damping of a strip is that of other columns",
        "factor/out_of_core.py",
        "self.L[diagonal, s0 + diagonal] += shift[backwards[s0:s1]]",
        "self.L[diagonal, s0 + diagonal] += shift[s0:s1]",
        FILE,
    ),
    Fault(
        "a strip leaves out the columns of the block before it",
        "factor/out_of_core.py",
        "self.kernels.update_tile(work, i0, i1, 0, width, tile, tile + j0)",
        "self.kernels.update_tile(work, i0, i1, 0, width, tile, tile + max(j0 - tile, 0))",
        FILE,
    ),
    Fault(
        "a short write loses the rest",
        "factor/out_of_core.py",
        "rest, offset = rest[written:], offset + written",
        "rest = rest[len(rest) :]",
        FILE,
    ),
    Fault(
        "the memory that is asked for is taken twice",
        "factor/out_of_core.py",
        "rows = (memory - _OVERHEAD) // (_DOUBLE * (tile + n)) - tile\n",
        "rows = 2 * memory // (_DOUBLE * (tile + n)) - tile\n",
        DISK,
    ),
    Fault(
        "an H that is symmetric to rounding is read as if it were to the last bit",
        "factor/source.py",
        "self.mirrored = worst == 0",
        "self.mirrored = True",
        SOURCE,
    ),
    Fault(
        "what is not finite in the upper triangle is not seen",
        "factor/source.py",
        "pair.append((lower.T if self.mirrored else self.block(J, I), J, I))",
        "pair.append((lower.T, J, I))",
        SOURCE,
    ),
    Fault(
        "a pass over a stored triangle leaves out what is above the diagonal",
        "files/hessian_source.py",
        "                if k >= 0:\n",
        "                if k >= 0 and t < 0:\n",
        STORED,
    ),
)
