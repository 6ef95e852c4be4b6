"""Unknown keywords."""

import inspect

import pytest

from quiplinalg.arguments import ALIASES, explain_keyword, suggest_keywords
from quiplinalg.errors import DTypeError

NAMES = ["W", "H", "bits", "group_size", "sym", "order", "damp", "block", "seed"]


@suggest_keywords({"act_first": 'order="act"', "panel": ("block", "group_size")})
def ldlq(
    W, H, *, bits=2, group_size=None, sym=False, order="natural", damp=0.01, block=128, seed=None
) -> dict:
    """Round."""
    return {"bits": bits, "damp": damp, "W": W}


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_names_a_keyword(alias):
    with pytest.raises(DTypeError, match=rf"ldlq\(\) has no keyword '{alias}'; did you mean "):
        ldlq(1, 2, **{alias: 1})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("percdamp", ["damp=0.01 (a fraction of the mean live diagonal of H)?"]),
        ("perc_damped", ["damp=0.01"]),
        ("desc_act", ['order="act"']),
        ("wbits", ["bits?"]),
        ("--num-bits", ["bits?"]),
        ("symmetric", ["sym?"]),
        ("groupsize", ["group_size?"]),
        ("GroupSize", ["group_size?"]),
        ("blocksize", ["block (", " or group_size ("]),
        ("dampp", ["damp?"]),
        ("bitz", ["bits?"]),
        ("gruop_size", ["group_size?"]),
        ("zzz", ["the keywords are W, H, bits"]),
    ],
)
def test_explanations(name, expected):
    text = explain_keyword(name, NAMES)
    for part in expected:
        assert part in text, text


def test_block_size_is_never_read_as_a_group_size_alone():
    assert explain_keyword("blocksize", ["bits", "block"]).startswith("did you mean block (")
    assert "block" in explain_keyword("block_size", NAMES).split(" or ")[0]


def test_only_valid_names_are_suggested():
    assert explain_keyword("percdamp", ["bits"]) == "the keywords are bits."
    assert explain_keyword("percdamp", []) == "it takes no keywords."
    assert "damp" not in explain_keyword("dampen", ["bits", "order"])


def test_aliases_of_one_function_come_first():
    with pytest.raises(DTypeError, match=r'did you mean order="act"\?'):
        ldlq(1, 2, act_first=True)
    with pytest.raises(DTypeError, match=r"did you mean block or group_size\?"):
        ldlq(1, 2, panel=3)


def test_right_calls_and_the_face_of_the_function():
    assert ldlq(1, H=2, bits=3) == {"bits": 3, "damp": 0.01, "W": 1}
    assert ldlq.__name__ == "ldlq" and ldlq.__doc__ == "Round."
    assert list(inspect.signature(ldlq).parameters) == [
        *["W", "H", "bits", "group_size", "sym", "order", "damp", "block", "seed"]
    ]


def test_errors_inside_and_python_s_own_are_left_alone():
    @suggest_keywords()
    def f(a, /, b):
        raise KeyError(a)

    with pytest.raises(KeyError):
        f(1, b=2)
    with pytest.raises(TypeError, match="missing 1 required"):
        f(1)
    with pytest.raises(DTypeError, match="no keyword 'a'; the keywords are b"):
        f(a=1, b=2)
    with pytest.raises(TypeError, match="takes every keyword"):
        suggest_keywords()(lambda **kwargs: None)


def test_the_error_is_a_type_error():
    with pytest.raises(TypeError):
        ldlq(1, 2, wbits=3)
