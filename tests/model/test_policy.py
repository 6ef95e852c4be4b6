"""What each layer gets: precedence, rules, and errors that name the file, the rule and the key."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.model.options import resolve
from quiplinalg.model.policy import Policy, read_policy


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "c.toml"
        path.write_text(text)
        return path

    return write


def test_flag_over_rule_over_file_over_default(config):
    path = config(
        'bits = 3\ngroup-size = 128\n[[rules]]\nmatch = ".*q"\nbits = 4\nsym = true\n'
        '[[rules]]\nmatch = "0[.].*"\nbits = 5\ngroup-size = "row"\n'
    )
    policy = read_policy(path)
    assert policy.for_layer("1.v") == resolve({"bits": 3, "group_size": 128})
    assert policy.for_layer("1.q") == resolve({"bits": 4, "group_size": 128, "sym": True})
    assert policy.for_layer("0.v") == resolve({"bits": 5})
    assert policy.for_layer("0.q") == resolve({"bits": 5, "sym": True})
    flags = read_policy(path, {"bits": 8, "sym": False})
    assert flags.for_layer("0.q") == resolve({"bits": 8})
    assert flags.for_layer("1.q") == resolve({"bits": 8, "group_size": 128})
    assert read_policy(None).for_layer("x") == resolve({})


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "bits": st.integers(1, 8),
        "group_size": st.sampled_from([4, 8, "row"]),
        "sym": st.booleans(),
        "order": st.sampled_from(["act", "natural"]),
    },
)
RULES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "[ab]", ".*", "a.*", ".*b"]), OPTIONS,
              st.sampled_from([{}, {"skip": True}, {"skip": False}])),
    max_size=5,
)  # fmt: skip


@given(OPTIONS, RULES, OPTIONS, st.text("ab", max_size=3))
def test_the_last_word_on_each_option_counts(defaults, rules, flags, name):
    policy = Policy(
        defaults, [{"match": match} | options | skip for match, options, skip in rules],
        overrides=flags,
    )  # fmt: skip
    expected, skipped = dict(defaults), False
    for match, options, skip in rules:
        if re.fullmatch(match, name):
            expected |= options
            skipped = skip.get("skip", skipped)
    found = policy.for_layer(name)
    assert found == (None if skipped else resolve(expected | flags))
    assert policy.for_layer(name) is found  # made once for the layers that it is for


def test_a_pattern_matches_the_whole_name():
    policy = Policy({}, [{"match": "q_proj", "bits": 4}, {"match": "a|b", "bits": 3}])
    assert policy.for_layer("model.q_proj").bits == policy.for_layer("ab").bits == 2
    assert (policy.for_layer("q_proj").bits, policy.for_layer("b").bits) == (4, 3)


def test_a_rule_with_another_method_drops_what_that_has_not():
    rules = [{"match": "q", "method": "quip", "rotation": "none"}, {"match": "n", "method": "obq"}]
    policy = Policy({"clip": "minmax", "bits": 3, "sym": True}, rules)
    assert policy.for_layer("x") == resolve({"clip": "minmax", "bits": 3, "sym": True})
    assert policy.for_layer("q") == resolve({"method": "quip", "bits": 3, "rotation": "none"})
    assert policy.for_layer("n").keywords["sym"] is True  # which obq has
    rules = [{"match": "q", "method": "quip"}, {"match": ".", "sym": True}]
    policy = Policy({"clip": "minmax"}, rules)
    assert policy.for_layer("x") == resolve({"clip": "minmax", "sym": True})
    with pytest.raises(InvalidArgumentError, match=r"rule 2 .*sym is for method"):
        policy.for_layer("q")  # said after the method


def test_a_flag_decides_the_method_of_a_rule():
    policy = Policy({"clip": "minmax"}, [{"match": "q", "method": "quip"}],
                    overrides={"method": "gptq"})  # fmt: skip
    assert policy.for_layer("q") == resolve({"method": "gptq", "clip": "minmax"})


def test_skip():
    policy = Policy({}, [{"match": "a.*", "skip": True}, {"match": ".*b", "skip": False, "bits": 5},
                         {"match": "x", "skip": True, "method": "quip"}],
                    overrides={"clip": "mse"})  # fmt: skip
    assert policy.for_layer("a") is None
    assert policy.for_layer("x") is None  # nothing to be wrong about
    assert policy.for_layer("ab").bits == 5


@pytest.mark.parametrize(
    "text, said",
    [
        ("wbits = 3", ["c.toml: unknown key 'wbits'; did you mean bits?"]),
        ("[model]\nbits = 3", ["c.toml: unknown key 'model'"]),
        ("[[rule]]\nbits = 3", ["c.toml: unknown key 'rule'; did you mean rules?"]),
        ("[rules]\nbits = 3", ["c.toml: rules must be tables, as [[rules]]"]),
        ("rules = [3]", ["c.toml, rule 1: a rule must be a table with a match"]),
        ("[[rules]]\nbits = 3", ["c.toml, rule 1: a rule must be", "match = '.*q_proj'"]),
        ("[[rules]]\nmatch = 3", ["c.toml, rule 1 (match = 3): match must be a regular"]),
        ("[[rules]]\nmatch = '('", ["c.toml, rule 1 (match = '('): match must be a", "position 0"]),
        ("[[rules]]\nmatch = 'a'\n[[rules]]\nmatch = 'b'\nbit = 3",
         ["c.toml, rule 2 (match = 'b'): unknown key 'bit'; did you mean bits?"]),
        ("[[rules]]\nmatch = 'a'\nthreads = 3", ["rule 1 (match = 'a'): unknown key 'threads'",
                                                 "above the rules"]),
        ("[[rules]]\nmatch = 'a'\nskip = 1", ["rule 1 (match = 'a'): skip must be true or false"]),
        ("[[rules]]\nmatch = 'a'\nbits = '3'",
         ["c.toml, rule 1 (match = 'a'): bits must be a whole number"]),
        ("group_size = 3\ngroup-size = 4", ["c.toml: group-size must be given once"]),
        ("bits = 9", ["c.toml: bits must be a whole number from 1 to 8; got bits=9"]),
        ("rounding = 'stochastic'", ["c.toml: seed must be a whole number"]),
        ("rotation = 'none'", ["c.toml: rotation is for method quip; got it with ldlq"]),
        ("jobs = 1.5", ["c.toml: jobs must be a whole number"]),
        ("max-memory = 'much'", ["c.toml: max-memory must be a number of bytes"]),
        ("bits : 3", ["TOML", "A line looks like: bits = 3"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_at_once(text, said, config):
    with pytest.raises(InvalidArgumentError) as caught:
        read_policy(config(text))
    for part in said:
        assert part in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(InvalidArgumentError, match="config must name a TOML file"):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgumentError, match="config must name a TOML file"):
        read_policy(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    "text, flags, name, start",
    [
        ("[[rules]]\nmatch = 'a'\nbits = 9", {}, "a", "c.toml, rule 1 (match = 'a'): bits must be"),
        ("bits = 3\n[[rules]]\nmatch = 'a'\nk = 2", {}, "a",
         "c.toml, rule 1 (match = 'a'): k is for --method kbest; got it with ldlq"),
        ("[[rules]]\nmatch = 'a'\nmethod = 'kbest'\n[[rules]]\nmatch = '.'\nk = 0", {}, "a",
         "c.toml, rule 2 (match = '.') with rule 1 (match = 'a'): k must be"),
        ("[[rules]]\nmatch = 'a'\nmethod = 'quip'", {"clip": "mse"}, "a",
         "c.toml, rule 1 (match = 'a'): --clip is for method nearest"),
        ("[[rules]]\nmatch = 'a'\nclip = 'mse'", {"method": "quip"}, "a",
         "c.toml, rule 1 (match = 'a'): clip is for --method nearest"),
        ("damp = 0.1\n[[rules]]\nmatch = 'a'\nrounding = 'stochastic'", {}, "a",
         "c.toml, rule 1 (match = 'a'): seed must be"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_names_the_rule(text, flags, name, start, config):
    policy = read_policy(config(text), flags, prefix="--")
    assert policy.for_layer("none of them") is not None
    with pytest.raises(InvalidArgumentError) as caught:
        policy.for_layer(name)
    assert start in str(caught.value)


@pytest.mark.parametrize(
    "flags, start",
    [
        ({"bits": 9}, "bits must be a whole number from 1 to 8"),
        ({"rotation": "none"}, "--rotation is for --method quip; got it with ldlq"),
        ({"group_size": 4, "method": "quip", "per_tensor": True}, "per_tensor=True takes"),
        ({"wbits": 9}, "unknown key 'wbits'; did you mean bits?"),
    ],
)
def test_a_wrong_flag_does_not_blame_the_file(flags, start, config):
    with pytest.raises(InvalidArgumentError) as caught:
        read_policy(config("damp = 0.02"), flags, prefix="--")
    assert str(caught.value).startswith(start)


def test_unused_rules(config):
    text = "[[rules]]\nmatch = 'a'\nbits = 3\n[[rules]]\nmatch = 'q_proj'\n[[rules]]\nmatch = 'z'\n"
    policy = read_policy(config(text))
    first, second = policy.unused(["a", "block/q_proj"])
    assert "c.toml, rule 2 (match = 'q_proj') matches no layer" in first
    assert "the whole name" in first and "'block/q_proj'" in first
    assert second.endswith("rule 3 (match = 'z') matches no layer")
    assert policy.unused(["a", "q_proj", "z"]) == []


def test_overridden_rules(config):
    text = "bits = 4\n[[rules]]\nmatch = 'a'\nbits = 3\nsym = true\ngroup-size = 8\n"
    policy = read_policy(config(text), {"bits": 2, "sym": True, "group_size": 16}, prefix="--")
    first, second = policy.overridden()
    assert first.startswith("--bits 2 comes before bits = 3 of ") and "rule 1" in first
    assert second.startswith("--group-size 16 comes before group_size = 8 of ")
    assert read_policy(config(text)).overridden() == []


def test_settings_of_the_run(config):
    path = config('jobs = 2\nmax-memory = "2 GB"\ninclude = "a*"\noverwrite = true\n')
    assert read_policy(path, {"jobs": 3, "bits": 3}).settings == {
        "jobs": 3, "max_memory": 2 * 10**9, "include": ["a*"], "overwrite": True,
    }  # fmt: skip
    assert read_policy(None).settings == {}
