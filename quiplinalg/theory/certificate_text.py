"""A certificate in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quiplinalg.theory.certificates import Certificate

__all__ = ["describe"]


def describe(found: Certificate) -> str:
    """Return the lines that a person reads."""
    m, n = found.shape
    width = "unbounded grid" if found.bits is None else f"{found.bits} bits"
    dual = "no dual bound: no rows were sampled"
    if found.rows and found.dual_gap_db < float("inf"):
        dual = (
            f"at most {found.dual_gap_db:.2f} dB above the best codes of {len(found.rows)} sampled "
            "rows, whatever the method (dual bound)"
        )
    elif found.rows:
        dual = f"no dual bound: 0 on all of the {len(found.rows)} sampled rows"
    lines = [
        f"Certificate({m}x{n}, {found.method}, {width}: loss {found.loss:.4g}, "
        f"{found.loss_db:.2f} dB",
        f"  {dual}",
    ]
    if found.model_bound > 0:
        lines.append(
            f"  {found.model_gap_db:.2f} dB above the model bound, of weights with uniform "
            f"fractional parts: {found.cubes_db:.2f} cubes {found.order_db:+.2f} order "
            f"{found.rest_db:+.2f} rest"
        )
    if found.rate_distortion > 0:
        lines.append(
            f"  {found.rate_distortion_gap_db:.2f} dB above rate-distortion of Gaussian weights "
            "(not a bound for others)"
        )
    lines += [f"  {note}" for note in found.notes]
    return "\n".join(lines) + ")"
