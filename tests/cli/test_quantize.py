"""``quiplinalg quantize``: options, exit codes, reports, and what happens to the files."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from quiplinalg import ldlq, open_problem, open_result
from quiplinalg.cli.main import main
from quiplinalg.files import ProblemWriter, ResultWriter


def spd(n, seed=0, samples=None):
    X = np.random.default_rng(seed).standard_normal((samples or 4 * n, n))
    return (X.T @ X / len(X)).astype(np.float32)


def write(path, bad=(), sizes=((12, 16), (8, 16), (10, 24))):
    """block/q and block/k share their Hessian; the layers in ``bad`` have an indefinite one."""
    rng = np.random.default_rng(1)
    with ProblemWriter(path) as writer:
        for k, (name, (m, n)) in enumerate(zip(("block/q", "block/k", "head"), sizes, strict=True)):
            H = spd(n, seed=0 if k < 2 else 2)
            if name in bad:
                H[0, 1] = H[1, 0] = 3 * H[0, 0]
            writer.add(name, rng.standard_normal((m, n)).astype(np.float32), H)
        writer.add_array("bias", np.zeros(3))
    return path


@pytest.fixture
def problem(tmp_path):
    return str(write(tmp_path / "in.h5"))


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.h5")


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_quantize_then_verify(problem, out, capsys):
    before = open(problem, "rb").read()
    assert main(["quantize", problem, out, "--bits", "3"]) == 0
    text = capsys.readouterr()
    assert "block/k" in text.out and "nearest dB" in text.out and out in text.out
    assert text.err == "" and "\x1b" not in text.out  # no bar, no colour: not a terminal
    assert open(problem, "rb").read() == before
    with open_problem(problem) as source, open_result(out) as result:
        assert result.names == ("block/k", "block/q", "head")
        for name in result.names:
            expected = ldlq(source.weight(name), source.hessian(name), bits=3)
            np.testing.assert_array_equal(result.layer(name).codes, expected.codes)
            assert result.layer(name).loss == expected.loss
    assert main(["verify", problem, out]) == 0
    assert "all pass" in capsys.readouterr().out
    assert (
        os.listdir(os.path.dirname(out)) == ["in.h5", "out.h5"]
        or len(os.listdir(os.path.dirname(out))) == 2
    )


@pytest.mark.parametrize(
    "flags, check",
    [
        (["--method", "nearest"], lambda q: (q.method, q.grid.bits) == ("nearest", 4)),
        (["--method", "gptq"], lambda q: (q.method, q.grid.bits) == ("gptq", 4)),
        (["--group-size", "8", "--static-groups"], lambda q: q.grid.scale.shape[1] > 1),
        (["--method", "nearest", "--group-size", "8"], lambda q: q.grid.scale.shape[1] > 1),
        (["--sym", "--clip=minmax"], lambda q: q.grid.kind == "sym"),
        (["--order", "natural"], lambda q: q.permutation is None),
        (["--order", "min-pivot"], lambda q: q.order == "min-pivot" and q.permutation.any()),
        (["--damp", "0.1"], lambda q: q.damp > 0.05),
        (["--damp", "auto", "--threads", "1"], lambda q: q.damp > 0),
        (["--rounding", "stochastic", "--seed", "7"], lambda q: q.seed % 2**32 == 7 != q.seed),
    ],
)
def test_options_reach_the_library(problem, out, flags, check, capsys):
    assert main(["quantize", problem, out, *flags]) == 0
    with open_result(out) as result:
        assert all(check(result.layer(name)) for name in result.names)
    assert main(["verify", problem, out, "--json"]) == 0


def test_json_lines(problem, out, capsys):
    assert main(["quantize", problem, out, "--json"]) == 0
    start, *layers, summary = lines(capsys)
    assert start["event"] == "start" and start["layers"] == 3 and start["resumed"] == 0
    assert [e["event"] for e in layers] == ["layer"] * 3
    assert {e["layer"] for e in layers} == {"block/q", "block/k", "head"}
    keys = "loss loss_db nearest_db seconds near_tie_rows clipped dead_columns damp"
    for event in layers:
        assert set(keys.split()) <= set(event)
        assert event["loss_db"] < event["nearest_db"] < 0
    assert summary["event"] == "summary" and summary["layers"] == 3 and summary["failed"] == []
    assert summary["output"] == out and summary["bytes"] == os.path.getsize(out)


def test_no_loss_is_null_in_json(tmp_path, out, capsys):
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("zero", np.zeros((2, 4)), np.eye(4))
    assert main(["quantize", str(tmp_path / "p.h5"), out, "--json"]) == 0
    assert lines(capsys)[1]["loss_db"] is None


def test_include_and_exclude(problem, out, capsys):
    assert main(["quantize", problem, out, "--include", "block/*", "--exclude", "*k"]) == 0
    with open_result(out) as result:
        assert result.names == ("block/q",)
    capsys.readouterr()
    os.unlink(out)
    assert main(["quantize", problem, out, "--include", "blok/*"]) == 2
    assert "blok/*" in capsys.readouterr().err
    assert main(["quantize", problem, out, "--exclude", "*"]) == 2
    assert main(["quantize", problem, out, "--exclude", "nothing"]) == 0
    assert "warning" in capsys.readouterr().err


def test_dry_run_writes_nothing(problem, out, tmp_path, capsys):
    assert main(["quantize", problem, out, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "H shared with" in text and "12 x 16" in text and "block/k" in text
    assert main(["quantize", problem, out, "--dry-run", "--json"]) == 0
    events = lines(capsys)
    shared = {e["layer"]: e.get("shares_hessian_of") for e in events[:-1]}
    assert shared == {"block/k": None, "block/q": "block/k", "head": None}
    assert os.listdir(tmp_path) == ["in.h5"]


@pytest.mark.parametrize(
    "flag, hint",
    [
        ("--percdamp", "--damp 0.01"),
        ("--wbits", "--bits"),
        ("--groupsize=128", "--group-size"),
        ("--desc-act", "--order act"),
        ("--blocksize", "--group-size"),
        ("--bit", "--bits"),
        ("--force", "--overwrite"),
        ("--xyzzy", "there are"),
    ],
)
def test_unknown_flags_get_a_hint(problem, out, flag, hint, capsys):
    assert main(["quantize", problem, out, flag]) == 2
    error = capsys.readouterr().err
    assert hint in error and flag.partition("=")[0] in error
    assert error.startswith("quiplinalg: error: ") and "Traceback" not in error
    assert not os.path.exists(out)


@pytest.mark.parametrize(
    "flags",
    [
        ["--bits", "9"],
        ["--bits", "two"],
        ["--damp", "1.5"],
        ["--damp", "much"],
        ["--method", "gtpq"],
        ["--group-size", "0"],
        ["--threads", "0"],
        ["--rounding", "stochastic"],
        ["extra.h5"],
        ["--config", "missing.toml"],
    ],
)
def test_usage_errors(problem, out, flags, capsys):
    assert main(["quantize", problem, out, *flags]) == 2
    assert capsys.readouterr().err.startswith("quiplinalg: error: ")
    assert not os.path.exists(out)


def test_paths(problem, out, tmp_path, capsys):
    assert main(["quantize", problem]) == 2
    assert main(["quantize", problem, problem, "--overwrite"]) == 2
    link = tmp_path / "link.h5"
    link.symlink_to(problem)
    assert main(["quantize", problem, str(link), "--overwrite"]) == 2
    assert "another file" in capsys.readouterr().err
    assert main(["quantize", problem, str(tmp_path / "no" / "out.h5")]) == 2
    with open(out, "w") as file:
        file.write("precious")
    assert main(["quantize", problem, out]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert open(out).read() == "precious"
    assert main(["quantize", problem, out, "--overwrite"]) == 0
    with open_result(out) as result:
        assert len(result.names) == 3


def test_config(problem, out, tmp_path, capsys):
    config = tmp_path / "c.toml"
    config.write_text(
        'bits = 3\ngroup-size = 8\norder = "natural"\nsym = true\ninclude = ["block/*"]\n'
        'damp = "auto"\n'
    )
    assert main(["quantize", problem, out, "--config", str(config), "--bits", "4", "--no-sym"]) == 0
    with open_result(out) as result:
        assert result.names == ("block/k", "block/q")
        q = result.layer("block/q")
    assert (q.grid.bits, q.grid.scale.shape[1]) == (4, 2)  # flag over file; file over default
    assert (q.order, q.grid.kind, q.method) == ("natural", "asym", "ldlq")
    capsys.readouterr()
    for text, hint in [
        ("wbits = 3", "did you mean bits"),
        ("bits = true", "whole number"),
        ('bits = "3"', "whole number"),
        ("sym = 1", "true or false"),
        ('order = "actt"', "natural, act"),
        ("include = 3", "list of globs"),
        ("damp = []", "number or"),
        ("bits = 9", "1 to 8"),
        ("bits : 3", "bits = 3"),
        ("dry-run = true", "unknown key"),
    ]:
        config.write_text(text)
        assert main(["quantize", problem, out, "--overwrite", "--config", str(config)]) == 2, text
        assert hint in capsys.readouterr().err


def test_a_failing_layer_leaves_the_others(tmp_path, out, capsys):
    source = str(write(tmp_path / "bad.h5", bad=("head",)))
    assert main(["quantize", source, out, "--json"]) == 3
    text = capsys.readouterr()
    events = {e.get("layer"): e for e in map(json.loads, text.out.splitlines())}
    assert events["head"]["event"] == "layer_failed" and "--damp auto" in text.err
    assert events[None]["failed"] == ["head"] and "NOT in" in text.err
    with open_result(out) as result:
        assert result.names == ("block/k", "block/q")
    assert main(["verify", source, out]) == 0
    assert "1 layers of the problem are not" in capsys.readouterr().out


def test_all_layers_failing_write_nothing(tmp_path, out, capsys):
    source = str(write(tmp_path / "bad.h5", bad=("block/q", "block/k", "head")))
    assert main(["quantize", source, out]) == 1
    assert "was not written" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["bad.h5"]


def test_damping_warning_names_the_layer(tmp_path, out, capsys):
    H = np.eye(8)
    H[0, 1] = H[1, 0] = 1.02  # smallest eigenvalue -0.02
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("odd", np.ones((2, 8)), H)
    assert main(["quantize", str(tmp_path / "p.h5"), out, "--damp", "auto"]) == 0
    assert "warning: layer 'odd'" in capsys.readouterr().err


def test_invalid_input(problem, out, tmp_path, capsys):
    import h5py

    assert main(["quantize", str(tmp_path / "none.h5"), out]) == 4
    garbage = tmp_path / "garbage.h5"
    garbage.write_bytes(b"not hdf5" * 100)
    assert main(["quantize", str(garbage), out]) == 4
    sound = open(problem, "rb").read()
    (tmp_path / "half.h5").write_bytes(sound[: len(sound) // 2])
    assert main(["quantize", str(tmp_path / "half.h5"), out]) == 4
    with h5py.File(problem, "r+") as file:
        del file["layers/head/weight"]
        file["layers/head/weight"] = h5py.ExternalLink("secret.h5", "/weight")
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("quiplinalg: error: ")
    assert not os.path.exists(out)
    assert main(["quantize", problem, out]) == 3  # the link is not followed, the others are sound
    assert "layer 'head': expected an object in the file" in capsys.readouterr().err
    with open_result(out) as result:
        assert result.names == ("block/k", "block/q")


def test_same_bytes_for_any_number_of_threads(problem, tmp_path):
    files = [str(tmp_path / name) for name in ("1.h5", "2.h5")]
    for threads, path in zip("12", files, strict=True):
        assert main(["quantize", problem, path, "--threads", threads]) == 0
    first, second = (open(path, "rb").read() for path in files)
    assert first == second


def start(problem, out, cwd):
    """Start a long quantisation, and wait until a layer is done."""
    code = "import sys; from quiplinalg.cli.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "quantize", problem, out, "--bits", "2", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
    )  # fmt: skip
    while '"layer"' not in (line := process.stdout.readline()):
        assert line
    return process


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number, code", [(2, 130), (15, 130), (9, -9)])
def test_a_run_that_was_stopped_goes_on(tmp_path, number, code, capsys):
    rng = np.random.default_rng(0)
    with ProblemWriter(tmp_path / "in.h5") as writer:
        writer.add("a", rng.standard_normal((64, 128)), spd(128))
        for k in range(40):
            writer.add(f"b{k}", rng.standard_normal((64, 128)), shared_hessian_of="a")
    problem, out, other = (str(tmp_path / name) for name in ("in.h5", "out.h5", "other.h5"))
    process = start(problem, out, os.getcwd())
    time.sleep(0.02)
    process.send_signal(number)
    text, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert not os.path.exists(out) and os.path.exists(out + ".run")
    done = 1 + text.count('"event": "layer"')
    if code == 130:
        assert "quiplinalg: error: interrupted" in error and "--resume" in error
        assert '"interrupted"' in text
        assert not list(tmp_path.glob("out.h5.run/**/*.tmp"))
    again = ["quantize", problem, out, "--bits", "2", "--json"]
    assert main(again) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*again, "--resume"]) == 0
    assert lines(capsys)[0]["resumed"] >= done
    assert main(["quantize", problem, other, "--bits", "2"]) == 0
    assert open(out, "rb").read() == open(other, "rb").read()
    assert sorted(os.listdir(tmp_path)) == ["in.h5", "other.h5", "out.h5"]


def tamper(source, target, change):
    """Write the result again, one layer changed, with right checksums."""
    with open_result(source) as result, ResultWriter(target) as writer:
        for name in result.names:
            layer = result.layer(name)
            writer.add(name, change(layer) if name == "head" else layer)


def flip(layer):
    codes = layer.codes.copy()
    codes[3, 4] ^= 1
    return dataclasses.replace(layer, codes=codes)


@pytest.mark.parametrize(
    "change, said",
    [
        (flip, "row 3"),
        (lambda q: dataclasses.replace(q, loss=1.01 * q.loss), "stored loss"),
        (lambda q: dataclasses.replace(q, permutation=q.permutation[::-1]), "not the rounding"),
    ],
)
def test_verify_finds_what_was_changed(problem, out, tmp_path, change, said, capsys):
    assert main(["quantize", problem, out]) == 0
    other = str(tmp_path / "other.h5")
    tamper(out, other, change)
    capsys.readouterr()
    assert main(["verify", problem, other]) == 1
    text = capsys.readouterr()
    assert "layer 'head'" in text.err and said in text.err and "1 FAILED" in text.out
    assert main(["verify", problem, other, "--json"]) == 1
    events = lines(capsys)
    assert [e["layer"] for e in events[:-1] if not e["ok"]] == ["head"]
    assert events[-1]["ok"] is False


def test_verify_wants_files_that_belong_together(problem, out, tmp_path, capsys):
    assert main(["quantize", problem, out]) == 0
    assert main(["verify", out, problem]) == 4  # the other way round
    other = str(write(tmp_path / "other.h5", sizes=((12, 16), (8, 16), (9, 24))))
    assert main(["verify", other, out]) == 4
    with ProblemWriter(tmp_path / "few.h5") as writer:
        writer.add("head", np.ones((10, 24)), np.eye(24))
    assert main(["verify", str(tmp_path / "few.h5"), out]) == 4
    data = bytearray(open(out, "rb").read())
    with open_result(out) as result:
        packed = result.layer("head").codes
    assert packed.size
    import h5py

    with h5py.File(out) as file:
        data[file["layers/head/codes"].id.get_offset()] ^= 1
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", problem, str(damaged)]) == 4
    assert "checksum" in capsys.readouterr().err


def test_layers_draw_different_numbers():
    from quiplinalg.model.options import layer_seed
    from quiplinalg.rounding.options import Options

    def key(name):
        seed = layer_seed(7, name)
        return Options(bits=2, grid=None, group_size=None, static_groups=False, sym=False,
                       clip="mse", order="act", damp=0.01, rounding="stochastic", seed=seed,
                       block=None).philox_key  # fmt: skip

    assert len({key(f"block{i}/q") for i in range(100)}) == 100
    assert layer_seed(7, "a") == layer_seed(7, "a") != layer_seed(8, "a")
