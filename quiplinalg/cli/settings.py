"""The options of ``quantize``, from flags, a TOML file and defaults, in this order."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from quiplinalg.cli.common import Parser, UsageError, did_you_mean

__all__ = ["DEFAULTS", "add_settings", "damping", "settings"]

DEFAULTS: dict[str, Any] = {
    "method": "ldlq",
    "bits": None,
    "group_size": None,
    "static_groups": False,
    "sym": False,
    "clip": "mse",
    "rotation": "auto",
    "sides": "input",
    "rescale": "mean",
    "per_tensor": False,
    "rho": "search",
    "c": 1.0,
    "k": 8,
    "outliers_first": False,
    "refine": 0,
    "order": None,
    "damp": 0.01,
    "rounding": "nearest",
    "seed": None,
    "include": [],
    "exclude": [],
    "threads": None,
    "overwrite": False,
}
_BITS = {"ldlq": 2, "gptq": 4, "nearest": 4, "obq": 4, "kbest": 2, "quip": 2, "safe": 2}
_ORDER = {"quip": "min-pivot", "safe": "natural", "obq": "greedy"}  # "act" elsewhere
_METHOD_DEFAULTS = {"safe": {"clip": "minmax", "rounding": "stochastic"}}
_WORDS = {"damp": ("auto",), "rho": ("search", "table"), "refine": ("all",)}  # or a number
# options that mean something to some methods only
_ONLY = {
    "rotation": ("quip",),
    "sides": ("quip",),
    "rescale": ("quip",),
    "per_tensor": ("quip",),
    "rho": ("quip",),
    "c": ("safe",),
    "k": ("kbest",),
    "outliers_first": ("obq",),
    # a code that moves may leave safe's range
    "refine": ("nearest", "gptq", "ldlq", "obq", "kbest", "quip"),
    "clip": ("nearest", "gptq", "ldlq", "obq", "kbest", "safe"),
    "sym": ("nearest", "gptq", "ldlq", "obq", "kbest", "safe"),
    "static_groups": ("nearest", "gptq", "ldlq"),
    "rounding": ("nearest", "gptq", "ldlq", "quip", "safe"),
    "seed": ("nearest", "gptq", "ldlq", "quip", "safe"),
}


def damping(text: str) -> float | str:
    """Return "auto", or a fraction."""
    return text if text == "auto" else float(text)


def passes(text: str) -> int | str:
    """Return "all", or a number of passes."""
    return text if text == "all" else int(text)


def half_range(text: str) -> float | str:
    """Return "search", "table", or a number."""
    return text if text in ("search", "table") else float(text)


def add_settings(parser: Parser) -> None:
    """Add the options that a file given with --config may have too."""
    # every default is None: what the flags do not say, the file may
    switch = argparse.BooleanOptionalAction
    add = parser.add_argument
    add("--method", choices=tuple(_BITS), help="default: ldlq")
    add("--bits", type=int, metavar="N", help="1 to 8; default: 4 for gptq, obq, nearest; else 2")
    add("--group-size", type=int, metavar="N", help="columns that share a scale; default: a row")
    add("--static-groups", action=switch, help="group scales from the original weights")
    add("--sym", action=switch, help="a grid symmetric about 0")
    add(
        "--clip", choices=("mse", "minmax", "best"), help="the range; default: mse, for safe minmax"
    )
    rotations = ("auto", "hadamard", "kronecker", "none")
    add("--rotation", choices=rotations, help="quip: of the inputs; default: auto, the best")
    add("--sides", choices=("input", "both"), help="quip: what is rotated; default: input")
    scalings = ("mean", "trace", "volume", "none")
    add("--rescale", choices=scalings, help="quip: of the inputs; default: mean")
    add("--per-tensor", action=switch, help="quip: one scale for the whole layer")
    add(
        "--rho",
        type=half_range,
        metavar="FLOAT|search|table",
        help="quip: half the range of the grid in units of the RMS; default: search, row by row",
    )
    add("--k", type=int, metavar="N", help="kbest: partial roundings kept; default: 8")
    add("--outliers-first", action=switch, help="obq: clipped weights first")
    add("--c", type=float, metavar="FLOAT", help="safe: bound of the feedback; default: 1")
    add(
        "--refine",
        type=passes,
        metavar="N|all",
        help="passes of coordinate descent after rounding, or until nothing changes; default: 0",
    )
    orders = ("natural", "act", "min-pivot", "greedy")
    add("--order", choices=orders, help="default: act, quip min-pivot, safe natural, obq greedy")
    add("--damp", type=damping, metavar="FLOAT|auto", help="fraction of mean diag H; default: 0.01")
    add("--rounding", choices=("nearest", "stochastic"), help="default: nearest, safe stochastic")
    add("--seed", type=int, metavar="N", help="of rotations and stochastic rounding; quip, safe: 0")
    add(
        "--include",
        action="append",
        metavar="GLOB",
        help="only layers whose name matches, as 'model.*.q_proj' ('*' matches '/' too, case "
        "matters); repeatable",
    )
    add("--exclude", action="append", metavar="GLOB", help="not these layers; repeatable")
    add("--threads", type=int, metavar="N", help="default: every core")
    add("--overwrite", action=switch, help="replace OUT.h5 if it exists, in one step at the end")
    for action in parser._actions:
        action.default = None if action.dest in DEFAULTS else action.default


def settings(parser: Parser, options: argparse.Namespace) -> dict[str, Any]:
    """Return every setting: flag, else file, else default."""
    given = {} if options.config is None else _from_file(parser, Path(options.config))
    flags = {key: getattr(options, key) for key in DEFAULTS}
    given |= {key: value for key, value in flags.items() if value is not None}
    method = given.get("method", DEFAULTS["method"])
    values = DEFAULTS | _METHOD_DEFAULTS.get(method, {}) | given
    for key, methods in _ONLY.items():
        if key in given and method not in methods:
            raise UsageError(
                f"--{key.replace('_', '-')} is for --method {' or '.join(methods)}; got it with "
                f"{method}. Leave it out, or choose another method"
            )
    if values["bits"] is None:
        values["bits"] = _BITS[method]
    if values["order"] is None:
        values["order"] = _ORDER.get(method, "act")
    return values


def _from_file(parser: Parser, path: Path) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise UsageError(
            f"--config must name a TOML file; got {str(path)!r} ({error.strerror}). Check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--config must name a TOML file; got {str(path)!r} ({error}). "
            "A line looks like: bits = 3"
        ) from None
    actions = {a.dest: a for a in parser._actions if a.dest in DEFAULTS}
    return {
        name: _value(path, key, value, actions[name])
        for key, value in table.items()
        for name in [_known(path, key)]
    }


def _known(path: Path, key: str) -> str:
    name = key.replace("-", "_")
    if name not in DEFAULTS:
        names = [known.replace("_", "-") for known in DEFAULTS]
        raise UsageError(f"{path} has an unknown key {key!r}{did_you_mean(key, names)}")
    return name


def _value(path: Path, key: str, value: Any, action: argparse.Action) -> Any:
    """Return a value of the file as the flag would have it."""

    def wrong(expected: str) -> UsageError:
        return UsageError(f"{path}: {key} must be {expected}; got {key} = {value!r}")

    if action.nargs == 0:
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if action.dest in ("include", "exclude"):
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise wrong('a list of globs, as ["model.*"]')
        return values
    if action.choices is not None:
        if value not in action.choices:
            raise wrong("one of " + ", ".join(map(str, action.choices)))
        return value
    words = _WORDS.get(action.dest, ())
    if words or action.type is float:
        if value not in words and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise wrong(" or ".join(("a number", *(f'"{word}"' for word in words))))
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong("a whole number")
    return value
