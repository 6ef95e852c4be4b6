"""NVRTC of the PyPI package, through ctypes: it needs no GPU."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import site
import sys
from functools import cache
from pathlib import Path

from .host_compiler import cache_folder

__all__ = ["compiled", "library", "ptx"]


def library() -> Path | None:
    """Return the path of NVRTC, or None."""
    for folder in (*site.getsitepackages(), *sys.path):
        found = sorted(Path(folder).glob("nvidia/**/libnvrtc.so.*"))
        if found:
            return found[0]
    return None


@cache
def nvrtc() -> ctypes.CDLL:
    path = library()
    if path is None:
        raise OSError("NVRTC is not installed")
    for name in sorted(path.parent.glob("libnvrtc-builtins.so.*")):  # it looks on no path
        ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def _text(program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    if getattr(nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)):
        return ""
    text = ctypes.create_string_buffer(size.value)
    return "" if getattr(nvrtc(), f"nvrtcGet{what}")(program, text) else text.value.decode()


def ptx(text: str, *options: str) -> tuple[int, str, str]:
    """Return NVRTC's status (0 if all is well), its log, and PTX."""
    program = ctypes.c_void_p()
    create = nvrtc().nvrtcCreateProgram
    if create(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None):
        raise OSError("nvrtcCreateProgram failed")
    values = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    try:
        status = nvrtc().nvrtcCompileProgram(program, len(options), values)
        return status, _text(program, "ProgramLog"), _text(program, "PTX")
    finally:
        nvrtc().nvrtcDestroyProgram(ctypes.byref(program))


def compiled(text: str, *options: str) -> tuple[int, str, list[str]]:
    """Return the status, the log and the kernels in PTX; what was compiled before is kept."""
    key = "\0".join((str(library()), str(os.path.getmtime(library() or "")), *options, text))
    kept = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.nvrtc.json"
    if kept.exists():
        return tuple(json.loads(kept.read_text()))
    status, log, assembly = ptx(text, *options)
    found = status, log, re.findall(r"\.entry\s+(\w+)", assembly)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found))
    os.replace(part, kept)
    return found
