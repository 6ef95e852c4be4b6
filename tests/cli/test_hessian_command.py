"""``quiplinalg hessian``: merging shards, and what it says of files."""

import json

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.cli.main import main
from quiplinalg.files import ProblemWriter

N = {"a/q": 6, "b": 3}


def shard(path, tokens, seed, names=N, mean=False, other=None):
    rng = np.random.default_rng(seed)
    made = {}
    with ql.StatisticsWriter(path) as writer:
        for name, n in names.items():
            made[name] = ql.Hessian(n, track_mean=mean)
            made[name].add(rng.standard_normal((tokens, n)))
            writer.add(name, made[name])
        if other is not None:
            writer.add("cross", other)
    return made


def pair(seed):
    both = ql.CrossMoment(4)
    both.add(*np.random.default_rng(seed).standard_normal((2, 9, 4)))
    return both


@pytest.fixture
def shards(tmp_path):
    paths = [str(tmp_path / f"{i}.h5") for i in range(3)]
    pairs = [pair(i) for i in range(3)]
    return paths, [shard(p, 10, i, other=pairs[i]) for i, p in enumerate(paths)], pairs


def test_merge_adds_in_the_order_given(shards, tmp_path, capsys):
    paths, made, pairs = shards
    out = str(tmp_path / "out.h5")
    assert main(["hessian", "merge", *paths, "-o", out]) == 0
    assert "30" in capsys.readouterr().out
    with ql.open_statistics(out) as reader:
        assert reader.names == ("a/q", "b", "cross")
        for name in N:
            expected = ql.merge_statistics([shard[name] for shard in made])
            assert (reader.hessian(name).sum() == expected.sum()).all()
            assert reader.info(name).count == 30
        assert (reader.cross("cross").sum() == ql.merge_statistics(pairs).sum()).all()
    again = str(tmp_path / "again.h5")
    assert main(["hessian", "merge", "--json", "-o", again, *paths]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e.get("tokens") for e in events] == [30, 30, 27, None]
    assert events[-1]["files"] == 3
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "again.h5").read_bytes()
    assert main(["hessian", "merge", paths[0], "-o", str(tmp_path / "copy.h5")]) == 0
    assert (tmp_path / "copy.h5").read_bytes() == (tmp_path / "0.h5").read_bytes()


def test_merge_refuses(shards, tmp_path, capsys):
    paths, _, _ = shards
    out = str(tmp_path / "out.h5")

    def refused(arguments, code, text):
        before = sorted(p.name for p in tmp_path.iterdir())
        assert main(["hessian", *arguments]) == code
        error = capsys.readouterr().err
        assert text in error, error
        assert sorted(p.name for p in tmp_path.iterdir()) == before

    refused(["merge", *paths], 2, "-o OUT.h5")
    refused(["merge", *paths, "-o", paths[1]], 2, "another file")
    refused(["merge", *paths, "-o", paths[1], "--overwrite"], 2, "another file")
    refused(["merge", paths[0], str(tmp_path / "." / "0.h5"), "-o", out], 2, "twice")
    refused(["merg", *paths, "-o", out], 2, "did you mean merge?")
    refused(["merge", *paths, "-o", out, "--overwrit"], 2, "--overwrite")
    refused(["merge", paths[0], str(tmp_path / "no.h5"), "-o", out], 4, "no.h5")
    refused(["merge", *paths, "-o", str(tmp_path / "no" / "out.h5")], 2, "existing directory")

    cases = {
        "fewer.h5": ({"a/q": 6}, False, "'b'"),
        "other.h5": ({"a/q": 6, "b": 4}, False, "n=4"),
        "mean.h5": (N, True, "tracks_mean"),
    }
    for name, (names, mean, text) in cases.items():
        path = str(tmp_path / name)
        shard(path, 5, 0, names=names, mean=mean, other=pair(0))
        refused(["merge", paths[0], path, "-o", out], 4, text)
        refused(["merge", path, paths[0], "-o", out], 4, name)
    path = str(tmp_path / "kind.h5")
    shard(path, 5, 0, names={**N, "cross": 4})
    refused(["merge", paths[0], path, "-o", out], 4, "kind=")

    (tmp_path / "out.h5").write_bytes(b"old")
    refused(["merge", *paths, "-o", out], 2, "--overwrite")
    # a damaged shard: what was there stays
    broken = bytearray((tmp_path / "2.h5").read_bytes())
    broken[len(broken) // 2 :] = bytes(len(broken) - len(broken) // 2)
    (tmp_path / "2.h5").write_bytes(broken)
    refused(["merge", *paths, "-o", out, "--overwrite"], 4, "2.h5")
    assert (tmp_path / "out.h5").read_bytes() == b"old"
    assert main(["hessian", "merge", *paths[:2], "-o", out, "--overwrite"]) == 0


def test_inspect_knows_statistics(tmp_path, capsys):
    path = str(tmp_path / "s.h5")
    shard(path, 5, 0, names=N)
    assert main(["hessian", "info", path]) == 0
    text = capsys.readouterr().out
    assert main(["inspect", path]) == 0
    assert capsys.readouterr().out == text and "a/q" in text


def test_info(tmp_path, capsys):
    path = str(tmp_path / "s.h5")
    H = ql.Hessian(5)
    X = np.random.default_rng(0).standard_normal((4, 5))
    X[:, 2] = 0
    H.add(X)
    rich = ql.Hessian(2)
    rich.add(np.random.default_rng(1).standard_normal((50, 2)))
    with ql.StatisticsWriter(path) as writer:
        writer.add("few", H)
        writer.add("none", ql.Hessian(2))
        writer.add("rich", rich)
    assert main(["hessian", "info", path]) == 0
    shown = capsys.readouterr()
    assert "few samples" in shown.out and "empty" in shown.out and "3 layers" in shown.out
    assert "few: few samples for n=4 live inputs" in shown.err
    assert main(["hessian", "info", path, "--json"]) == 0
    shown = capsys.readouterr()
    few, none, good, summary = [json.loads(line) for line in shown.out.splitlines()]
    assert (few["n"], few["tokens"], few["rank"], few["dead_columns"]) == (5, 4, 4, 1)
    assert few["effective_samples"] == 4 and few["verdict"] == "few samples"
    assert few["condition"] is None and few["smallest"] == 0  # infinity is no JSON
    assert none["verdict"] == "empty" and good["verdict"] == "ok" and good["tokens"] == 50
    assert good["precision"] == "float64" and summary["not_ok"] == 2

    for arguments, text in (
        (["info", path, path], "one file"),
        (["info", path, "-o", "x.h5"], "writes nothing"),
        (["info"], "FILE.h5"),
    ):
        assert main(["hessian", *arguments]) == 2
        assert text in capsys.readouterr().err


def test_info_of_a_problem_file(tmp_path, capsys):
    path = str(tmp_path / "p.h5")
    X = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    with ProblemWriter(path) as writer:
        writer.add("k", np.ones((2, 4)), X.T @ X / 30, n_samples=30)
        writer.add("q", np.ones((2, 4)), shared_hessian_of="k")
        writer.add("unknown", np.ones((2, 4)), np.diag([1.0, 0.0, 2.0, 3.0]))
    assert main(["hessian", "info", path, "--json"]) == 0
    shared, unknown, summary = [json.loads(s) for s in capsys.readouterr().out.splitlines()]
    assert (shared["layer"], shared["tokens"], shared["verdict"]) == ("k (+1)", 30, "ok")
    assert unknown["tokens"] is None and unknown["effective_samples"] is None
    assert unknown["rank"] == 3 and unknown["dead_columns"] == 1 and summary["layers"] == 2
    assert main(["hessian", "info", path]) == 0
    assert "k (+1)" in capsys.readouterr().out
    result = str(tmp_path / "r.h5")
    with ql.ResultWriter(result) as writer:
        writer.add("a", ql.nearest(np.ones((2, 4)), np.eye(4)))
    assert main(["hessian", "info", result]) == 4
    assert "quiplinalg-statistics" in capsys.readouterr().err
