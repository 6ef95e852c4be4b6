"""Kernels to shared objects by g++, with the headers of this folder; each once a machine."""

from __future__ import annotations

import ctypes
import getpass
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

__all__ = ["KernelError", "cache_folder", "compiled", "compiler", "load"]

HEADERS = [Path(__file__).with_name(f"cuda_{name}.h") for name in ("types", "standin", "builtins")]
_CHECKS = "bounds,alignment,shift-exponent,signed-integer-overflow,integer-divide-by-zero"
FLAGS = (
    *("-std=c++17", "-O2", "-g1", "-march=native", "-ffp-contract=off", "-U_FORTIFY_SOURCE"),
    *("-fPIC", "-shared", "-DSTANDIN", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused"),
    *("-fno-strict-aliasing", f"-fsanitize={_CHECKS}", "-fsanitize-undefined-trap-on-error"),
)


class KernelError(RuntimeError):
    """A kernel did what a GPU would not forgive."""


@cache
def compiler() -> str | None:
    """Return the path of g++, or None; on Linux only, whose signals and linker are relied on."""
    if not sys.platform.startswith("linux"):
        return None
    return shutil.which("g++")


def cache_folder() -> Path:
    """Return the folder of what was compiled before, in the user's temporary one."""
    folder = Path(tempfile.gettempdir()) / f"quiplinalg-standin-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to someone else")
    return folder


# -- signatures -----------------------------------------------------------------------------------

_LAUNCH = r"(?:__launch_bounds__\s*\(([^()]*)\)\s*)?"
_KERNEL = re.compile(rf"__global__\s+{_LAUNCH}void\s+{_LAUNCH}(\w+)\s*\(([^()]*)\)")


def signatures(text: str) -> dict[str, list[str]]:
    """Return the C types of the arguments of each kernel of a preprocessed text.

    Before them comes the number of threads that a block may have, an expression.
    """
    names = {
        name: " ".join(kind.split())
        for kind, name in re.findall(r"\btypedef\s+([\w\s]+?)\s+(\w+)\s*;", text)
    }
    found = {}
    for before, after, kernel, parameters in _KERNEL.findall(text):
        kinds = [(before or after or "1024").split(",")[0].strip()]
        for parameter in filter(None, (p.strip() for p in parameters.split(","))):
            kind = re.sub(r"\b(const|volatile|__restrict__|__restrict|restrict)\b", "", parameter)
            kind = re.sub(r"\w+\s*$", "", kind)  # the name
            kind = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), kind)
            stars = kind.count("*")
            kinds.append(" ".join(kind.replace("*", " ").split()) + "*" * stars)
        found[kernel] = kinds
    return found


def _entries(kernels: dict[str, list[str]]) -> str:
    """Return the C++ text of the functions that Python calls."""
    lines = ['#line 1 "entries"']
    for name, (most, *kinds) in kernels.items():
        values = ", ".join(f"*({kind}*)a[{i}]" for i, kind in enumerate(kinds))
        lines.append(
            f"static void call_{name}(void** a) {{ (void)a; {name}({values}); }}\n"
            f'extern "C" int standin_{name}(const unsigned* shape, size_t shared, void** a, '
            "unsigned order, char* text, size_t size) { return standin::run("
            f"call_{name}, a, shape, shared, order, {most}, text, size); }}"
        )
    return "\n".join(lines)


# -- compilation ----------------------------------------------------------------------------------


def _run(command: list[str], text: str) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"{' '.join(command)}\n{done.stderr[:8000]}")
    return done.stdout


@cache
def compiled(code: str, macros: tuple[str, ...]) -> tuple[Path, dict[str, list[str]]]:
    """Compile to a shared object unless there is one; return its path and the signatures."""
    cxx = compiler()
    if cxx is None:
        raise KernelError("no g++ to compile kernels with")
    header = "\n".join(f'#line 1 "{h.name}"\n{h.read_text()}' for h in HEADERS)
    version = _run([cxx, "--version"], "")
    key = "\0".join(
        (version, _machine(), header, *FLAGS, *macros, code, _entries({"x": ["1", "y*"]}))
    )
    stem = cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:32]
    library, listing = stem.with_suffix(".so"), stem.with_suffix(".json")
    if not (library.exists() and listing.exists()):
        plain = _run([cxx, "-std=c++17", "-DSTANDIN", *macros, "-E", "-P", "-x", "c++", "-"], code)
        kernels = signatures(plain)
        # The C library has functions of the same names as some kernels.
        renamed = "".join(f"#define {name} kernel_{name}\n" for name in kernels)
        text = f'{header}\n{renamed}#line 1 "common.cuh"\n{code}\n'
        part = stem.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        command = [cxx, *FLAGS, *macros, "-x", "c++", "-", "-o", str(part)]
        _run(command, text + _entries(kernels))
        os.replace(part, library)
        part.write_text(json.dumps(kernels))
        os.replace(part, listing)
    return library, json.loads(listing.read_text())


@cache
def _machine() -> str:
    """Return what -march=native depends on: a cache may be shared by several machines."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")


@cache
def load(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))
