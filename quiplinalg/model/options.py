"""How one layer is rounded: a method and the keywords of its function, checked before any work."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from quiplinalg.arguments import explain_keyword
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.incoherence.draws import check_seed
from quiplinalg.model.choices import METHODS, OPTIONS
from quiplinalg.rounding.descent import descend
from quiplinalg.rounding.low_rank import low_rank_correction
from quiplinalg.rounding.options import check_passes
from quiplinalg.rounding.refit import refit

if TYPE_CHECKING:
    from quiplinalg.results import Quantized

__all__ = [
    "LayerOptions",
    "check_option",
    "foreign_options",
    "is_plain_nearest",
    "layer_seed",
    "resolve",
]

_DEFAULT_METHOD = "ldlq"
_SHARING = ("gptq", "ldlq", "lnq")  # that round with a factor of H in a common order
_AFTER: dict[str, Any] = {"refine": 0, "refit": None, "rank": 0}  # what follows the function
# a code that moves may leave the range that safe keeps; lnq has its own descent, and fits levels
_WITHOUT = {"safe": ("refine",), "lnq": ("refine", "refit")}
_IDLE = {"nearest": ("static_groups", "order", "damp")}  # taken, though they change nothing


@dataclass(frozen=True)
class LayerOptions:
    """How a layer is rounded; `resolve` makes one.

    Attributes
    ----------
    method : str
        The function: "nearest", "gptq", "ldlq", "obq", "kbest", "lnq", "quip" or "safe".
    keywords : dict
        All the keywords of the function that are options, as it takes them.
    refine : int or None
        Passes of `descend` after it; None: until nothing changes.  Always 0 for quip, which has
        them among its keywords.
    refit : str or None
        What `refit` fits to the codes then: "scale" or "both".
    rank : int
        Of the `low_rank_correction` that comes last; 0: none.
    widths : tuple of int
        Where the bits are to be chosen, all that they may be; ``keywords`` has the least.
    """

    method: str
    keywords: dict[str, Any]
    refine: int | None = 0
    refit: str | None = None
    rank: int = 0
    widths: tuple[int, ...] = ()

    def at_each_width(self) -> list[LayerOptions]:
        """Return the options with each of the bits that they may have."""
        if not self.widths:
            return [self]
        return [
            replace(self, keywords=self.keywords | {"bits": bits}, widths=())
            for bits in self.widths
        ]

    @property
    def bits(self) -> int:
        """The width of a code."""
        return self.keywords["bits"]

    @property
    def clip(self) -> str | None:
        """How the range was found; None for quip, which does not clip."""
        return self.keywords.get("clip")

    @property
    def backend(self) -> str:
        """Where the function works."""
        return self.keywords.get("backend", "auto")

    @property
    def rounds_only(self) -> bool:
        """Whether nothing follows the function of the method."""
        return self.refine == 0 and self.refit is None and self.rank == 0

    @property
    def shared_factor(self) -> tuple[str, float | str] | None:
        """The order and the damping: layers with equal ones and the same H can share its factor.

        None for methods that do not round by such a factor, and on a device where more follows
        the rounding: that takes H on the host.
        """
        if self.method not in _SHARING or (self.backend == "cuda" and not self.rounds_only):
            return None
        return self.keywords["order"], self.keywords["damp"]

    def keywords_for(self, name: str) -> dict[str, Any]:
        """Return the keywords of the function for the layer of that name, with a seed of its own.

        Parameters
        ----------
        name : str
        """
        seed = self.keywords.get("seed")
        own = {} if seed is None else {"seed": layer_seed(seed, name)}
        return self.keywords | own

    def quantize(self, name: str, W: Any, H: Any) -> Quantized:
        """Return the layer rounded.

        Parameters
        ----------
        name : str
            Its seed is made of it.
        W : array, (m, n)
        H : array, (n, n), or PreparedHessian
            Prepared by `shared_factor`, where this is not None.
        """
        q = _function(self.method)(W, H, **self.keywords_for(name))
        if self.rounds_only:
            return q
        hessian = getattr(H, "hessian", H)  # a PreparedHessian has the array that it was made of
        if self.refine != 0:
            q = descend(W, hessian, q, passes=self.refine, backend=self.backend)
        if self.refit is not None:
            q = refit(W, hessian, q, fit=self.refit)
        return low_rank_correction(W, hessian, q, self.rank) if self.rank else q

    def to_json(self) -> dict[str, Any]:
        """Return it as a flat dictionary of JSON: the method and every option of it."""
        after = {key: getattr(self, key) for key in _AFTER if key not in self.keywords}
        return {"method": self.method} | self.keywords | after

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerOptions:
        """Return what `to_json` was called on.

        Parameters
        ----------
        data : mapping
        """
        keywords = dict(data)
        method = keywords.pop("method")
        return cls(method, keywords, **_apart(method, keywords))


def is_plain_nearest(options: LayerOptions) -> bool:
    """Return whether the diagonal of H is all that rounding by these options looks at.

    Parameters
    ----------
    options : LayerOptions
    """
    return options.method == "nearest" and options.rounds_only


def layer_seed(seed: int, name: str) -> int:
    """Return the seed of one layer: its name in the upper half, so that no two share a stream.

    Parameters
    ----------
    seed : int
    name : str
    """
    return seed ^ ((zlib.crc32(name.encode()) & 0x7FFFFFFF) << 32)


def resolve(given: Mapping[str, Any], spell: Callable[[str], str] = str) -> LayerOptions:
    """Return the options of a layer: what is given, else the default of the method.

    Parameters
    ----------
    given : mapping
        "method" (default: "ldlq") and options of it, by their names in `OPTIONS`: the keywords of
        its function, where "row", "none", "table" and "all" may stand for None, and "refine".
    spell : callable
        What an option is called in messages, where it is not the name.

    Returns
    -------
    LayerOptions

    Raises
    ------
    InvalidArgumentError
        An option that there is not, that the method has not, or with a value it does not take.

    Examples
    --------
    >>> resolve({"method": "kbest", "bits": 3, "refine": "all"})
    LayerOptions(method='kbest', keywords={'bits': 3, 'k': 8, 'group_size': None, 'sym': False,
    'clip': 'mse', 'order': 'act', 'damp': 0.01, 'backend': 'auto'}, refine=None, refit=None,
    rank=0, widths=())
    """
    values = {key: check_option(key, value) for key, value in given.items()}
    method = values.pop("method", _DEFAULT_METHOD)
    for key in foreign_options(method, values):
        having = " or ".join(name for name in METHODS if key in _defaults(name))
        raise InvalidArgumentError(
            f"{spell(key)} is for {spell('method')} {having}; got it with {method}. "
            "Leave it out, or choose another method."
        )
    idle = {key: values.pop(key) for key in _IDLE.get(method, ()) if key in values}
    if idle:
        resolve(idle, spell)  # a wrong value is wrong here too
    keywords = _defaults(method) | values
    if keywords.get("sides") == "both" and keywords["rotation"] is None:
        raise InvalidArgumentError(
            f"{spell('rotation')} must not be none with {spell('sides')} both; got none. "
            f"Leave out {spell('sides')}, or choose a rotation."
        )
    bits = keywords["bits"]
    widths = bits if isinstance(bits, tuple) else ()
    if widths:
        keywords["bits"] = widths[0]
    options = LayerOptions(method, keywords, **_apart(method, keywords), widths=widths)
    for each in options.at_each_width():
        _check(each)
    return options


def check_option(key: str, value: Any) -> Any:
    """Return the value of an option as the functions take it.

    Parameters
    ----------
    key : str
    value : object

    Raises
    ------
    InvalidArgumentError
        No such option, or a value of another kind.
    """
    if key not in OPTIONS:
        raise InvalidArgumentError(f"unknown option {key!r}; {explain_keyword(key, OPTIONS)}")
    try:
        return OPTIONS[key].value(value)
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            f"{key} must be {OPTIONS[key].expected}; got {key}={value!r}. Leave it out for the "
            "default."
        ) from None


def foreign_options(method: str, keys: Iterable[str]) -> list[str]:
    """Return those of some options that a method has not.

    Parameters
    ----------
    method : str
    keys : iterable of str
    """
    known = {"method", *_defaults(method), *_IDLE.get(method, ())}
    return [key for key in keys if key not in known]


@cache
def _function(method: str) -> Callable[..., Quantized]:
    import quiplinalg

    return getattr(quiplinalg, method)


@cache
def _defaults(method: str) -> dict[str, Any]:
    """The options that a method has, with their defaults: its function knows them."""
    parameters = inspect.signature(_function(method)).parameters.values()
    found = {each.name: each.default for each in parameters if each.name in OPTIONS}
    if "rescale" in found:
        found["rescale"] = "mean"  # which is what True is
    after = {key: value for key, value in _AFTER.items() if key not in _WITHOUT.get(method, ())}
    return after | found


def _apart(method: str, keywords: dict[str, Any]) -> dict[str, Any]:
    """Take what follows the function out of its keywords: but for quip the passes of descent."""
    own = ("refine",) if method == "quip" else ()
    return {key: keywords.pop(key, value) for key, value in _AFTER.items() if key not in own}


def _check(options: LayerOptions) -> None:
    """Raise for a wrong value: the function itself judges them, on a layer of one row."""
    check_passes(options.refine, "refine")
    if options.rank < 0:
        raise InvalidArgumentError(
            f"rank must be a whole number of at least 0; got rank={options.rank}. 0 corrects "
            "nothing."
        )
    if options.keywords.get("seed") is not None:
        check_seed(options.keywords["seed"])
    here = {} if options.backend == "cuda" else {"backend": "generic"}  # is there a device?
    _function(options.method)(np.ones((1, 4)), np.eye(4), **(options.keywords | here))
