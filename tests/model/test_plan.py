"""The plan: what goes together, in which order, on which path, and what two runs differ in."""

import json
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.errors import InsufficientMemoryError, InvalidArgumentError
from quiplinalg.model import budget
from quiplinalg.model.cost import base_memory, memory
from quiplinalg.model.identity import differences, identity
from quiplinalg.model.options import resolve
from quiplinalg.model.plan import make_plan

GB = 10**9


@dataclass
class Problem:
    """Layers without arrays: name -> (shape, key of the Hessian)."""

    layers: dict
    path: str = "model.h5"
    dtype: str = "float32"

    def info(self, name):
        shape, key = self.layers[name]
        return SimpleNamespace(
            name=name, shape=shape, dtype=np.dtype(self.dtype), orientation="out_in",
            hessian_dtype=np.dtype("float32"), hessian_key=key, storage="full", sensitivity=1.0,
        )  # fmt: skip


@dataclass
class Policy:
    """The same for all layers, but for some."""

    given: dict = field(default_factory=dict)
    others: dict = field(default_factory=dict)

    def for_layer(self, name):
        own = self.others.get(name, self.given)
        return None if own is None else _resolved(json.dumps(own))


@cache
def _resolved(text):
    return resolve(json.loads(text))


DECODER = {
    "q": ((4096, 4096), "attention"),
    "k": ((4096, 4096), "attention"),
    "v": ((4096, 4096), "attention"),
    "o": ((4096, 4096), "out"),
    "gate": ((11008, 4096), "mlp"),
    "up": ((11008, 4096), "mlp"),
    "down": ((4096, 11008), "down"),
}


def plan_of(layers=DECODER, policy=None, **keywords):
    keywords.setdefault("max_memory", 64 * GB)
    return make_plan(Problem(layers), policy or Policy(), layers, **keywords)


def names(plan):
    return [[layer.name for layer in task.layers] for task in plan.tasks]


def test_layers_that_share_a_hessian_are_one_task_and_the_longest_is_first():
    plan = plan_of()
    assert names(plan) == [["down"], ["gate", "up"], ["q", "k", "v"], ["o"]]
    costs = [task.flops for task in plan.tasks]
    assert costs == sorted(costs, reverse=True)
    assert list(plan.layers) == sorted(DECODER) and plan.source == "model.h5"
    n = 4096
    assert costs[2] == pytest.approx(n**3 / 3 + 3 * n**3)  # factored once
    assert plan.flops == pytest.approx(sum(costs))


def test_equal_tasks_are_in_name_order():
    layers = {name: ((8, 8), name) for name in "cab"}
    assert names(plan_of(layers)) == [["a"], ["b"], ["c"]]


def test_layers_of_another_order_or_damping_are_factored_apart_and_other_bits_are_not():
    policy = Policy(others={"k": {"bits": 3}, "v": {"damp": 0.05}})
    tasks = names(plan_of(policy=policy))
    assert ["q", "k"] in tasks and ["v"] in tasks


def test_layers_that_are_skipped_are_named():
    plan = plan_of(policy=Policy(others={"o": None}))
    assert plan.skipped == ("o",) and "o" not in plan.layers


@pytest.mark.parametrize("jobs", [1, 2, 4, 7])
def test_tasks_are_short_but_for_their_factor_and_about_equal(jobs):
    m, n = 512, 1024
    experts = {f"e{i:03}": ((m, n), "shared") for i in range(64)}
    plan = plan_of(experts, jobs=jobs)
    assert sorted(name for task in names(plan) for name in task) == sorted(experts)
    factor, own = n**3 / 3, m * n**2
    costs = [task.flops for task in plan.tasks]
    assert max(costs) <= (factor + 64 * own) / jobs + factor + own
    assert max(costs) - min(costs) <= 1.01 * own
    assert factor <= 0.1 * max(costs) and factor > 0.1 * (min(costs) - 2 * own)
    assert plan.flops < 1.12 * (factor + 64 * own)


@pytest.mark.parametrize(
    "jobs,parts", [(1, ["abcd"]), (2, ["ab", "cd"]), (4, ["a", "b", "c", "d"])]
)
def test_a_few_layers_are_shared_out_even_if_each_job_factors_for_itself(jobs, parts):
    layers = {name: ((512, 1024), "shared") for name in "abcd"}
    assert names(plan_of(layers, jobs=jobs)) == [list(part) for part in parts]


def test_layers_without_weights_are_planned_too():
    assert names(plan_of({"a": ((0, 4), "h"), "b": ((3, 0), "i")})) == [["a"], ["b"]]
    assert plan_of({}).tasks == () and plan_of({}).memory() == base_memory()


def test_methods_without_a_common_factor_are_split_one_by_one():
    plan = plan_of(policy=Policy({"method": "nearest"}), jobs=2)
    assert all(len(task.layers) == 1 for task in plan.tasks)


def test_memory_is_that_of_the_largest_tasks_and_the_processes():
    plan = plan_of(jobs=1)
    each = sorted((task.memory for task in plan.tasks), reverse=True)
    assert plan.memory() == base_memory() + each[0]
    assert plan.memory(2) == 3 * base_memory() + each[0] + each[1]
    assert plan.memory(99) == 100 * base_memory() + sum(each)


def test_a_layer_that_does_not_fit_goes_to_tiles_and_the_others_stay_in_memory():
    whole = plan_of(threads=1).layers["down"].memory
    plan = plan_of(max_memory=base_memory() + whole - 1, threads=1)
    paths = {name: layer.path for name, layer in plan.layers.items()}
    assert paths.pop("down") == "tiles" and set(paths.values()) == {"memory"}
    down = plan.layers["down"]
    assert down.memory <= whole - 1 and down.scratch > 0
    assert plan.scratch() == plan.scratch(2) == down.scratch
    assert identity(plan) == identity(plan_of())  # the path changes nothing


def test_layers_on_tiles_are_tasks_of_their_own():
    need = memory(resolve({}), Problem(DECODER).info("gate"), 1, 2)
    plan = plan_of(max_memory=base_memory() + need - 1, threads=1)
    assert ["gate"] in names(plan) and ["up"] in names(plan)


@pytest.mark.parametrize("given", [{"method": "quip"}, {"order": "min-pivot"}, {"refine": 3}])
def test_what_fits_on_no_path_is_refused_before_anything_with_the_numbers(given):
    with pytest.raises(InsufficientMemoryError) as caught:
        plan_of({"a": ((64, 64), "a"), "b": ((4096, 11008), "b")}, Policy(given), max_memory=GB)
    text = str(caught.value)
    assert "'b' (4096 x 11008" in text and "max_memory=1000000000" in text and "ldlq" in text


def test_tiles_do_not_fit_everywhere_either():
    with pytest.raises(InsufficientMemoryError, match=r"with the factor on disk; 6 more do not"):
        plan_of(max_memory=base_memory() + 1000)


def test_jobs_share_the_memory_evenly():
    whole = plan_of(threads=1).layers["down"].memory
    limit = 2 * whole + 3 * base_memory()
    assert plan_of(max_memory=limit, jobs=2, threads=1).layers["down"].path == "memory"
    assert plan_of(max_memory=limit - 2, jobs=2, threads=1).layers["down"].path == "tiles"
    with pytest.raises(InsufficientMemoryError, match="fewer jobs"):
        plan_of(policy=Policy({"method": "quip"}), max_memory=limit // 2, jobs=2)


def test_without_a_limit_nine_tenths_of_what_is_there_is_used(monkeypatch):
    whole = plan_of(threads=1).layers["down"].memory
    needed = whole + base_memory()
    for available, path in (
        (needed / 0.9 + 1, "memory"),
        (needed / 0.9 - 2, "tiles"),
        (None, "memory"),
    ):
        monkeypatch.setattr(budget, "available_memory", lambda value=available: value)
        assert plan_of(max_memory=None, threads=1).layers["down"].path == path


def test_a_disk_without_room_for_the_tiles_is_refused(monkeypatch, tmp_path):
    limit = plan_of(threads=1).layers["down"].memory
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InsufficientMemoryError, match=r"got 0.0 MB free"):
        plan_of(max_memory=limit, scratch=str(tmp_path), threads=1)
    plan_of(scratch=str(tmp_path))  # no tiles: no room is needed


@pytest.mark.parametrize("keywords", [{"jobs": 0}, {"threads": 0}, {"max_memory": 0.5}])
def test_numbers_are_checked(keywords):
    with pytest.raises(InvalidArgumentError, match=next(iter(keywords))):
        plan_of(**keywords)


def test_a_real_file_is_planned_from_its_headers(tmp_path):
    path = tmp_path / "model.h5"
    with ql.ProblemWriter(path) as file:
        file.add("block/q", np.ones((8, 4)), np.eye(4))
        file.add("block/k", np.ones((8, 4)), shared_hessian_of="block/q")
    with ql.open_problem(path) as problem:
        plan = make_plan(problem, Policy(), problem.names)
    assert names(plan) == [["block/k", "block/q"]]


def test_identities_survive_json_and_are_the_same_for_any_jobs_and_threads():
    found = identity(plan_of())
    assert json.loads(json.dumps(found)) == found == identity(plan_of(jobs=3, threads=2))
    assert differences(found, found) == []


def test_differences_are_told_in_words_once_for_all_layers_that_have_them():
    old, new = identity(plan_of()), identity(plan_of(policy=Policy({"bits": 3})))
    assert differences(old, new) == ["layers down, gate, k and 4 more: bits 2 in the run, 3 now"]
    one = identity(plan_of(policy=Policy(others={"q": {"method": "gptq"}})))
    assert "layer q: method ldlq in the run, gptq now" in differences(old, one)
    assert differences(old, one, ignore=["q"]) == []


def test_other_layers_shapes_and_versions_are_differences():
    old = identity(plan_of({"a": ((4, 8), "h"), "b": ((4, 8), "h")}))
    new = identity(plan_of({"b": ((8, 8), "h"), "c": ((4, 8), "h")})) | {"version": "9"}
    assert differences(old, new) == [
        f"quiplinalg {ql.__version__} in the run, 9 now",
        "layer a: in the run, but not now",
        "layer b: shape 4 x 8 in the run, 8 x 8 now",
        "layer c: not in the run, but now",
    ]
