"""What the rounding functions accept, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.factor.orders import check_order
from quiplinalg.grids.search import check_bits, check_flag, check_group_size
from quiplinalg.grids.uniform import UniformGrid

__all__ = ["CLIPS", "NORM", "ROUNDINGS", "Options", "check_passes"]

CLIPS = ("mse", "minmax", "best")
ROUNDINGS = ("nearest", "stochastic")
_MOST_COLUMNS = 2**31 - 1
NORM = 2.4  # exponent of the clip search, as in the GPTQ code


@dataclass(frozen=True)
class Options:
    """The keywords of `ldlq`, checked; see there."""

    bits: int
    grid: UniformGrid | None
    group_size: int | None
    static_groups: bool
    sym: bool
    clip: str
    order: str
    damp: float | str | AbsoluteDamp
    rounding: str
    seed: int | None
    block: int | None

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.group_size is not None:
            # a larger one than there are columns is one group
            size = min(check_group_size(self.group_size, 1), _MOST_COLUMNS)
            object.__setattr__(self, "group_size", size)
        if self.grid is not None and not isinstance(self.grid, UniformGrid):
            raise InvalidArgumentError(
                f"grid must be a UniformGrid or None; got grid={self.grid!r}. "
                "minmax_grid, mse_grid and rms_grid make one."
            )
        if self.grid is not None and self.group_size is not None:
            raise InvalidArgumentError(
                f"group_size must be None where a grid is given; got {self.group_size}. "
                "Give the groups to the grid: minmax_grid(W, bits, group_size=...)."
            )
        for name, fix in (
            ("static_groups", "True takes scales from the original W, False on the way."),
            ("sym", "True makes the grid symmetric about 0."),
        ):
            object.__setattr__(self, name, check_flag(getattr(self, name), name, fix))
        for name, value, choices in (
            ("clip", self.clip, CLIPS),
            ("rounding", self.rounding, ROUNDINGS),
        ):
            if not isinstance(value, str) or value not in choices:
                raise InvalidArgumentError(
                    f"{name} must be {' or '.join(map(repr, choices))}; got {name}={value!r}. "
                    f"{choices[0]!r} is the usual choice."
                )
        check_order(self.order)
        if self.rounding == "stochastic":
            whole = isinstance(self.seed, (int, np.integer)) and not isinstance(self.seed, bool)
            if not whole or not 0 <= int(self.seed) < 1 << 63:  # type: ignore[arg-type]
                raise InvalidArgumentError(
                    "seed must be a whole number from 0 to 2**63 - 1 with rounding='stochastic'; "
                    f"got seed={self.seed!r}. Pass seed=0 for a run that can be repeated."
                )
        if self.block is not None and (
            isinstance(self.block, bool)
            or not isinstance(self.block, (int, np.integer))
            or self.block < 1
        ):
            raise InvalidArgumentError(
                f"block must be a whole number of at least 1, or None; got block={self.block!r}. "
                "It changes the speed only."
            )

    def check_grid(self, m: int, n: int) -> None:
        """Raise where a grid that was given does not fit an (m, n) weight."""
        if self.grid is None:
            return
        rows = self.grid.scale.shape[0]
        if rows not in (1, m):
            raise InvalidArgumentError(
                f"grid must have 1 or {m} rows for W of shape {(m, n)}; got {rows}. "
                "Make the grid from this W."
            )
        index = self.grid.group_index
        if index is not None and index.shape[0] != n:
            raise InvalidArgumentError(
                f"grid must give the group of {n} columns for W of shape {(m, n)}; got "
                f"{index.shape[0]}. Make the grid from this W."
            )

    @property
    def fits_groups(self) -> bool:
        """Whether each group's scales are found on the way, when its first column is reached."""
        return self.grid is None and self.group_size is not None and not self.static_groups

    @property
    def philox_key(self) -> int:
        """The 32-bit key that a 64-bit seed is folded to."""
        seed = int(self.seed or 0)
        return (seed ^ (seed >> 32)) & 0xFFFFFFFF


def check_passes(passes: Any, name: str) -> None:
    """Raise unless ``passes`` is a number of passes of at least 0, or None."""
    whole = isinstance(passes, (int, np.integer)) and not isinstance(passes, bool)
    if passes is not None and not (whole and passes >= 0):
        raise InvalidArgumentError(
            f"{name} must be a number of passes of at least 0, or None to go on until nothing "
            f"changes; got {name}={passes!r}. 3 passes bring most of the gain."
        )
