"""Every kernel file compiles by NVRTC for every architecture, without a GPU or a warning."""

from __future__ import annotations

import os
import re
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from multiprocessing import get_context

import pytest
from standin.needs import needed
from standin.nvrtc import compiled, library, ptx

from quiplinalg.kernels.cuda.launch import OPTIONS, VARIANTS, source_text

FOLDER = files("quiplinalg.kernels.cuda")
PRESENT = [source for source in VARIANTS if FOLDER.joinpath(f"{source}.cu").is_file()]
# A real one, sm_90, is assembled too: registers and shared memory must suffice.  The others make
# PTX of the first set of macros; of the rest the front end is run, which takes a tenth of the time.
ARCHITECTURES = ("compute_75", "compute_80", "sm_90", "compute_100")
# CuPy's own, which it puts behind those of a module: cupy/cuda/compiler.py
CUPY = ("-ftz=true", "--device-as-default-execution-space")
SPILLED = 256  # bytes that a thread may spill
FMA = """
extern "C" __global__ void f(float* x, double* y) {{
    *x = {0};
    *y = {1};
}}"""


@pytest.fixture(scope="module")
def results():
    """Futures for each file, set of macros and architecture."""
    if library() is None:
        needed("NVRTC (pip install nvidia-cuda-nvrtc-cu12)")
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        yield {
            (source, i, architecture): pool.submit(
                compiled,
                source_text(source),
                *OPTIONS,
                f"--gpu-architecture={architecture}",
                *(f"-D{name}={value}" for name, value in macros.items()),
                *CUPY,
                *(["--ptxas-options=-v"] if architecture.startswith("sm") else ["-dlto"] * (i > 0)),
            )
            for source in sorted(PRESENT, key=lambda source: -len(source_text(source)))
            for architecture in sorted(ARCHITECTURES, key=lambda name: name[0] == "c")
            for i, macros in enumerate(VARIANTS[source])  # the long ones first
        }


def kernels_of(text: str) -> set[str]:
    return set(re.findall(r"^KERNEL void\s+(?:__launch_bounds__\([^()]*\)\s+)?(\w+)\(", text, re.M))


def warnings_of(log: str) -> list[str]:
    """Return the warnings, but for functions of common.cuh that a file does not use."""
    common = FOLDER.joinpath("common.cuh").read_text()
    unused = re.compile(r'warning #177-D: function "(\w+)[("]')
    return [
        line
        for line in log.splitlines()
        if "warning" in line
        and not line.startswith("Remark: ")
        and not ((found := unused.search(line)) and f" {found[1]}(" in common)
    ]


def test_every_file_has_its_macros():
    assert {p.name for p in FOLDER.iterdir() if p.name.endswith(".cu")} == {
        f"{source}.cu" for source in VARIANTS
    }


@pytest.mark.parametrize("source", PRESENT)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_variant_compiles_without_warnings(results, source, architecture):
    kernels = kernels_of(source_text(source))
    assert kernels
    for i, macros in enumerate(VARIANTS[source]):
        status, log, entries = results[source, i, architecture].result()
        assert status == 0, f"{macros}\n{log}"
        assert not warnings_of(log), f"{macros}\n{log}"
        assert set(entries) == kernels or (not entries and i and architecture[0] == "c"), macros
        spilled = re.findall(r"properties for (\w+)\n.*?(\d+) bytes spill stores", log)
        assert bool(spilled) == architecture.startswith("sm")
        assert all(int(size) <= SPILLED for _, size in spilled), f"{macros} {spilled}"


def test_products_and_sums_are_fused_only_where_the_text_says_so(results):
    for options, product, fused in (
        ((*OPTIONS, *CUPY), "x[1] * x[2] + x[3]", False),
        ((*OPTIONS, *CUPY), "fmaf(x[1], x[2], x[3])", True),
        ((), "x[1] * x[2] + x[3]", True),
    ):
        double = product.replace("fmaf", "fma").replace("x[", "y[")
        status, log, text = ptx(FMA.format(product, double), *options)
        assert status == 0, log
        assert bool(re.search(r"\bfma\.rn(\.ftz)?\.f32", text)) == fused
        assert bool(re.search(r"\bfma\.rn\.f64", text)) == fused


def test_what_does_not_compile_is_reported(results):
    status, log, _ = ptx("KERNEL", *OPTIONS)
    assert status != 0 and "error" in log
    unused = 'a.cu(1): warning #177-D: function "{}" was declared but never referenced'
    assert not warnings_of(unused.format("FMA(float, float, float)"))
    assert warnings_of(unused.format("mine()"))
    assert warnings_of("a.cu(1): warning #550-D: variable was set but never used")
