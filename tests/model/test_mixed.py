"""Bits chosen for each layer: the run, what it keeps, and what it refuses."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.files import open_result
from quiplinalg.model import executors
from quiplinalg.model import layer as layer_module
from quiplinalg.model.options import resolve
from quiplinalg.model.plan import make_plan
from quiplinalg.model.policy import Policy, read_policy
from quiplinalg.model.run import run_model
from quiplinalg.reference import exhaustive_allocation
from quiplinalg.rounding import out_of_core

WIDTHS = (2, 3, 4)
DIGITS = Path(ql.__file__).parent / "data" / "digits.h5"


def spd(n, seed):
    X = np.random.default_rng(seed).standard_normal((4 * n, n))
    return (X.T @ X / len(X)).astype(np.float32)


def write(path, sensitivities=(None, None, None, None), indefinite=False):
    """b.k and b.q share a Hessian."""
    rng = np.random.default_rng(3)
    with ql.ProblemWriter(path, overwrite=True) as file:
        for k, name in enumerate(("b.k", "b.q", "b/up", "head")):
            W = ((1 + k) * rng.standard_normal((8 + 8 * k, 24))).astype(np.float32)
            H = spd(24, k)
            if indefinite and name == "head":
                H[0, 1] = H[1, 0] = 1.1 * np.sqrt(H[0, 0] * H[1, 1])
            given = {"shared_hessian_of": "b.k"} if name == "b.q" else {"hessian": H}
            file.add(name, W, **given, sensitivity=sensitivities[k])
    return str(path)


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model.h5")


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.h5")


def quantize(model, out, budget=4.3, **keywords):
    return ql.quantize_model(model, out, **({"bits": WIDTHS, "budget": budget} | keywords))


def measure(model, out, budget=None, **keywords):
    settings = {} if budget is None else {"budget": budget}
    return run_model(
        model, out, read_policy(None, {"bits": WIDTHS} | settings), measure=True, **keywords
    )


def widths(run):
    return {facts["layer"]: facts["bits"] for facts in run.done}


def read(path):
    return Path(path).read_bytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The bytes of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("reference")
    quantize(write(folder / "model.h5"), folder / "out.h5")
    return read(folder / "out.h5")


class Stop:
    """Stops a run after some roundings, and counts them."""

    def __init__(self, after=None):
        self.after, self.seen = after, []

    def __call__(self, event, facts):
        if event == "layer":
            self.seen.append((facts["layer"], facts["bits"]))
            if len(self.seen) == self.after:
                raise KeyboardInterrupt


def test_the_file_is_that_of_rules_with_the_widths_that_were_chosen(model, out, tmp_path):
    run = quantize(model, out)
    chosen = widths(run)
    assert list(chosen) == ["b.k", "b.q", "b/up", "head"] and len(set(chosen.values())) > 1
    assert not os.path.exists(out + ".run") and run.resumed == 0 and not run.failed
    config = tmp_path / "rules.toml"
    config.write_text(
        "".join(f"[[rules]]\nmatch = '{name}'\nbits = {bits}\n" for name, bits in chosen.items())
    )
    ql.quantize_model(model, tmp_path / "same.h5", config=config)
    assert read(out) == read(tmp_path / "same.h5")


@pytest.mark.parametrize("budget", [3.6, "1 kB", 9])
def test_the_choice_is_the_best_of_all_within_the_budget(model, out, budget):
    most = 8000 if budget == "1 kB" else budget * 24 * 80
    run = quantize(model, out, budget)
    layers = run.bits.points
    best = exhaustive_allocation(layers, most)
    assert run.bits.allocation.loss == pytest.approx(best[2])
    with open_result(out) as result:
        stored = [result.layer(name) for name in result.names]
    size = sum(round(q.bits_per_weight * q.codes.size) for q in stored)
    assert size == run.bits.allocation.size <= most
    assert sum(q.loss for q in stored) == pytest.approx(best[2])


def test_each_hessian_is_factored_once(model, out, monkeypatch):
    calls = Counter()
    prepare = layer_module.prepare

    def counted(H, **keywords):
        calls[H.tobytes()] += 1
        return prepare(H, **keywords)

    monkeypatch.setattr(layer_module, "prepare", counted)
    seen = Stop()
    run = quantize(model, out, listener=seen)
    assert sorted(calls.values()) == [1, 1, 1] and len(seen.seen) == 12
    with ql.open_problem(model) as problem:
        expected = ql.ldlq(problem.weight("b.q"), problem.hessian("b.q"), bits=3)
    (facts,) = (layer for layer in run.bits.layers if layer.name == "b.q")
    assert facts.losses[1] == expected.loss


@pytest.mark.parametrize("after", [1, 8])
def test_a_stopped_run_ends_in_the_same_bytes(model, out, reference, after):
    with pytest.raises(KeyboardInterrupt):
        quantize(model, out, listener=Stop(after))
    again = Stop()
    run = quantize(model, out, resume=True, listener=again)
    assert run.resumed == after and len(again.seen) == 12 - after
    assert read(out) == reference


def test_workers_give_the_same_bytes(model, out, reference):
    with ThreadPoolExecutor(2) as pool:
        quantize(model, out, workers=executors.given(pool, 2))
    assert read(out) == reference


def test_a_plan_is_measured_once_for_every_budget(model, out, reference):
    plan = measure(model, out)
    assert plan.output is None and plan.bits.allocation is None and len(plan.done) == 12
    assert plan.run_directory == out + ".run" and not os.path.exists(out)
    seen = Stop()
    chosen = measure(model, out, 4, resume=True, listener=seen)
    assert chosen.bits.allocation is not None and chosen.bits.layers == plan.bits.layers
    run = quantize(model, out, resume=True, listener=seen)
    assert seen.seen == [] and run.resumed == 12 and not os.path.exists(out + ".run")
    assert read(out) == reference


def test_other_widths_are_another_run(model, out):
    measure(model, out)
    with pytest.raises(InvalidArgumentError, match="at 4 bits"):
        quantize(model, out, bits=(2, 3), resume=True)
    with pytest.raises(InvalidArgumentError, match="unfinished run"):
        quantize(model, out)


def test_a_rule_takes_layers_out_of_the_choice(model, out, tmp_path):
    config = tmp_path / "rules.toml"
    config.write_text("[[rules]]\nmatch = 'head'\nbits = 8\n")
    run = quantize(model, out, 6, config=config)
    chosen = widths(run)
    assert chosen["head"] == 8 and set(chosen) == {"b.k", "b.q", "b/up", "head"}
    head = next(layer for layer in run.bits.layers if layer.name == "head")
    assert head.bits == (8,) and run.bits.allocation.size > 8 * head.weights  # it counts
    assert list(run.bits.uniform()) == [2, 3, 4]


def test_the_policy_of_several_bits():
    policy = Policy({}, [{"match": "a", "bits": 8}, {"match": "b", "bits": [2, 3]}],
                    overrides={"bits": (4, 2)})  # fmt: skip
    assert [each.bits for each in policy.for_layer("x").at_each_width()] == [2, 4]
    assert [each.bits for each in policy.for_layer("a").at_each_width()] == [8]
    assert policy.for_layer("b").widths == (2, 3) and policy.overridden() == []
    one = Policy({}, [{"match": "a", "bits": 8}], overrides={"bits": 4})
    assert one.for_layer("a").bits == 4
    with pytest.raises(InvalidArgumentError, match="bits must be a whole number from 1 to 8"):
        Policy({"bits": (2, 9)})


def test_sensitivities_move_the_bits(tmp_path, out):
    even = widths(quantize(write(tmp_path / "even.h5"), out, 4.3))
    model = write(tmp_path / "odd.h5", sensitivities=(1e6, None, None, 1e-6))
    odd = quantize(model, out, 4.3, overwrite=True)
    assert widths(odd)["b.k"] == 4 and widths(odd)["head"] == 2
    assert widths(odd) != even
    assert odd.bits.layers[0].points[0][1] == 1e6 * odd.bits.layers[0].losses[0]


def test_budgets_that_cannot_be(model, out):
    with pytest.raises(InvalidArgumentError, match=r"more than 2 bits a weight \(480 bytes\)"):
        quantize(model, out, 1.9)
    with pytest.raises(InvalidArgumentError, match="480 bytes"):
        quantize(model, out, "479 B")
    assert not os.path.exists(out + ".run")  # known before anything was done
    with pytest.raises(InvalidArgumentError, match=r"from 3.\d+ bits a weight .* to 5.* got 2.5"):
        quantize(model, out, 2.5)
    with pytest.raises(InvalidArgumentError, match="none"):
        quantize(model, out, None)
    with pytest.raises(InvalidArgumentError, match="bits must be several"):
        ql.quantize_model(model, out, bits=3, budget=3)
    with pytest.raises(InvalidArgumentError, match="budget must be bits a weight"):
        quantize(model, out, 3e9)
    seen = Stop()
    assert not quantize(model, out, 4.3, resume=True, listener=seen).failed and seen.seen == []


def test_a_layer_that_fails_at_a_width_is_left_out_until_it_is_mended(
    model, out, reference, monkeypatch
):
    write_shard = layer_module.write_shard

    def full(run, key, data):
        if key == "b/up at 3 bits":
            raise OSError(28, "No space left on device")
        return write_shard(run, key, data)

    monkeypatch.setattr(layer_module, "write_shard", full)
    run = quantize(model, out)
    assert list(run.failed) == ["b/up"] and set(widths(run)) == {"b.k", "b.q", "head"}
    assert run.run_directory == out + ".run"
    monkeypatch.setattr(layer_module, "write_shard", write_shard)
    seen = Stop()
    run = quantize(model, out, retry_failed=True, listener=seen)
    assert seen.seen == [("b/up", 3)] and not run.failed
    assert read(out) == reference


def test_an_indefinite_hessian_fails_its_layer_once(tmp_path, out):
    model = write(tmp_path / "bad.h5", indefinite=True)
    with pytest.raises(NotPositiveDefiniteError), ql.open_problem(model) as problem:
        ql.ldlq(problem.weight("head"), problem.hessian("head"), bits=2)
    run = quantize(model, out)
    assert list(run.failed) == ["head"] and len(run.done) == 3
    rules = tmp_path / "rules.toml"  # all whose bits could be chosen fail
    rules.write_text("[[rules]]\nmatch = 'b.*'\nbits = 2\n")
    run = quantize(model, tmp_path / "rest.h5", 8, config=rules)
    assert list(run.failed) == ["head"] and set(widths(run).values()) == {2}
    assert run.bits.uniform() == {}


def test_all_widths_of_a_layer_on_tiles_share_the_factor(model, tmp_path, monkeypatch):
    calls = []
    factor = out_of_core.factor_out_of_core

    def counted(*arguments):
        calls.append(1)
        return factor(*arguments)

    monkeypatch.setattr(out_of_core, "factor_out_of_core", counted)
    (tmp_path / "shards").mkdir()
    layers = [
        {"name": "head", "key": str(each.bits), "options": each.to_json(), "path": "tiles"}
        for each in resolve({"bits": WIDTHS}).at_each_width()
    ]
    task = {"source": model, "run": str(tmp_path), "threads": 1, "memory": 400_000_000, "rows": 9}
    found = layer_module.run_task(task | {"layers": layers})
    assert [facts["bits"] for facts in found] == list(WIDTHS) and len(calls) == 1
    with ql.open_problem(model) as problem:
        W, H = problem.weight("head"), problem.hessian("head")
    assert [facts["loss"] for facts in found] == pytest.approx(
        [ql.ldlq(W, H, bits=bits).loss for bits in WIDTHS], rel=1e-6
    )


def test_less_loss_than_one_width_on_real_layers(out):
    """Within the size of uniform 3 bits and a little: less loss; and far less at 2.5 bits."""
    run = quantize(DIGITS, out, 3.46, clip="best")
    uniform = run.bits.uniform()
    assert run.bits.allocation.size < 1.02 * uniform[3][0]
    assert run.bits.allocation.loss < 0.8 * uniform[3][1]
    small = quantize(DIGITS, out, 2.5, clip="best", overwrite=True).bits.allocation
    assert small.size < 1.04 * uniform[2][0] and small.loss < 0.5 * uniform[2][1]


def test_more_is_right_at_the_same_size_where_there_is_a_choice(tmp_path, out):
    """Blocks of 16 rows of the demo's net as layers of their own, rounded to nearest."""
    from quiplinalg.cli.demo import accuracy

    model = str(tmp_path / "blocks.h5")
    with ql.open_problem(DIGITS) as problem:
        layers = {name: problem.weight(name) for name in problem.names}
        with ql.ProblemWriter(model) as file:
            for name, W in layers.items():
                for i in range(0, len(W), 16):
                    file.add(f"{name}/{i:03}", W[i : i + 16], problem.hessian(name))
        options = {"method": "nearest", "compare_rows": 1, "overwrite": True}
        losses, right, sizes = [], [], []
        for bits in ({"bits": 3}, {"bits": (2, 3, 6), "budget": 3.41530}):
            run = ql.quantize_model(model, out, **options, **bits)
            losses.append(sum(facts["loss"] for facts in run.done))
            sizes.append(sum(f["bits_per_weight"] * np.prod(f["shape"]) for f in run.done))
            with open_result(out) as result:
                net = {
                    name: np.concatenate(
                        [result.layer(f"{name}/{i:03}").dequantize() for i in range(0, len(W), 16)]
                    )
                    for name, W in layers.items()
                }
            right.append(accuracy(problem, net))
    assert sizes[1] <= sizes[0] and losses[1] < 0.7 * losses[0] and right[1] > right[0]


@pytest.mark.parametrize("jobs", [1, 2])
def test_widths_do_not_make_for_more_factors(model, jobs):
    with ql.open_problem(model) as problem:
        one, several = (
            make_plan(problem, read_policy(None, {"bits": bits}), problem.names, jobs=jobs)
            for bits in (2, WIDTHS)
        )
    names = [{layer.name for layer in task.layers} for task in one.tasks]
    assert [{layer.name for layer in task.layers} for task in several.tasks] == names
    assert [len(task.layers) for task in several.tasks] == [3 * len(group) for group in names]
    assert several.mixed and not one.mixed and list(one.layers) == ["b.k", "b.q", "b/up", "head"]
    assert list(several.layers)[:3] == [f"b.k at {bits} bits" for bits in WIDTHS]
