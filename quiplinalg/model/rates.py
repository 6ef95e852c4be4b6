"""What each layer costs at each width, as it was measured, and the widths chosen by that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.model.allocation import Allocation, allocate, hull_curve
from quiplinalg.model.run_directory import key_of
from quiplinalg.model.size_target import SizeTarget

if TYPE_CHECKING:
    from quiplinalg.model.plan import Plan

__all__ = ["BitPlan", "LayerRates", "check_budget", "measured_rates"]

Facts = dict[str, Any]


@dataclass(frozen=True)
class LayerRates:
    """A layer rounded at each of some widths.

    Attributes
    ----------
    name : str
    weights : int
    sensitivity : float
        What its losses are multiplied by.
    energy : float
        tr(W H W^T), which is what they are relative to.
    bits, sizes, losses, keys : tuples
        Of each width: the width of a code; bits of all that is stored; the loss; and the key of the
        record in the run directory.
    """

    name: str
    weights: int
    sensitivity: float
    energy: float
    bits: tuple[int, ...]
    sizes: tuple[int, ...]
    losses: tuple[float, ...]
    keys: tuple[str, ...]

    @property
    def points(self) -> list[tuple[float, float]]:
        """(size, loss with its sensitivity) of each width."""
        return [(s, self.sensitivity * v) for s, v in zip(self.sizes, self.losses, strict=True)]


def measured_rates(
    records: Iterable[Facts], sensitivities: Mapping[str, float]
) -> list[LayerRates]:
    """Return the rates of layers, in name order, from the records of a run.

    Parameters
    ----------
    records : iterable of dict
        Facts about each layer at each width.
    sensitivities : mapping of layer name to float
    """
    by_name: dict[str, list[Facts]] = {}
    for facts in records:
        by_name.setdefault(facts["layer"], []).append(facts)
    found = []
    for name, own in sorted(by_name.items()):
        own.sort(key=lambda facts: facts["bits"])
        m, n = own[0]["shape"]
        found.append(
            LayerRates(
                name=name,
                weights=m * n,
                sensitivity=sensitivities[name],
                # from some rows: a little different at each width
                energy=sum(facts["weight_energy"] for facts in own) / len(own),
                bits=tuple(facts["bits"] for facts in own),
                sizes=tuple(round(facts["bits_per_weight"] * m * n) for facts in own),
                losses=tuple(facts["loss"] for facts in own),
                keys=tuple(key_of(facts) for facts in own),
            )
        )
    return found


def check_budget(plan: Plan, target: SizeTarget | None, measure: bool = False) -> None:
    """Raise InvalidArgumentError, before any work, unless the widths can be chosen so.

    Parameters
    ----------
    plan : Plan
    target : SizeTarget or None
    measure : bool
        The choice is only asked for; then there may be no target, but there must be one to make.
    """
    if not plan.mixed:
        if target is not None or measure:
            raise InvalidArgumentError(
                "bits must be several, as 2,3,4, where they are to be chosen; got one for each "
                "layer. Name more, or quantize without a budget."
            )
        return
    if target is None:
        if not measure:
            raise InvalidArgumentError(
                "budget must say how large the result may be where bits are several; got none. "
                "Give one, as budget 2.5 (bits a weight) or 3GB, or one width."
            )
        return
    least: dict[str, tuple[int, int]] = {}  # weights, and bits of their codes alone
    for layer in plan.layers.values():
        weights = layer.shape[0] * layer.shape[1]
        least.setdefault(layer.name, (weights, weights * layer.options.bits))
    weights, codes = (sum(column) for column in zip(*least.values(), strict=True))
    if target.bits(weights) < codes:
        raise InvalidArgumentError(
            f"budget must be more than {codes / weights:.4g} bits a weight ({_bytes(codes)}), "
            f"which the codes take at the least width of each layer; got {target}. Raise it, or "
            "allow fewer bits."
        )


@dataclass(frozen=True)
class BitPlan:
    """The widths of all layers: what there is to choose from, and what was chosen.

    Attributes
    ----------
    layers : list of LayerRates
    target : SizeTarget or None
    allocation : Allocation or None
        Of options of ``layers``, within the target; None without one.
    """

    layers: list[LayerRates]
    target: SizeTarget | None
    allocation: Allocation | None

    @classmethod
    def of(cls, layers: list[LayerRates], target: SizeTarget | None) -> BitPlan:
        """Choose the widths.

        Raises
        ------
        InvalidArgumentError
            The target is below what the layers take at their least.
        """
        found = cls(layers, target, None)
        if target is None:
            return found
        budget = target.bits(found.weights)
        least, most = (sum(f(layer.sizes) for layer in layers) for f in (min, max))
        if budget < least:
            raise InvalidArgumentError(
                f"budget must be from {found.size(least)}, the least that these widths take, to "
                f"{found.size(most)}, the most; got {target}. Raise it, or allow fewer bits."
            )
        return cls(layers, target, allocate(found.points, budget))

    @property
    def points(self) -> list[list[tuple[float, float]]]:
        """(size, loss) of each option of each layer."""
        return [layer.points for layer in self.layers]

    @property
    def weights(self) -> int:
        """Of all layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def energy(self) -> float:
        """tr(W H W^T) of all layers with their sensitivities, what losses are relative to."""
        return sum(layer.sensitivity * layer.energy for layer in self.layers)

    def chosen(self) -> list[tuple[LayerRates, int]]:
        """Return each layer with the option that was chosen."""
        assert self.allocation is not None
        return list(zip(self.layers, self.allocation.chosen, strict=True))

    def keys(self) -> list[str]:
        """Return the keys of the records that were chosen."""
        return [layer.keys[option] for layer, option in self.chosen()]

    def curve(self) -> list[tuple[float, float]]:
        """Return (size, loss) of all layers at each budget that is used up: the best there is."""
        return hull_curve(self.points)

    def uniform(self) -> dict[int, tuple[int, float]]:
        """Return (size, loss) of all layers at one width, for each that all layers have.

        Layers whose bits are fixed keep them.
        """
        open_to_choice = [layer for layer in self.layers if len(layer.bits) > 1]
        if not open_to_choice:
            return {}
        widths = set.intersection(*(set(layer.bits) for layer in open_to_choice))
        found = {}
        for bits in sorted(widths):
            options = [
                layer.bits.index(bits) if len(layer.bits) > 1 else 0 for layer in self.layers
            ]
            picked = [layer.points[k] for layer, k in zip(self.layers, options, strict=True)]
            found[bits] = (int(sum(s for s, _ in picked)), sum(v for _, v in picked))
        return found

    def size(self, bits: float) -> str:
        """Return a size for people."""
        return f"{bits / max(self.weights, 1):.4g} bits a weight ({_bytes(bits)})"


def _bytes(bits: float) -> str:
    size = ceil(bits / 8)
    return f"{size} bytes" if size < 10**6 else f"{size / 1e6:.4g} MB"
