"""Estimates of memory against what tasks take at their peak, and the numbers of operations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.model.budget import least_on_tiles
from quiplinalg.model.cost import KEPT, base_memory, factor_flops, flops, memory
from quiplinalg.model.options import resolve

GROUPS = {"method": "gptq", "bits": 8, "group_size": 32, "refine": 1}
ROTATED = {"method": "quip", "rotation": "hadamard", "rho": "table"}
CASES = [  # options, m, n, dtypes of W and H, layers that share H
    ({"method": "ldlq"}, 500, 2300, "float16", "float32", 2),
    (GROUPS, 900, 1800, "float32", "float32", 1),
    ({"method": "nearest"}, 300, 2048, "float64", "float64", 1),
    ({"method": "kbest", "k": 4}, 64, 1600, "float64", "float32", 1),
    ({"method": "obq"}, 4, 1400, "float32", "float32", 1),
    ({"method": "safe", "c": 0.01}, 64, 800, "float32", "float32", 1),
    (ROTATED, 900, 1200, "float32", "float32", 1),
    ({"method": "lnq", "bits": 4}, 600, 1200, "float32", "float32", 1),
    ({"refit": "both", "group_size": 32, "rank": 4}, 900, 1200, "float32", "float32", 1),
]


def clear_refs():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The resident bytes of a process without layers; the estimate and the peak of each case."""
    folder = tmp_path_factory.mktemp("cost")
    (folder / "run" / "shards").mkdir(parents=True)
    source, rng = folder / "model.h5", np.random.default_rng(0)
    with ql.ProblemWriter(source) as file:
        for index, (_, m, n, weight, hessian, shares) in enumerate(CASES):
            X = rng.standard_normal((n, 64), dtype=np.float32)
            H = (X @ X.T / 64 + np.eye(n, dtype=np.float32)).astype(hessian)
            H = np.tril(H) + np.tril(H, -1).T
            file.add(f"{index}/0", rng.standard_normal((m, n)).astype(weight), H)
            for k in range(1, shares):
                W = rng.standard_normal((m, n)).astype(weight)
                file.add(f"{index}/{k}", W, shared_hessian_of=f"{index}/0")
    estimates, tasks = [], []
    with ql.open_problem(source) as problem:
        for index, (given, *_, shares) in enumerate(CASES):
            options = resolve(given)
            estimates.append(memory(options, problem.info(f"{index}/0"), 1, shares))
            layers = [
                {"name": name, "key": name, "options": options.to_json(), "path": "memory"}
                for name in (f"{index}/{k}" for k in range(shares))
            ]
            task = {"source": str(source), "run": str(folder / "run"), "threads": 1, "rows": 64}
            tasks.append(task | {"memory": 0, "layers": layers})
        # the first layer once more, with its factor on disk
        least = least_on_tiles(resolve(CASES[0][0]), problem.info("0/0"), 1)
        tiles = [tasks[0]["layers"][0] | {"path": "tiles"}]
        tasks.append(tasks[0] | {"memory": least - KEPT, "layers": tiles})
        estimates.append(least)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("peak_memory.py")],
        input="\n".join(map(json.dumps, tasks)), capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    base, *found = map(json.loads, done.stdout.splitlines())
    assert [each["errors"] for each in found] == [[]] * len(tasks)
    return base, [(e, each["peak"]) for e, each in zip(estimates, found, strict=True)]


@pytest.mark.skipif(not clear_refs(), reason="no high-water mark that can be reset here")
def test_a_layer_takes_no_more_memory_than_estimated_and_not_much_less(measured):
    for case, (estimate, peak) in zip(CASES, measured[1][:-1], strict=True):
        assert peak <= estimate <= 1.6 * peak, (case, estimate / 1e6, peak / 1e6)


@pytest.mark.skipif(not clear_refs(), reason="no high-water mark that can be reset here")
def test_a_layer_on_tiles_keeps_to_the_least_that_the_plan_may_give_it(measured):
    least, peak = measured[1][-1]
    in_memory = measured[1][0][1]
    assert peak <= least < in_memory


@pytest.mark.skipif(not clear_refs(), reason="no high-water mark that can be reset here")
def test_a_process_without_layers_takes_no_more_than_estimated(measured):
    assert measured[0] <= base_memory() <= 2 * measured[0]


def test_flops_are_those_of_the_formulas():
    m, n = 300, 200
    plain = flops(resolve({}), m, n)
    assert plain == pytest.approx(n**3 / 3 + m * n**2)
    assert factor_flops(resolve({}), n) == pytest.approx(n**3 / 3)
    assert factor_flops(resolve({"method": "nearest"}), n) == 0
    for given in (
        {"clip": "best"}, {"refine": 1}, {"method": "obq"}, {"method": "kbest"}, {"method": "safe"},
        {"method": "quip"}, {"method": "lnq"}, {"refit": "scale"}, {"rank": 2},
    ):  # fmt: skip
        assert flops(resolve(given), m, n) > plain
    assert flops(resolve({"method": "obq"}), m, n) > m * n**3 / 3
    kronecker = resolve({"method": "quip", "rotation": "kronecker"})
    assert flops(resolve({"method": "quip"}), m, n) == pytest.approx(3 * flops(kronecker, m, n))
