"""The register tile of the feedback product F += E U, emitted as LLVM vectors through Numba.

A tile is ``LANES`` rows by 4 columns of F, held in 12 vector registers; each step of the loop
loads 3 vectors of errors and 4 scalars of U and does 12 fused multiply-adds.  Plain Numba loops
do not keep such a tile in registers.  Every element of F is one chain of fused multiply-adds in
ascending k, whatever the blocking: this is what makes codes independent of block and threads.
"""

from __future__ import annotations

import os
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["PANEL", "fma", "fma_tile", "jit", "lanes", "panel_offset", "rint"]

PANEL = 4  # columns of a tile
_VECTORS = 3  # vectors of rows in a tile


@cache
def _vector_bytes() -> int:
    """Bytes of a vector register: 64 with AVX-512, else 32 (LLVM splits it where it is 16)."""
    try:
        return 64 if llvm.get_host_cpu_features().get("avx512f", False) else 32
    except RuntimeError:
        return 32


def lanes(dtype: np.dtype) -> int:
    """Rows of a tile: 24 in float32 and 12 in float64 on AVX2, twice that on AVX-512."""
    return _VECTORS * _vector_bytes() // np.dtype(dtype).itemsize


def jit(**options):
    """`numba.njit`, nogil, cached on disk where a cache directory can be written."""

    def decorate(function):
        try:
            return njit(nogil=True, cache=True, error_model="numpy", **options)(function)
        except RuntimeError:  # no locator: neither __pycache__ nor a user cache is writable
            return njit(nogil=True, error_model="numpy", **options)(function)

    if os.environ.get("NUMBA_DISABLE_JIT") == "1":
        raise RuntimeError(
            "The CPU kernels have no pure Python form; got NUMBA_DISABLE_JIT=1. "
            "Unset it, or pass backend='generic'."
        )
    return decorate


def _unary(name: str):
    @intrinsic
    def call(typingctx, x):
        if not isinstance(x, types.Float):
            return None

        def codegen(context, builder, signature, args):
            kind = context.get_value_type(signature.args[0])
            return builder.call(builder.module.declare_intrinsic(name, [kind]), args)

        return x(x), codegen

    return call


rint = _unary("llvm.rint")  # ties to even; one vroundps where a ufunc call would not vectorise


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c with one rounding."""
    if not (isinstance(a, types.Float) and a == b == c):
        return None

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(signature.args[0])
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind, [kind] * 3),
            "llvm.fma.f32" if signature.args[0] == types.float32 else "llvm.fma.f64",
        )
        return builder.call(function, args)

    return a(a, b, c), codegen


@jit(inline="always")
def panel_offset(p):
    """Where panel p (columns 4p .. 4p+3, rows 0 .. 4p+3) starts in the packed U."""
    return 8 * p * (p + 1)


@intrinsic
def fma_tile(typingctx, F, f_at, E, e_at, U, u_at, steps):
    """F[f_at + c*LANES + r] += sum_k E[e_at + k*LANES + r] * U[u_at + k*4 + c], k ascending.

    F, E and U are flat; c runs over the 4 columns and r over the LANES rows of a tile.
    """
    signature = types.void(F, types.intp, E, types.intp, U, types.intp, types.intp)

    def codegen(context, builder, signature, args):
        element = context.get_data_type(signature.args[0].dtype)
        bits = 32 if signature.args[0].dtype == types.float32 else 64
        width = _vector_bytes() * 8 // bits
        step = _VECTORS * width
        vector = ir.VectorType(element, width)
        index, i32 = ir.IntType(64), ir.IntType(32)
        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{width}f{bits}"
        )
        f_data, e_data, u_data = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 4)
        )
        _, f_at, _, e_at, _, u_at, steps = args

        def at(base, offset):
            pointer = builder.gep(base, [offset])
            return builder.bitcast(pointer, vector.as_pointer())

        def load(base, offset):
            value = builder.load(at(base, offset))
            value.align = bits // 8
            return value

        def splat(scalar):
            undefined = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(undefined, scalar, i32(0))
            zeros = ir.Constant(ir.VectorType(i32, width), [0] * width)
            return builder.shuffle_vector(first, undefined, zeros)

        places = [
            builder.add(f_at, index(c * step + v * width))
            for c in range(PANEL)
            for v in range(_VECTORS)
        ]
        start = [load(f_data, place) for place in places]
        entry = builder.block
        head = builder.append_basic_block("tile.head")
        body = builder.append_basic_block("tile.body")
        done = builder.append_basic_block("tile.done")
        builder.branch(head)

        builder.position_at_end(head)
        k = builder.phi(index)
        k.add_incoming(index(0), entry)
        sums = []
        for value in start:
            phi = builder.phi(vector)
            phi.add_incoming(value, entry)
            sums.append(phi)
        builder.cbranch(builder.icmp_signed("<", k, steps), body, done)

        builder.position_at_end(body)
        e_row = builder.add(e_at, builder.mul(k, index(step)))
        errors = [load(e_data, builder.add(e_row, index(v * width))) for v in range(_VECTORS)]
        u_row = builder.gep(u_data, [builder.add(u_at, builder.mul(k, index(PANEL)))])
        for c in range(PANEL):
            u = splat(builder.load(builder.gep(u_row, [index(c)])))
            for v in range(_VECTORS):
                phi = sums[c * _VECTORS + v]
                phi.add_incoming(builder.call(fused, [errors[v], u, phi]), builder.block)
        k.add_incoming(builder.add(k, index(1)), builder.block)
        builder.branch(head)

        builder.position_at_end(done)
        for place, total in zip(places, sums, strict=True):
            builder.store(total, at(f_data, place)).align = bits // 8
        return context.get_dummy_value()

    return signature, codegen
