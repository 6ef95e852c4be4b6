"""House rules as tests: layers, public names, docstrings, file sizes, lazy imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import quiplinalg as ql

ROOT = Path(ql.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Each layer may import itself and what stands before it.
LAYERS = (
    "errors", "arguments", "foreign", "arrays", "device_arrays", "restore", "parallel",
    "reference", "kernels",
    "losses", "symmetric", "grids", "incoherence", "results", "stacks", "factor", "hessian",
    "rounding", "pruning", "theory", "testing", "files", "export", "model", "cli",
)  # fmt: skip
DEVICE_ARRAYS = LAYERS.index("device_arrays")


def layer_of(module: str) -> int:
    return LAYERS.index(module.split(".")[1])


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    name = ".".join(("quiplinalg", *path.relative_to(ROOT).with_suffix("").parts))
    if name == "quiplinalg.__init__":
        return
    for module in imports(ast.parse(path.read_text())):
        if module.startswith("quiplinalg."):
            assert layer_of(module) <= layer_of(name), f"{name} imports {module}, which is above it"
        elif module.split(".")[0] == "h5py":
            assert name.startswith("quiplinalg.files"), f"only files/ may import h5py, not {name}"
        elif module.split(".")[0] in ("cupy", "cupy_backends", "cupyx"):
            uses = name.startswith("quiplinalg.kernels.cuda") or layer_of(name) == DEVICE_ARRAYS
            assert uses, f"only kernels/cuda and device_arrays.py may import CuPy, not {name}"
        elif module.split(".")[0] in ("torch", "jax", "tensorflow", "mlx"):
            raise AssertionError(f"{name} imports the framework {module}")
    if name.startswith("quiplinalg.reference"):
        outside = {m.split(".")[0] for m in imports(ast.parse(path.read_text()))}
        assert outside <= {
            "__future__",
            "numpy",
            "quiplinalg",
            "itertools",
            "dataclasses",
            "typing",
        }


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_documented_and_say_what_they_export(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    assert len(text.splitlines()) <= 400, f"{path.name} is long: is it still one thing?"
    if path.name not in ("__init__.py", "__main__.py"):
        assert any(
            isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
            for node in tree.body
        ), f"{path.name} has no __all__"


def public():
    for module in (ql, ql.testing, ql.theory):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield name, value


def test_every_public_name_is_there_and_in_its_modules_all():
    for name in ql.__all__:
        value = getattr(ql, name)
        module = inspect.getmodule(value)
        if name != "__version__":
            owner = importlib.import_module(f"quiplinalg.{ql._PUBLIC[name]}")
            assert name in owner.__all__, (name, owner)
            assert module is not None
    with pytest.raises(AttributeError, match="no attribute 'lldq'"):
        _ = ql.lldq


@pytest.mark.parametrize(
    "name,value", list(public()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_docstrings_agree_with_signatures(name, value):
    text = inspect.getdoc(value)
    assert text and text.splitlines()[0].endswith("."), (
        f"{name} needs one line that says what it is"
    )
    if not inspect.isfunction(value):
        return
    parameters = list(inspect.signature(value).parameters)
    section = re.search(r"Parameters\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", text, re.S)
    assert section, f"{name} documents no parameters"
    documented = re.findall(r"^(\w[\w, \n]*?)(?: :.*)?$", section[1].replace("\\\n", ""), re.M)
    names = [n.strip() for line in documented for n in line.split(",")]
    for parameter in parameters:
        assert parameter in names, f"{name}() does not document {parameter}"
    for heading in ("Returns", "Examples"):
        assert f"{heading}\n---" in text or name in ("num_threads",), f"{name}() lacks {heading}"


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_import_is_lazy():
    heavy = "{'numba','scipy','h5py','cython','tqdm','ml_dtypes','numpy'}"
    code = f"import sys, quiplinalg; print(sorted({heavy} & set(sys.modules)))"
    assert python(code) == "[]"


def test_an_array_call_imports_no_framework_and_no_h5py():
    code = (
        "import sys, numpy as np, quiplinalg as ql; ql.ldlq(np.eye(4), np.eye(4));"
        "print(sorted({'h5py','torch','jax','tqdm','hypothesis'} & set(sys.modules)))"
    )
    assert python(code) == "[]"


def test_the_package_says_it_is_typed():
    assert (ROOT / "py.typed").exists()
