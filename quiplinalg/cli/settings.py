"""The options of ``quantize`` as flags, and with a TOML file as a policy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import Parser
from quiplinalg.model.choices import OPTIONS, SETTINGS, Option

if TYPE_CHECKING:
    from quiplinalg.model.policy import Policy

__all__ = ["add_settings", "damping", "layer_policy"]

_ALL = {**OPTIONS, **SETTINGS}
# what a value looks like, where it is neither a switch nor a choice; and the help
_FLAGS = {
    "method": ("", "default: ldlq"),
    "bits": (
        "N|N,N,...",
        "1 to 8, or several to choose from for each layer; default: 4 for gptq, obq, nearest; "
        "else 2",
    ),
    "group_size": ("N|row", "columns that share a scale; default: a row"),
    "static_groups": ("", "group scales from the original weights"),
    "sym": ("", "a grid symmetric about 0"),
    "clip": ("", "the range; default: mse, for safe minmax"),
    "rotation": ("", "quip: of the inputs; default: auto, the best"),
    "sides": ("", "quip: what is rotated; default: input"),
    "rescale": ("", "quip: of the inputs; default: mean"),
    "per_tensor": ("", "quip: one scale for the whole layer"),
    "rho": (
        "FLOAT|search|table",
        "quip: half the range of the grid in units of the RMS; default: search, row by row",
    ),
    "k": ("N", "kbest: partial roundings kept; default: 8"),
    "outliers_first": ("", "obq: clipped weights first"),
    "rounds": ("N|all", "lnq: turns of levels and codes; default: all"),
    "level_dtype": ("", "lnq: what levels are stored in; default: float16"),
    "c": ("FLOAT", "safe: bound of the feedback; default: 1"),
    "refine": (
        "N|all",
        "passes of coordinate descent after rounding, or until nothing changes; default: 0",
    ),
    "refit": ("", "then fit scales, or scales and zeros, to the codes; default: none"),
    "rank": ("N", "then add a low-rank correction in float16, 16 (m + n) bits each; default: 0"),
    "order": ("", "default: act, quip min-pivot, safe natural, obq greedy"),
    "damp": ("FLOAT|auto", "fraction of mean diag H; default: 0.01"),
    "rounding": ("", "default: nearest, safe stochastic"),
    "seed": ("N", "of rotations and stochastic rounding; quip, safe: 0"),
    "backend": ("", "where to round: cuda is a GPU, with CuPy; default: auto, the processor"),
    "budget": (
        "SIZE",
        "with several --bits: what the result may take, as 2.5 (bits a weight, scales counted) or "
        "3GB; every layer is done at every width, and the best for this size are kept",
    ),
    "include": (
        "GLOB",
        "only layers whose name matches, as 'model.*.q_proj' ('*' matches '/' too, case matters); "
        "repeatable",
    ),
    "exclude": ("GLOB", "not these layers; repeatable"),
    "jobs": ("N", "processes that work at once; default: 1"),
    "threads": ("N", "of each process; default: every core, shared out among the jobs"),
    "max_memory": (
        "SIZE",
        "of all processes, as 8GB or 8GiB; larger layers are worked on in tiles on the disk; "
        "default: nine tenths of what is free",
    ),
    "overwrite": ("", "replace OUT.h5 if it exists, in one step at the end"),
}


def _parsed_by(option: Option) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return option.parse(text)
        except (TypeError, ValueError):
            raise argparse.ArgumentTypeError(f"must be {option.expected}; got {text!r}") from None

    return parse


damping = _parsed_by(OPTIONS["damp"])


def add_settings(parser: Parser) -> None:
    """Add the options that a file given with --config may have too."""
    for key, (metavar, text) in _FLAGS.items():
        option = _ALL[key]
        how: dict[str, Any] = {"metavar": metavar, "type": _parsed_by(option)}
        if option.is_switch:
            how = {"action": argparse.BooleanOptionalAction}
        elif option.is_list:
            how = {"metavar": metavar, "action": "append"}
        elif option.choices:
            how = {"choices": option.choices}
        # every default is None: what the flags do not say, the file may
        parser.add_argument("--" + key.replace("_", "-"), default=None, help=text, **how)


def layer_policy(options: argparse.Namespace) -> Policy:
    """Return what each layer gets, and the settings of the run: flag, else file, else default."""
    from quiplinalg.model.policy import read_policy

    flags = {key: getattr(options, key) for key in _ALL if getattr(options, key) is not None}
    return read_policy(options.config, flags, prefix="--")
