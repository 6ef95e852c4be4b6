"""``quiplinalg info``: versions, kernels, threads and CPU features, for people and bug reports."""

from __future__ import annotations

from typing import Any

from quiplinalg.cli.common import OK, Parser

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {"description": "Print versions, the kernels in use and why, threads and CPU features."}
_FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vnni", "neon")


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(options: Any) -> int:
    """Run the command."""
    facts = _facts()
    if options.json:
        import json

        print(json.dumps(facts))
        return OK
    width = max(map(len, facts))
    for key, value in facts.items():
        text = " ".join(value) if isinstance(value, list) else value
        print(f"{key.replace('_', ' '):{width}}  {text}")
    return OK


def _facts() -> dict[str, Any]:
    import os
    import platform
    from importlib.metadata import version

    import quiplinalg
    from quiplinalg.parallel import thread_count

    cpu, features = _cpu()
    return {
        "quiplinalg": quiplinalg.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in ("numpy", "scipy", "numba", "h5py")},
        "kernels": _kernels(),
        "factorisation": _tiles(),
        "blas": _blas(),
        "threads": thread_count(),
        "cores": os.cpu_count(),
        "cpu": cpu,
        "cpu_features": features,
        "cupy": _cupy(),
    }


def _kernels() -> str:
    from quiplinalg.kernels.record import select

    try:
        record = select("auto")
    except Exception as error:  # a broken Numba must not keep info from saying so
        return f'none ({error}). backend="generic" runs on NumPy alone'
    return f"{record.name}: compiled by Numba for this machine, {record.block} columns a block"


def _tiles() -> str:
    from quiplinalg.kernels.record import select

    try:
        origin = select("cpu").tiles_from
    except (ImportError, RuntimeError) as error:
        return f"none: the CPU kernels do not load ({error})"
    if origin == "cython":
        return "cython (the compiled extension, on SciPy's BLAS and LAPACK)"
    return (
        f"{origin}. Slower, and codes may differ near ties; for the extension install a C "
        "compiler, then 'pip install --force-reinstall --no-deps quiplinalg'"
    )


def _blas() -> list[str]:
    import scipy.linalg  # noqa: F401  - loads the library that is asked about
    from threadpoolctl import threadpool_info

    found = {
        f"{library['internal_api']} {library['version']} ({library.get('architecture', '?')})"
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    return sorted(found)


def _cpu() -> tuple[str, list[str]]:
    import llvmlite.binding as llvm

    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:  # not known for this CPU
        return llvm.get_host_cpu_name(), []
    return llvm.get_host_cpu_name(), [name for name in _FEATURES if features.get(name)]


def _cupy() -> str:
    from importlib.util import find_spec

    if find_spec("cupy") is None:
        return 'not installed; for CUDA 12: pip install "quiplinalg[cuda12]", for 13: [cuda13]'
    from importlib.metadata import packages_distributions, version

    names = packages_distributions().get("cupy", [])
    found = " ".join(f"{name} {version(name)}" for name in names) or "installed"
    return f"{found}; {_devices()}"


def _devices() -> str:
    from quiplinalg.device_arrays import import_cupy

    try:
        runtime = import_cupy().cuda.runtime
        count = runtime.getDeviceCount()
        names = [runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]
    except ImportError as error:  # of CuPy or of a device, in words
        return f"no device ({error})"
    return ", ".join(f"device {i}: {name}" for i, name in enumerate(names))
