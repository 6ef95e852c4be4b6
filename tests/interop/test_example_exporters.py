"""The exporters of examples/: each makes a valid problem file, and its model survives rounding.

Skipped where a framework is missing; see test_frameworks for what may not be.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from quiplinalg import open_problem
from quiplinalg.cli.main import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# One thread: models so small gain nothing from more, and their training repeats itself.
SETTINGS = {"KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def dense(problem, name, bias, x):
    return x @ problem.weight(name).T + problem.array(bias)


def relu(z):
    return np.maximum(z, 0)


def patches(images):
    """The 3 x 3 neighbourhood of every pixel of (N, h, w, c), 0 outside: (N, h, w, 9 c)."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.moveaxis(windows, 3, 5).reshape(*images.shape[:3], -1)


def second_patches(problem, x):
    """What the second convolution of the Keras model multiplies: a convolution and a pool later."""
    images = patches(x.reshape(-1, 8, 8, 1))
    images = relu(dense(problem, "conv0", "digits/conv0/bias", images))
    return patches(images.reshape(-1, 4, 2, 4, 2, 8).max(axis=(2, 4)))


# what a script needs; the shapes (out, in); which layer has the Hessian of which, first by name;
# a layer, and its inputs from pixels (N, 64) and the file, in NumPy
SCRIPTS = {
    "numpy": (
        (),
        {"dense0": (128, 64), "dense1": (64, 128), "dense2": (10, 64)},
        {},
        ("dense1", lambda file, x: relu(dense(file, "dense0", "bias0", x))),
    ),
    "torch": (
        ("torch",),
        {
            "embed": (32, 8), "q": (32, 32), "k": (32, 32), "v": (32, 32), "o": (32, 32),
            "up": (64, 32), "down": (32, 64), "head": (10, 256),
        },
        {"q": "k", "v": "k"},
        (
            "v",
            lambda file, x: (
                dense(file, "embed", "embed.bias", x.reshape(-1, 8, 8)) + file.array("place")
            ),
        ),
    ),
    "flax": (
        ("flax", "optax"),
        {
            "embed": (64, 64), "gate": (96, 64), "up": (96, 64), "down": (64, 96),
            "head": (10, 64),
        },
        {"up": "gate"},
        ("up", lambda file, x: relu(dense(file, "embed", "embed/bias", x))),
    ),
    "keras": (
        ("keras", "jax"),
        {"conv0": (8, 9), "conv1": (16, 72), "hidden": (64, 256), "head": (10, 64)},
        {},
        ("conv1", second_patches),
    ),
    "onnx": (
        ("onnx", "onnxruntime"),
        {"weight0": (128, 64), "weight1": (64, 128), "weight2": (10, 64)},
        {},
        ("weight1", lambda file, x: relu(dense(file, "weight0", "bias0", x))),
    ),
}  # fmt: skip


def training_digits():
    """The pixels that the scripts train on, computed apart from them."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    return train_test_split(pixels / 16, test_size=450, random_state=0, stratify=labels)[0]


def need(*names):
    missing = [name for name in names if find_spec(name) is None]
    if missing and os.environ.get("QUIPLINALG_REQUIRE_INTEROP") == "1":
        pytest.fail(f"the interop extra lacks {missing}")
    if missing:
        pytest.skip(f"needs {missing}")


def accuracy(script, *arguments, folder):
    """Run a script as its user does; return the held-out accuracy that it prints, in percent."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / f"export_{script}.py"), *arguments],
        cwd=folder,
        env=os.environ | SETTINGS | {"KERAS_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return float(re.search(r"held-out accuracy: ([\d.]+) %", ran.stdout)[1]), ran.stdout


@pytest.mark.parametrize("example", SCRIPTS)
def test_export_quantise_and_put_back(example, tmp_path, monkeypatch, capsys):
    modules, shapes, shared, (deep, inputs) = SCRIPTS[example]
    need("sklearn", *modules)
    monkeypatch.chdir(tmp_path)
    before, said = accuracy(example, "in.h5", folder=tmp_path)
    assert before > 90

    assert main(["inspect", "in.h5", "--json"]) == 0
    *layers, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert {layer["layer"]: tuple(layer["shape"]) for layer in layers} == shapes
    owners = {layer["layer"]: layer["shares_hessian_of"] for layer in layers}
    assert {name: owner for name, owner in owners.items() if owner} == shared
    assert all(layer["normalization"] == "mean" for layer in layers)
    assert summary["arrays"], "the biases are missing"

    with open_problem("in.h5") as problem:
        x = inputs(problem, training_digits())
        x = x.reshape(-1, x.shape[-1])
        assert problem.info(deep).n_samples == len(x)
        H = x.T @ x / len(x)
        np.testing.assert_allclose(problem.hessian(deep), H, rtol=1e-4, atol=1e-5 * H.max())

    # the commands that the script prints, as they are
    commands = [line.split()[1:] for line in said.splitlines() if line.startswith("  quiplinalg ")]
    assert [command[0] for command in commands] == ["inspect", "quantize"]
    assert all(main(command) == 0 for command in commands)
    after, _ = accuracy(example, "in.h5", "--quantized", "quantized.h5", folder=tmp_path)
    assert after >= before - 2

    # 1 bit to nearest breaks the model, so it is the rounded weights that are put back
    coarse = ["--bits", "1", "--method", "nearest", "--clip", "minmax"]
    assert main(["quantize", "in.h5", "coarse.h5", *coarse]) == 0
    broken, _ = accuracy(example, "in.h5", "--quantized", "coarse.h5", folder=tmp_path)
    assert broken < before - 2


def test_an_existing_file_is_kept(tmp_path):
    need("sklearn")
    path = tmp_path / "in.h5"
    path.write_bytes(b"precious")
    with pytest.raises(AssertionError, match=r"path must be new; got path=.*in\.h5"):
        accuracy("numpy", "in.h5", folder=tmp_path)
    assert path.read_bytes() == b"precious"
