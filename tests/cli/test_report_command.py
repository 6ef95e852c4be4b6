"""``quiplinalg report`` and ``quantize --report``: figures, page, exit codes."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.cli.common import harmless
from quiplinalg.cli.main import main
from quiplinalg.cli.pages.figures import _natural, collect
from quiplinalg.cli.pages.layer_figures import kind_of
from quiplinalg.cli.pages.report_page import report_page

NASTY = ("<img src=x onerror=alert(1)>", "a&amp;\"' onclick='x", "b\u202egnp", "layers.10.q")


class Page(HTMLParser):
    """The elements of a page, and the cells of its table."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.rows: dict[str, dict[str, str]] = {}
        self.text = ""
        self._row: dict | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.elements.append((tag, given))
        if tag == "tr" and re.fullmatch(r"l\d+", given.get("id", "")):
            self._row = self.rows[given["id"]] = {}
        elif tag == "td" and "data-k" in given and self._row is not None:
            self._row[given["data-k"]] = given["data-v"]

    def handle_data(self, data):
        self.text += data

    def of(self, tag, **wanted):
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A problem of layers with enough, few and too few samples; its result; its certificates."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    with ql.ProblemWriter(folder / "in.h5") as writer:
        for name, samples in zip(
            ("layers.2.q", "layers.10.q", "layers.2.k"), (64, 20, 8), strict=True
        ):
            X = rng.standard_normal((64, 16)) @ rng.standard_normal((16, 16))
            W = rng.standard_normal((6, 16)).astype(np.float32)
            writer.add(name, W, (X.T @ X / 64).astype(np.float32), n_samples=samples)
    source, target = str(folder / "in.h5"), str(folder / "out.h5")
    (folder / "policy.toml").write_text("bits = 2\n[[rules]]\nmatch = '.*k'\nbits = 5\n")
    assert main(["quantize", source, target, "--config", str(folder / "policy.toml")]) == 0
    assert main(["verify", source, target, "--certificate", "--rows", "3"]) == 0
    return folder


def as_json(capsys, *arguments):
    capsys.readouterr()
    assert main(["report", *map(str, arguments), "--json"]) == 0
    *layers, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert summary.pop("event") == "summary"
    return {each["layer"]: each for each in layers}, summary


def test_the_figures_are_those_of_the_files(folder, capsys):
    layers, summary = as_json(capsys, folder / "out.h5", "--problem", folder / "in.h5")
    assert list(layers) == ["layers.2.k", "layers.2.q", "layers.10.q"]  # 2 before 10
    certificates = json.loads((folder / "out.certificate.json").read_text())["layers"]
    energy = loss = 0.0
    with ql.open_problem(folder / "in.h5") as problem, ql.open_result(folder / "out.h5") as result:
        for name, found in layers.items():
            q, W, H = result.layer(name), problem.weight(name), problem.hessian(name)
            whole = ql.proxy_loss(0 * W, W, H)
            assert found["loss_db"] == pytest.approx(10 * math.log10(q.loss / whole), abs=1e-4)
            nearest = q.nearest_loss(W, H)
            assert found["gain_db"] == pytest.approx(10 * math.log10(nearest / q.loss), abs=1e-4)
            assert found["nearest_db"] - found["loss_db"] == pytest.approx(found["gain_db"])
            for key in ("dual_gap_db", "model_gap_db"):
                assert found[key] == certificates[name][key]
            assert found["certified_rows"] == 3
            assert found["bits"] == q.grid.bits == (5 if name.endswith("k") else 2)
            assert found["bits_per_weight"] == q.bits_per_weight
            assert (found["damp"], found["clipped"]) == (q.damp, q.clipped)
            assert found["near_tie_rows"] == q.near_tie_rows and found["seconds"] is None
            assert found["damp_share"] == q.damp * 16 / q.trace_D
            energy, loss = energy + found["weight_energy"], loss + q.loss
    assert summary["loss_db"] == pytest.approx(10 * math.log10(loss / energy))
    assert summary["widths"] == {"2": 2 / 3, "5": 1 / 3}
    assert sum(each["loss_share"] for each in layers.values()) == pytest.approx(1)
    assert summary["bits_per_weight"] == pytest.approx(
        sum(each["bits_per_weight"] for each in layers.values()) / 3
    )


def test_the_page_has_the_figures_of_the_json(folder, tmp_path, capsys):
    page = tmp_path / "r.html"
    arguments = (folder / "out.h5", "--problem", folder / "in.h5", "-o", page)
    layers, _ = as_json(capsys, *arguments)
    shown = Page(page.read_text("utf-8"))
    assert len(shown.rows) == 3
    for name, found in layers.items():
        row = shown.rows[f"l{found['index']}"]
        assert {"loss_db", "nearest_db", "gain_db", "dual_gap_db", "bits", "damp", "near_tie_rows",
                "clipped", "dead_columns", "n_samples"} <= set(row)  # fmt: skip
        assert "seconds" not in row and "sparsity" not in row  # nobody knows them
        assert name in shown.text
        for key, value in row.items():
            assert (float(value) if value else None) == found[key], key


def test_low_samples_are_pointed_out(folder, capsys):
    layers, summary = as_json(capsys, folder / "out.h5", "--problem", folder / "in.h5")
    verdicts = {name: each["samples_verdict"] for name, each in layers.items()}
    assert verdicts == {"layers.2.q": "ok", "layers.10.q": "few samples",
                        "layers.2.k": "too few samples"}  # fmt: skip
    assert layers["layers.2.k"]["notes"] == ["too few samples: 8 for 16 live inputs"]
    assert layers["layers.2.q"]["notes"] == [] and summary["noted"] == 2
    assert main(["report", str(folder / "out.h5"), "--problem", str(folder / "in.h5")]) == 0
    assert "few samples: 20 for 16 live inputs: layer 'layers.10.q'" in capsys.readouterr().err
    layers, summary = as_json(capsys, folder / "out.h5")
    assert summary["noted"] == 0 and layers["layers.2.k"]["n_samples"] is None


def test_the_terminal_has_a_row_for_each_layer_and_one_for_all(folder, capsys):
    layers, summary = as_json(capsys, folder / "out.h5")
    assert main(["report", str(folder / "out.h5")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, each in layers.items():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert f" {each['loss_db']:.2f} " in line and f" +{each['gain_db']:.2f} " in line
    (whole,) = [line for line in lines if line.startswith("all 3")]
    assert f" {summary['loss_db']:.2f} " in whole and whole.endswith(" 100.00")


def test_nothing_is_loaded_and_only_the_script_that_is_there_runs(folder):
    text = report_page(collect(str(folder / "out.h5"), str(folder / "in.h5")))
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|src=|//[a-z]", re.sub(r"\n\s*//.*", "", text))
    assert all(a["href"].startswith("#") for a in page.of("a")) and page.of("a")
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object")]
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for a in page.of("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert all(a["href"][1:] in ids for a in page.of("a"))


def test_names_are_text_whatever_is_in_them(tmp_path):
    rng = np.random.default_rng(0)
    with ql.ResultWriter(tmp_path / "o.h5") as writer:
        for name in NASTY:
            writer.add(name, ql.ldlq(rng.standard_normal((4, 8)), np.eye(8)), weight_energy=8.0)
    report = collect(str(tmp_path / "o.h5"))
    for each in report.layers:
        each["notes"] = [f"<b onload=x>{each['layer']}"]
    hostile = {"failed": {"</script><script>x": "<i>why"}, "skipped": ["<u>skipped"]}
    text = report_page(type(report)(report.layers, report.summary, **hostile))
    page = Page(text)
    assert len(page.of("script")) == 1 and "\u202e" not in text
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
    assert not [tag for tag, _ in page.elements if tag in ("img", "u")]
    for name in (*NASTY, "</script><script>x", "<u>skipped"):
        assert harmless(name) in page.text


def test_every_column_can_be_sorted_by_its_values(folder):
    page = Page(report_page(collect(str(folder / "out.h5"), str(folder / "in.h5"))))
    heads = page.of("th", scope="col")
    sortable = [a["aria-sort"] for a in heads if "aria-sort" in a]
    assert sortable.count("ascending") == 1 and set(sortable) == {"ascending", "none"}
    assert len(page.of("button", type="button")) == len(sortable)
    start = next(k for k, (tag, a) in enumerate(page.elements) if a.get("id") == "l0")
    cells = [a for tag, a in page.elements[start + 1 :] if tag in ("td", "th")]
    assert len(cells) == 3 * len(sortable) and all("data-v" in a for a in cells)
    assert "hidden" in page.of("form")[0]  # until there is a script that filters


def test_the_plots_show_the_losses(folder):
    report = collect(str(folder / "out.h5"), str(folder / "in.h5"))
    text = report_page(report)
    figures = re.findall(r"<figure[^>]*><figcaption>(.*?)</figcaption>(.*?)</figure>", text, re.S)
    assert [title.split(",")[0] for title, _ in figures] == [
        "Loss", "Bits per weight", "Share of the loss",
    ]  # fmt: skip
    marks = figures[0][1]
    order = re.findall(r"<a href='#l(\d)'", marks)
    assert order == ["0", "1", "2"]  # the kinds are k, q, q
    own = [float(y) for y in re.findall(r"class='dot own' d='M[\d.]+ ([\d.]+)h.001'", marks)]
    other = [float(y) for y in re.findall(r"class='dot other' d='M[\d.]+ ([\d.]+)h.001'", marks)]
    db = [(each["loss_db"], each["nearest_db"]) for each in report.layers]
    places = [
        *zip([a for a, _ in db], own, strict=True),
        *zip([b for _, b in db], other, strict=True),
    ]
    slopes = np.polyfit(*zip(*places, strict=True), 1)
    assert slopes[0] < 0  # 0 is the top, and higher is worse
    assert all(abs(np.polyval(slopes, x) - y) < 0.02 for x, y in places)


def test_300_layers_are_below_3_megabytes_and_each_has_its_row(folder):
    report = collect(str(folder / "out.h5"), str(folder / "in.h5"))
    layers = []
    for k in range(300):
        each = copy.deepcopy(report.layers[k % 3])
        name = f"model.decoder.layers.{k // 3}.self_attention.{'qkv'[k % 3]}_projection"
        each |= {"layer": name, "kind": kind_of(name), "index": k, "seconds": k / 7}
        each |= {"dual_gap_db": 1.0 + k / 100, "model_gap_db": 2.0 + k / 300}
        layers.append(each)
    text = report_page(type(report)(layers, report.summary | {"seconds": 99.0}))
    assert len(text.encode()) < 3e6
    page = Page(text)
    assert len(page.rows) == 300 and page.rows["l17"]["seconds"] == repr(17 / 7)
    assert text.count("<figure") == 5 and "model.<wbr>decoder.<wbr>layers.<wbr>*" in text


def test_a_certificate_of_other_codes_is_left_out_and_named(folder, tmp_path, capsys):
    content = json.loads((folder / "out.certificate.json").read_text())
    content["layers"]["layers.2.q"]["loss"] *= 1.1
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    layers, _ = as_json(capsys, folder / "out.h5", "--certificate", path)
    assert layers["layers.2.q"]["dual_gap_db"] is None
    assert "certificate is of other codes" in layers["layers.2.q"]["notes"][0]
    assert layers["layers.10.q"]["dual_gap_db"] is not None


def test_pruned_layers_and_unknown_figures(folder, tmp_path, capsys):
    rng = np.random.default_rng(3)
    W, H = rng.standard_normal((4, 16)), np.eye(16)
    with ql.ResultWriter(tmp_path / "o.h5") as writer:
        writer.add("a", ql.sparsegpt(W, H, pattern="2:4"), weight_energy=64.0)
        writer.add("b", ql.ldlq(np.zeros((4, 16)), H))
    page = tmp_path / "p.html"
    layers, summary = as_json(capsys, tmp_path / "o.h5", "-o", page)
    assert layers["a"]["sparsity"] == 0.5 and layers["a"]["bits_per_weight"] is None
    assert layers["a"]["made"] == "sparsegpt, pruned only (2:4)"
    assert layers["b"]["loss"] == 0 and layers["b"]["loss_db"] is None  # no energy is known
    assert summary["nearest_db"] is None and summary["compared_layers"] == 0
    rows = Page(page.read_text("utf-8")).rows
    assert rows["l0"]["sparsity"] == "0.5" and rows["l1"]["sparsity"] == ""


def test_a_result_without_layers_has_a_page(tmp_path, capsys):
    with ql.ResultWriter(tmp_path / "o.h5"):
        pass
    layers, summary = as_json(capsys, tmp_path / "o.h5", "-o", tmp_path / "p.html")
    assert layers == {} and summary["loss_db"] is None
    assert "<table id='layers'>" in (tmp_path / "p.html").read_text("utf-8")
    assert main(["report", str(tmp_path / "o.h5")]) == 0


def test_what_nearest_does_better_is_pointed_out(tmp_path, capsys):
    q = ql.ldlq(np.random.default_rng(0).standard_normal((4, 8)), np.eye(8), bits=2)
    with ql.ResultWriter(tmp_path / "o.h5") as writer:
        for name, factor in (("better", 0.5), ("equal", 1.0), ("exact", 0.0)):
            writer.add(name, q, weight_energy=32.0, nearest_loss=factor * q.loss, compared_rows=4)
    layers, _ = as_json(capsys, tmp_path / "o.h5")
    assert layers["better"]["notes"] == ["3.01 dB worse than nearest"]
    assert layers["exact"]["notes"] == ["worse than nearest, which has no loss"]
    assert layers["equal"]["notes"] == []


def test_nearest_is_computed_where_the_result_does_not_say(folder, tmp_path, capsys):
    with ql.open_problem(folder / "in.h5") as problem:
        W, H = problem.weight("layers.2.q"), problem.hessian("layers.2.q")
    q = ql.ldlq(W, H, bits=2, order="natural")
    with ql.ResultWriter(tmp_path / "o.h5") as writer:
        writer.add("layers.2.q", q)
    bare, _ = as_json(capsys, tmp_path / "o.h5")
    assert bare["layers.2.q"]["loss_db"] is None
    full, _ = as_json(capsys, tmp_path / "o.h5", "--problem", folder / "in.h5")
    expected = 10 * math.log10(q.nearest_loss(W, H) / q.loss)
    assert full["layers.2.q"]["gain_db"] == pytest.approx(expected)
    assert full["layers.2.q"]["compared_rows"] == 6


def test_quantize_reports_seconds_and_failures(tmp_path, capsys):
    rng = np.random.default_rng(0)
    source, page = str(tmp_path / "in.h5"), tmp_path / "r.html"
    with ql.ProblemWriter(source) as writer:
        for name in ("good", "ba<d", "left"):
            H = np.eye(8)
            if name == "ba<d":
                H[0, 1] = H[1, 0] = 1.05
            writer.add(name, rng.standard_normal((4, 8)), H)
    (tmp_path / "p.toml").write_text("[[rules]]\nmatch = 'left'\nskip = true\n")
    run = ["quantize", source, str(tmp_path / "out.h5"), "--config", str(tmp_path / "p.toml"),
           "--report", str(page), "--json"]  # fmt: skip
    assert main(run) == 3
    said = capsys.readouterr()
    facts = [json.loads(line) for line in said.out.splitlines()]
    (done,) = [each for each in facts if each["event"] == "layer"]
    text = page.read_text("utf-8")
    shown = Page(text)
    assert str(page) in said.err and shown.rows["l0"]["seconds"] == repr(done["seconds"])
    assert shown.rows["l0"]["loss_db"] == repr(done["loss_db"])
    assert "ba&lt;d</b> failed: H must be positive definite" in text
    assert "1 layer skipped, as asked for: left" in text
    # an earlier report may be replaced
    assert main([*run, "--retry-failed", "--damp", "auto"]) == 0
    capsys.readouterr()
    again = Page(page.read_text("utf-8"))
    assert len(again.rows) == 2 and "failed" not in again.text
    assert "H was not positive definite at damp" in again.text  # it was escalated


@pytest.mark.parametrize("where", ["mine.html", "out.h5", "no/such/folder.html", "."])
def test_a_page_replaces_nothing_but_a_report(where, folder, tmp_path, capsys):
    (tmp_path / "mine.html").write_text("<p>precious")
    target = tmp_path / "out.h5"
    run = ["quantize", str(folder / "in.h5"), str(target), "--report", str(tmp_path / where)]
    assert main(run) == 2 and not target.exists()
    assert "--report" in capsys.readouterr().err
    target.write_bytes((folder / "out.h5").read_bytes())
    before = target.read_bytes()
    assert main(["report", str(target), "-o", str(tmp_path / where)]) == 2
    assert "--output" in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "<p>precious" and target.read_bytes() == before


def test_exit_codes_of_files_that_do_not_fit(folder, tmp_path, capsys):
    result, problem = str(folder / "out.h5"), str(folder / "in.h5")
    other = str(tmp_path / "other.h5")
    with ql.ProblemWriter(other) as writer:
        writer.add("layers.2.k", np.ones((6, 4)), np.eye(4))
    (tmp_path / "c.json").write_text('{"layers": {"layers.2.k": {"loss": "much"}}}')
    (tmp_path / "d.json").write_text("not JSON")
    for arguments, code, said in (
        ([problem], 4, "quiplinalg-result"),
        ([result, "--problem", result], 4, "quiplinalg-problem"),
        ([result, "--problem", other], 4, "problem file that the result was made from"),
        ([result, "--certificate", str(tmp_path / "c.json")], 4, "expected certificates"),
        ([result, "--certificate", str(tmp_path / "d.json")], 4, "expected JSON"),
        ([result, "--certificate", str(tmp_path / "none.json")], 1, "none.json"),
        ([str(tmp_path / "none.h5")], None, "none.h5"),
        ([], 2, "OUT.h5"),
        ([result, "--out", "x"], 2, "--output"),
    ):
        page = tmp_path / "never.html"
        found = main(["report", *arguments, "-o", str(page)])
        assert found == code if code is not None else found in (1, 4), arguments
        assert said in capsys.readouterr().err and not page.exists()


@pytest.mark.parametrize(
    "broken",
    [{"loss": "much"}, {"loss": float("nan")}, {"dual_gap_db": 10**400}, {"rows": 3},
     {"model_gap_db": float("inf")}],
)  # fmt: skip
def test_certificates_with_impossible_figures_are_refused(broken, folder, tmp_path, capsys):
    content = json.loads((folder / "out.certificate.json").read_text())
    content["layers"]["layers.2.q"] |= broken
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    assert main(["report", str(folder / "out.h5"), "--certificate", str(path)]) == 4
    assert "expected certificates by layer" in capsys.readouterr().err


def test_deep_json_is_refused(folder, tmp_path, capsys):
    path = tmp_path / "c.json"
    path.write_text("[" * 100_000)
    assert main(["report", str(folder / "out.h5"), "--certificate", str(path)]) == 4
    assert "expected JSON" in capsys.readouterr().err


def test_names_sort_by_the_numbers_in_them():
    names = ["a.10", "a.2", "a.02.b", "a.1" + 5000 * "0", "a", "2", "10", "b1c"]
    assert sorted(names, key=_natural) == [
        "2", "10", "a", "a.2", "a.02.b", "a.10", "a.1" + 5000 * "0", "b1c",
    ]  # fmt: skip


def test_layers_of_one_kind():
    names = ("h.0.attn.q", "h.11.attn.q", "h.0.mlp.fc1", "h.0.mlp.fc2", "dense0", "blocks/3")
    assert [kind_of(name) for name in names] == [
        "h.*.attn.q", "h.*.attn.q", "h.*.mlp.fc1", "h.*.mlp.fc2", "dense0", "blocks/*",
    ]  # fmt: skip
