"""What one layer is rounded by: defaults, refusals, JSON, and the library's own results."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import quiplinalg as ql
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.model.choices import METHODS, OPTIONS
from quiplinalg.model.options import LayerOptions, layer_seed, resolve


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((64, 24)) * np.exp(rng.standard_normal(24))
    return rng.standard_normal((6, 24)).astype(np.float32), (X.T @ X / 64).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_are_those_of_the_function(method, layer):
    seed = {"seed": layer_seed(0, "a")} if method in ("quip", "safe") else {}
    expected = getattr(ql, method)(*layer, **seed)
    found = resolve({"method": method}).quantize("a", *layer)
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert (found.loss, found.seed, found.method) == (expected.loss, expected.seed, method)


CASES = [
    {},
    {"method": "gptq", "group_size": 8, "static_groups": True, "damp": "auto"},
    {"method": "nearest", "rounding": "stochastic", "seed": 3, "damp": 0.2},
    {"method": "ldlq", "refine": "all", "sym": True, "clip": "best"},
    {"method": "obq", "outliers_first": True, "refine": 1},
    {"method": "kbest", "k": 3, "order": "natural", "refit": "both"},
    {"method": "lnq", "bits": 3, "rounds": 1, "level_dtype": "float32", "rank": 2},
    {"method": "quip", "rotation": "none", "rho": "table", "refine": "all"},
    {"method": "quip", "sides": "both", "rotation": "hadamard", "rescale": "none"},
    {"method": "quip", "sides": "both", "rotation": "kronecker", "per_tensor": True},
    {"method": "safe", "c": 0, "rounding": "nearest"},
]


@pytest.mark.parametrize("given", CASES, ids=str)
def test_json_has_all_of_it(given, layer):
    options = resolve(given)
    data = json.loads(json.dumps(options.to_json()))
    assert data["method"] == options.method and data["bits"] == options.bits
    again = LayerOptions.from_json(data)
    assert again == options
    first, second = (each.quantize("a", *layer) for each in (options, again))
    np.testing.assert_array_equal(first.codes, second.codes)


@pytest.mark.parametrize("given", CASES, ids=str)
def test_what_is_given_is_what_there_is(given):
    data = resolve(given).to_json()
    words = {"all": None, "none": None, "table": None}
    for key, value in given.items():
        if (data["method"], key) != ("nearest", "damp"):  # which it has no use for
            assert data[key] == words.get(value, value)


@pytest.mark.parametrize(
    "given",
    [
        {"method": "ldlq", "damp": 0, "group_size": "row", "bits": np.int64(2)},
        {"method": "ldlq", "damp": 0.0, "group_size": None, "bits": 2},
    ],
)
def test_equal_options_are_equal(given):
    assert resolve(given) == resolve({"damp": 0.0})
    assert json.dumps(resolve(given).to_json()) == json.dumps(resolve({"damp": 0.0}).to_json())


def test_refinement_is_the_librarys(layer):
    W, H = layer
    found = resolve({"refine": 2}).quantize("a", W, H)
    np.testing.assert_array_equal(found.codes, ql.descend(W, H, ql.ldlq(W, H), passes=2).codes)
    found = resolve({"method": "quip", "refine": "all"}).quantize("a", W, H)
    expected = ql.quip(W, H, refine=None, seed=layer_seed(0, "a"))
    np.testing.assert_array_equal(found.codes, expected.codes)


@pytest.mark.parametrize("given", [{}, {"method": "gptq", "order": "natural", "refine": 1}])
def test_a_prepared_hessian_gives_the_same(given, layer):
    options = resolve(given)
    order, damp = options.shared_factor
    W, H = layer
    found = options.quantize("a", W, ql.prepare(H, order=order, damp=damp))
    expected = options.quantize("a", W, H)
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert found.loss == expected.loss


def test_what_layers_may_share():
    assert resolve({}).shared_factor == ("act", 0.01)
    assert resolve({"method": "gptq", "damp": "auto"}).shared_factor == ("act", "auto")
    for method in ("nearest", "obq", "kbest", "quip", "safe"):
        assert resolve({"method": method}).shared_factor is None
    assert (resolve({}).clip, resolve({"method": "quip"}).clip) == ("mse", None)


def test_seeds():
    assert layer_seed(7, "a") == 7 + ((0xE8B7BE43 & 0x7FFFFFFF) << 32)  # for ever
    options = resolve({"rounding": "stochastic", "seed": 7})
    assert options.keywords_for("a") == options.keywords | {"seed": layer_seed(7, "a")}
    assert options.keywords_for("a") != options.keywords_for("b")
    assert resolve({}).keywords_for("a") == resolve({}).keywords


@pytest.mark.parametrize(
    "given, said",
    [
        ({"wbits": 3}, "unknown option 'wbits'; did you mean bits?"),
        ({"method": "awq"}, "method must be one of nearest, gptq"),
        ({"bits": 9}, "bits must be a whole number from 1 to 8"),
        ({"bits": "3"}, "bits must be a whole number, or several"),
        ({"group_size": 0}, "group_size must be"),
        ({"damp": 1.5}, "damp must be"),
        ({"damp": float("nan")}, "damp must be"),
        ({"refine": -1}, "refine must be a number of passes"),
        ({"method": "quip", "refine": -1}, "refine must be a number of passes"),
        ({"rounding": "stochastic"}, "seed must be"),
        ({"seed": -1}, "seed must be"),
        ({"method": "quip", "rho": -1}, "rho must be positive"),
        ({"method": "quip", "clip": "mse"}, "clip is for method nearest or gptq or ldlq or obq"),
        ({"method": "safe", "refine": 0}, "refine is for method nearest"),
        ({"method": "safe", "c": -1}, "c must be"),
        ({"method": "safe", "c": 0, "clip": "best"}, "clip must be"),
        ({"method": "obq", "clip": "best"}, "clip must be"),
        ({"method": "obq", "static_groups": False}, "static_groups is for method gptq or ldlq"),
        ({"method": "obq", "order": "act", "outliers_first": True}, "outliers_first must be"),
        ({"order": "greedy"}, "order must be one of natural, act"),
        ({"method": "kbest", "k": 0}, "k must be"),
        ({"method": "nearest", "damp": 2}, "damp must be"),  # though it has no use for it
        ({"method": "quip", "rotation": "none", "sides": "both"}, "rotation must not be none"),
        ({"method": "quip", "per_tensor": True, "group_size": 8}, "per_tensor=True takes"),
    ],
    ids=str,
)
def test_what_is_refused(given, said):
    with pytest.raises(InvalidArgumentError) as caught:
        resolve(given)
    assert said in str(caught.value)


NUMBERS = st.integers(-2, 130) | st.integers() | st.floats(width=32) | st.floats(0, 4)
VALUES = {
    key: NUMBERS | st.booleans() | st.none() | st.sampled_from([*option.words, "x", [], {}])
    for key, option in OPTIONS.items()
    if key != "method"
}


@given(st.sampled_from(METHODS), st.fixed_dictionaries({}, optional=VALUES))
@example("nearest", {"rank": 3})
@example("ldlq", {"rank": 2})
def test_whatever_is_given_is_refused_or_right(method, given):
    try:
        options = resolve({"method": method} | given)
    except InvalidArgumentError as error:
        assert len(str(error)) > 20
        return
    assert LayerOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    W, H = np.ones((2, 4)), np.eye(4)
    if options.rank > min(W.shape):  # which only a layer can tell
        with pytest.raises(InvalidArgumentError, match="rank must be a whole number from 0 to 2"):
            options.quantize("a", W, H)
        return
    assert np.isfinite(np.asarray(options.quantize("a", W, H))).all()


def test_resolving_compiles_nothing():
    code = (
        "import sys; from quiplinalg.model.options import resolve\n"
        f"for method in {METHODS}: resolve({{'method': method}})\n"
        "print('numba' in sys.modules, 'h5py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
