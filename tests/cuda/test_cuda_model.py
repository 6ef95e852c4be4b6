"""Whole files on a device."""

import numpy as np
import pytest
from test_cuda_layers import problem

import quiplinalg as ql
from quiplinalg.cli.main import main


@pytest.fixture
def model(tmp_path):
    with ql.ProblemWriter(tmp_path / "model.h5") as file:
        for i, name in enumerate(("q", "k")):
            W, H = problem(12, 20, seed=i)
            shared = {"hessian": H} if i == 0 else {"shared_hessian_of": "q"}
            file.add(name, W, **shared)
        file.add("o", problem(6, 9)[0], problem(6, 9)[1])
    return tmp_path / "model.h5"


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 3, "clip": "minmax"},
        {"method": "lnq", "rounds": 1},
        {"method": "obq", "refit": "scale"},
        {"refine": 1, "rank": 1, "clip": "minmax"},
        {"bits": (2, 3), "budget": 14.0, "clip": "minmax"},
    ],
    ids=str,
)
def test_a_file_is_rounded_as_on_the_host(cuda, model, tmp_path, options):
    there, host = tmp_path / "there.h5", tmp_path / "host.h5"
    for target, backend in ((there, "cuda"), (host, "cpu")):
        run = ql.quantize_model(model, target, backend=backend, compare_rows=None, **options)
        assert len(run.done) == 3 and not run.failed
    with ql.open_result(there) as a, ql.open_result(host) as b:
        for name in ("q", "k", "o"):
            one, other = a.layer(name), b.layer(name)
            assert np.mean(one.codes != other.codes) <= 0.01
            assert one.loss == pytest.approx(other.loss, rel=0.01)


def test_the_command(cuda, model, tmp_path, capsys):
    assert main(["quantize", str(model), str(tmp_path / "out.h5"), "--backend", "cuda"]) == 0
    assert main(["verify", str(model), str(tmp_path / "out.h5")]) == 0


def test_a_device_that_is_not_there_is_an_error_before_any_work(model, tmp_path, monkeypatch):
    import quiplinalg.kernels.record as record

    record._record.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(ql.QuipLinalgError, match=r"pip install .quiplinalg\[cuda12\]"):
        ql.quantize_model(model, tmp_path / "out.h5", backend="cuda")
    assert not list(tmp_path.glob("out*"))


def test_methods_of_the_host_only(cuda, model, tmp_path):
    with pytest.raises(ql.QuipLinalgError, match="no CUDA kernels"):
        ql.quantize_model(model, tmp_path / "out.h5", backend="cuda", method="kbest")
