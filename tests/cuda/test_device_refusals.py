"""What has no device path says so, with the remedy: never a TypeError from the middle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql
from quiplinalg.errors import BackendMismatchError, BackendUnavailableError
from quiplinalg.files.image import layer_image, open_image

P = make_problem(6, 8, 1, 3, "outlier", "heavy")
W, H = P.W.astype(np.float32), P.H
PRUNED = {"sparsity": 0.5}
# functions of (W, H, **keywords) without CUDA kernels
HOST_ONLY = {
    "bounded_feedback": (lambda W, H, **k: ql.bounded_feedback(H, c=1.0, **k), {}),
    "exact": (ql.exact, {}),
    "kbest": (ql.kbest, {}),
    "obs_prune": (ql.obs_prune, PRUNED),
    "prune_columns": (ql.prune_columns, {"count": 2}),
    "prune_quantize": (ql.prune_quantize, PRUNED),
    "prune_quantize of obs": (ql.prune_quantize, PRUNED | {"method": "obs"}),
    "quip": (ql.quip, {"seed": 0}),
    "quip_authors": (ql.quip_authors, {"seed": 0}),
    "safe": (ql.safe, {}),
    "sparsegpt": (ql.sparsegpt, PRUNED),
}
# functions of (W, H, quantized)
OF_RESULTS = {
    "certify": lambda W, H, q: ql.certify(W, H, q, rows=1),
    "low_rank_correction": lambda W, H, q: ql.low_rank_correction(W, H, q, 1),
    "refit": ql.refit,
    "verify": ql.verify,
}
# those that work on a device, but not on arrays in two places
OF_ONE_PLACE = {
    "descend": ql.descend,
    "nearest_loss": lambda W, H, q: q.nearest_loss(W, H),
    "proxy_loss": lambda W, H, q: ql.proxy_loss(q, W, H),
}
TAKES_GRID = {
    "exact": (ql.exact, {}),
    "gptq": (ql.gptq, {}),
    "kbest": (ql.kbest, {}),
    "ldlq": (ql.ldlq, {}),
    "nearest": (ql.nearest, {}),
    "obq": (ql.obq, {}),
    "prune_quantize": (ql.prune_quantize, PRUNED),
    "prune_quantize of obs": (ql.prune_quantize, PRUNED | {"method": "obs"}),
    "safe": (ql.safe, {}),
}
IN_HOST_MEMORY = r"must be in host memory.*cupy\.asnumpy\(\w+\)"
TO_HOST = r"q\.to_host\(\)"


@pytest.fixture
def there(cuda):
    return cuda.xp.asarray(W), cuda.xp.asarray(H)


def results(there):
    return ql.ldlq(*there), ql.lnq(*there)


@pytest.mark.parametrize("name", HOST_ONLY)
def test_functions_without_kernels(there, name):
    call, keywords = HOST_ONLY[name]
    for weight, hessian in (there, (W, there[1])):
        with pytest.raises(BackendUnavailableError, match=IN_HOST_MEMORY):
            call(weight, hessian, **keywords)
    with pytest.raises(BackendUnavailableError, match=r"no CUDA kernels.*host arrays"):
        call(W, H, backend="cuda", **keywords)


@pytest.mark.parametrize("name", OF_RESULTS)
def test_results_on_a_device_where_the_host_works(there, name):
    call = OF_RESULTS[name]
    for q in results(there):
        with pytest.raises(BackendMismatchError, match=TO_HOST):
            call(W, H, q)
        if name != "certify" or q.method == "ldlq":
            call(W, H, q.to_host())
        for weight, hessian, result in ((*there, q.to_host()), (W, there[1], q.to_host())):
            with pytest.raises(BackendUnavailableError, match=IN_HOST_MEMORY):
                call(weight, hessian, result)
        with pytest.raises((BackendUnavailableError, BackendMismatchError), match="host"):
            call(*there, q)


@pytest.mark.parametrize("name", OF_ONE_PLACE)
def test_results_and_arrays_in_two_places(there, name):
    call = OF_ONE_PLACE[name]
    for q in results(there):
        for weight, hessian, result in (
            (W, H, q),
            (*there, q.to_host()),
            (W, there[1], q),
            (there[0], H, q),
        ):
            with pytest.raises(BackendMismatchError, match=r"must be in one place.*cupy\.asnumpy"):
                call(weight, hessian, result)


@pytest.mark.parametrize("name", TAKES_GRID)
def test_grids_on_a_device_for_weights_of_the_host(there, name):
    call, keywords = TAKES_GRID[name]
    q = ql.ldlq(*there)
    with pytest.raises(BackendMismatchError, match=r"grid must be on the host.*to_host\(\)\.grid"):
        call(W, H, grid=q.grid, **keywords)
    call(W, H, grid=q.to_host().grid, **keywords)


def test_codes_and_grids_in_two_places(cuda, there):
    for q in results(there):
        mixed = dataclasses.replace(q, codes=q.codes.get())
        for call in (mixed.dequantize, lambda q=mixed: q.nearest_loss(W, H)):
            with pytest.raises(BackendMismatchError, match=r"must be (on the host|in host memory)"):
                call()
        uploaded = dataclasses.replace(q.to_host(), codes=q.codes)
        assert np.array_equal(uploaded.dequantize().get(), q.dequantize().get())
    grid = ql.ldlq(*there).grid
    for scale, zero in ((grid.scale, grid.zero.get()), (grid.scale.get(), grid.zero)):
        with pytest.raises(BackendMismatchError, match="scale and zero must be in one place"):
            ql.UniformGrid(scale, zero, 2)
    with pytest.raises(BackendUnavailableError, match=r"group_index must be in host"):
        ql.UniformGrid(grid.scale, grid.zero, 2, cuda.xp.zeros(8, np.int32))
    with pytest.raises(BackendMismatchError, match="grid must be on the host"):
        ql.theory.dual_bound(W, H, grid)


def test_a_result_on_a_device_is_no_numpy_array(there):
    for q in results(there):
        with pytest.raises(BackendMismatchError, match=TO_HOST):
            np.asarray(q)
        assert np.array_equal(np.asarray(q.to_host()), q.values().get())


@pytest.mark.parametrize("factor", (ql.cholesky, ql.ldl, ql.udu))
def test_factors_on_a_device_solve_nothing(there, factor):
    with pytest.raises(BackendUnavailableError, match=r"[LT] must be in host memory"):
        factor(there[1]).solve(np.ones(8))
    with pytest.raises(BackendUnavailableError, match=r"b must be in host memory"):
        factor(H).solve(there[1])


def test_files_take_results_from_a_device(tmp_path, there):
    uniform, book = results(there)
    path = tmp_path / "result.h5"
    with ql.ResultWriter(path) as file:
        file.add("uniform", uniform)
        file.add("book", book, note=1)
    with ql.open_result(path) as file:
        for name, q in (("uniform", uniform), ("book", book)):
            kept = file.layer(name)
            assert np.array_equal(kept.codes, q.codes.get()) and kept.loss == q.loss
            assert np.array_equal(np.asarray(kept), q.values().get())
    with open_image(layer_image("book", book), "book.h5") as file:
        assert np.array_equal(file.layer("book").codes, book.codes.get())
    assert layer_image("book", book) == layer_image("book", book.to_host())
    found = ql.export_result(path, tmp_path / "dense.npz", to="dense")
    assert set(found.layers) == {"uniform", "book"}
