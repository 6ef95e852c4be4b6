"""What each layer of a model gets: defaults, rules for the names they match, and flags.

A file of options has defaults for every layer at its top, and rules::

    bits = 2
    group-size = 128

    [[rules]]
    match = '.*[.](q|k)_proj'
    bits = 3

    [[rules]]
    match = 'lm_head'
    skip = true
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quiplinalg.arguments import explain_keyword
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.model.choices import FILE, OPTIONS, RULE, SETTINGS, Option
from quiplinalg.model.options import LayerOptions, foreign_options, resolve

__all__ = ["Policy", "read_policy"]


@dataclass(frozen=True, eq=False)
class _Table:
    """Options from one place."""

    values: dict[str, Any]
    prefix: str = ""  # of its keys in messages: "--" for flags

    def spell(self, key: str) -> str:
        return self.prefix + key.replace("_", "-") if self.prefix else key


@dataclass(frozen=True, eq=False)
class _Rule(_Table):
    """Options of the layers whose whole name a pattern matches."""

    place: str = ""
    pattern: re.Pattern[str] = re.compile("")
    skip: bool | None = None

    @classmethod
    def of(cls, given: Any, number: int, source: str) -> _Rule:
        """Return a rule as it was given, checked."""
        place = f"rule {number}"
        if not isinstance(given, Mapping) or "match" not in given:
            raise _error(
                (source, place),
                f"a rule must be a table with a match, as match = '.*q_proj'; got {given!r}.",
            )
        place += f" (match = {given['match']!r})"
        values = _checked(given, {**RULE, **OPTIONS}, (source, place))
        pattern, skip = values.pop("match"), values.pop("skip", None)
        return cls(values, place=place, pattern=pattern, skip=skip)


class Policy:
    """Options by layer: defaults, then each rule that matches, in their order, then overrides.

    Parameters
    ----------
    defaults : mapping
        Options of every layer, as of `resolve`.  They must be right by themselves.
    rules : sequence of mappings
        Each with "match", a regular expression that must match the whole name of a layer, and
        options for it, or "skip": True to leave it out (False: not, after an earlier rule).  All
        rules that match apply, a later one over an earlier.  One that sets "method" also drops
        what stood before it and is of no use to this method.
    overrides : mapping
        Options above every rule: flags of a command line.  Several bits to choose from are below
        them: a rule with bits takes its layers out of the choice.
    settings : mapping
        Of the run, as in `SETTINGS`.  They are only kept here.
    source : str
        The file it comes from, for messages.
    prefix : str
        "--" where messages should call the overrides as a command line does.

    Attributes
    ----------
    settings : dict

    Raises
    ------
    InvalidArgumentError
        An unknown key, a value of another type, a pattern that is none, or defaults that a method
        does not take.  What rules make of them is judged in `for_layer`.

    Examples
    --------
    >>> policy = Policy({"bits": 2}, [{"match": ".*q_proj", "bits": 3},
    ...                               {"match": "head", "skip": True}])
    >>> policy.for_layer("block.0.q_proj").bits, policy.for_layer("block.0.up_proj").bits
    (3, 2)
    >>> policy.for_layer("head") is None
    True
    """

    def __init__(
        self,
        defaults: Mapping[str, Any] | None = None,
        rules: Sequence[Mapping[str, Any]] = (),
        *,
        overrides: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        source: str = "",
        prefix: str = "",
    ):
        self.settings = dict(settings or {})
        self._source = source
        over = _checked(overrides or {}, OPTIONS, ())
        several = {"bits": over.pop("bits")} if isinstance(over.get("bits"), tuple) else {}
        self._defaults = _Table(_checked(defaults or {}, OPTIONS, (source,)) | several)
        self._rules = [_Rule.of(rule, k, source) for k, rule in enumerate(rules, 1)]
        self._flags = _Table(over, prefix)
        self._resolved: dict[tuple[_Rule, ...], LayerOptions | None] = {(): self._resolve(())}

    def for_layer(self, name: str) -> LayerOptions | None:
        """Return the options of a layer, None to leave it out.

        Parameters
        ----------
        name : str

        Raises
        ------
        InvalidArgumentError
            What applies to the layer does not go together; the message names the file, the rules
            and the key.
        """
        rules = tuple(rule for rule in self._rules if rule.pattern.fullmatch(name))
        if rules not in self._resolved:
            self._resolved[rules] = self._resolve(rules)
        return self._resolved[rules]

    def unused(self, names: Iterable[str]) -> list[str]:
        """Return a sentence about each rule that matches none of the layers.

        Parameters
        ----------
        names : iterable of str
        """
        names = list(names)
        sentences = []
        for rule in self._rules:
            if any(map(rule.pattern.fullmatch, names)):
                continue
            inside = next(filter(rule.pattern.search, names), None)
            hint = "" if inside is None else f"; it must match the whole name, as {inside!r}"
            sentences.append(f"{_place(self._source, rule.place)} matches no layer{hint}")
        return sentences

    def overridden(self) -> list[str]:
        """Return a sentence about each option of a rule that an override comes before."""
        return [
            f"{self._flags.spell(key)} {self._flags.values[key]!r} comes before {key} = {value!r} "
            f"of {_place(self._source, rule.place)}"
            for rule in self._rules
            for key, value in rule.values.items()
            if self._flags.values.get(key, value) != value
        ]

    def _resolve(self, rules: tuple[_Rule, ...]) -> LayerOptions | None:
        """Return the options where these rules match."""
        if next((rule.skip for rule in reversed(rules) if rule.skip is not None), False):
            return None
        tables = (self._defaults, *rules, self._flags)
        origin = {key: table for table in tables for key in table.values}  # the last that has it
        chooser = origin.get("method")
        if isinstance(chooser, _Rule):
            before = tables[: tables.index(chooser)]
            for key in foreign_options(chooser.values["method"], list(origin)):
                if origin[key] in before:
                    del origin[key]
        try:
            return resolve(
                {key: table.values[key] for key, table in origin.items()},
                lambda key: origin.get(key, self._flags).spell(key),
            )
        except InvalidArgumentError as error:
            raise _error(self._blamed(str(error), origin), str(error)) from None

    def _blamed(self, message: str, origin: Mapping[str, _Table]) -> tuple[str, ...]:
        """The file and the rules that an error is about: a message starts with an option."""
        key = re.split("[ =]", message)[0].lstrip("-").replace("-", "_")
        about = [origin[each] for each in (key, "method") if each in origin]
        tables = list(dict.fromkeys(about if key in origin else origin.values()))
        if all(table is self._flags for table in tables):
            return ()
        rules = [table.place for table in tables if isinstance(table, _Rule)]
        return (self._source, " with ".join(rules))


def read_policy(
    config: str | os.PathLike | None, flags: Mapping[str, Any] | None = None, *, prefix: str = ""
) -> Policy:
    """Return the policy of a TOML file and of flags, which come before all that it says.

    Parameters
    ----------
    config : path or None
        Keys at the top: any of `OPTIONS`, for every layer, and of `SETTINGS`; then [[rules]], as
        in `Policy`.  "-" and "_" are alike in keys.
    flags : mapping, optional
        Options and settings.
    prefix : str
        Of the flags in messages.

    Raises
    ------
    InvalidArgumentError
        No such file, no TOML, or as `Policy`.
    """
    source = "" if config is None else os.fspath(config)
    table = _checked({} if config is None else _read_toml(source), FILE, (source,))
    over = _checked(flags or {}, {**OPTIONS, **SETTINGS}, ())
    return Policy(
        _part(table, OPTIONS), table.get("rules", ()), overrides=_part(over, OPTIONS),
        settings=_part(table, SETTINGS) | _part(over, SETTINGS), source=source, prefix=prefix,
    )  # fmt: skip


def _read_toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InvalidArgumentError(
            f"config must name a TOML file; got {path!r} ({error.strerror}). Check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(
            f"config must name a TOML file; got {path!r} ({error}). A line looks like: bits = 3"
        ) from None


def _checked(
    given: Mapping[str, Any], known: Mapping[str, Option], place: tuple[str, ...]
) -> dict[str, Any]:
    """Return values by the names of their options, as the functions take them."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            hint = explain_keyword(key, known)
            if name in SETTINGS:
                hint = "it is for the whole run: set it above the rules."
            raise _error(place, f"unknown key {key!r}; {hint}")
        if name in found:
            raise _error(place, f"{key} must be given once; got it with '-' and with '_'.")
        try:
            found[name] = known[name].value(value)
        except (TypeError, ValueError, re.error) as error:
            reason = f" ({error})" if isinstance(error, re.error) else ""
            raise _error(
                place, f"{key} must be {known[name].expected}; got {key} = {value!r}{reason}."
            ) from None
    return found


def _part(values: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in options}


def _place(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _error(parts: Sequence[str], message: str) -> InvalidArgumentError:
    place = _place(*parts)
    return InvalidArgumentError(f"{place}: {message}" if place else message)
