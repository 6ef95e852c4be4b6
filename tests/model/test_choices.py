"""The options there are: what values they take, from a file and from a command line."""

import inspect

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.model.choices import METHODS, OPTIONS, SETTINGS


@pytest.mark.parametrize("method", METHODS)
def test_every_keyword_of_a_method_is_an_option(method):
    keywords = set(inspect.signature(getattr(ql, method)).parameters)
    assert keywords - {"W", "H", "grid", "block", "backend"} <= set(OPTIONS)


@pytest.mark.parametrize(
    "key, good, bad",
    [
        ("method", ["ldlq"], ["awq", 3, None]),
        ("bits", [3, np.int64(3)], [True, 3.0, "3", None]),
        ("group_size", [128, "row", None], ["all", 1.5]),
        ("sym", [True], [1, "true"]),
        ("rho", [2, 2.5, np.float32(1.5), "search", "table"], ["wide", True]),
        ("damp", [0.01, 0, "auto"], [[], None, "0.1", ql.AbsoluteDamp(1.0)]),
        ("refine", [2, "all", None], [0.5, "some"]),
        ("include", [["a*", "b"], "a*"], [3, [3]]),
        ("max_memory", [10**9, "8GB"], ["8 cows", "9" * 9999 + " TB", "GB", "", True, 1.5]),
    ],
)
def test_values(key, good, bad):
    option = {**OPTIONS, **SETTINGS}[key]
    for value in good:
        option.value(value)
    for value in bad:
        with pytest.raises((TypeError, ValueError)):
            option.value(value)


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("bits", "3", 3),
        ("group_size", "row", None),
        ("rho", "2.4", 2.4),
        ("rho", "table", None),
        ("refine", "all", None),
        ("rotation", "none", None),
        ("damp", "auto", "auto"),
    ],
)
def test_a_flag_says_what_a_file_says(key, text, value):
    assert OPTIONS[key].value(OPTIONS[key].parse(text)) == value


def test_words_for_none_are_words():
    for option in OPTIONS.values():
        assert option.nothing is None or option.value(option.nothing) is None


@pytest.mark.parametrize(
    "text, size",
    [
        ("512", 512),
        ("512 B", 512),
        ("8GB", 8 * 1000**3),
        ("8 GiB", 8 * 1024**3),
        ("8G", 8 * 1024**3),
        ("1.5kb", 1500),
        ("2TiB", 2 * 1024**4),
        ("9" * 400, int("9" * 400)),
    ],
)
def test_sizes(text, size):
    assert SETTINGS["max_memory"].parse(text) == SETTINGS["max_memory"].value(text) == size


def test_a_number_beyond_float64_is_infinite():
    assert OPTIONS["rho"].value(10**400) == float("inf")
