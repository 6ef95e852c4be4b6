"""The register tile of the feedback product and of the rounding, emitted as LLVM vectors.

A tile is ``LANES`` rows by 4 columns of F, held in 12 vector registers; each step of the product
F += E U loads 3 vectors of errors and 4 scalars of U and does 12 fused multiply-adds.  Plain Numba
loops do not keep such a tile in registers.  Every element of F is one chain of fused multiply-adds
in ascending k, whatever the blocking: this is what makes codes independent of block and threads.
"""

from __future__ import annotations

import os
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from quiplinalg.kernels.record import PANEL

__all__ = [
    "PANEL",
    "bits_float",
    "float_bits",
    "fma_tile",
    "jit",
    "lanes",
    "panel_offset",
    "rint",
    "round_column",
]

_VECTORS = 3  # vectors of rows in a tile
_INDEX = ir.IntType(64)


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


def jit(cache: bool = True, **options):
    """`numba.njit`, nogil, cached on disk where a cache directory can be written.

    Functions that are only called by other kernels go without: they are part of their callers'
    machine code, and need none of their own.
    """
    if os.environ.get("NUMBA_DISABLE_JIT") == "1":
        raise RuntimeError(
            "The CPU kernels have no pure Python form; got NUMBA_DISABLE_JIT=1. "
            "Unset it, or pass backend='generic'."
        )

    def decorate(function):
        try:
            return njit(nogil=True, cache=cache, error_model="numpy", **options)(function)
        except RuntimeError:  # no locator: neither __pycache__ nor a user cache is writable
            return njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


@intrinsic
def rint(typingctx, x):
    """x rounded to a whole number, ties to even: one instruction where np.rint is a call."""
    if not isinstance(x, types.Float):
        return None

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(signature.args[0])
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [kind]), args)

    return x(x), codegen


@intrinsic
def float_bits(typingctx, x):
    """The bits of a float as an integer of its width."""
    if not isinstance(x, types.Float):
        return None

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return (types.int32 if x == types.float32 else types.int64)(x), codegen


@intrinsic
def bits_float(typingctx, i):
    """The float whose bits an int32 or int64 holds."""
    if i not in (types.int32, types.int64):
        return None

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return (types.float32 if i == types.int32 else types.float64)(i), codegen


@jit(cache=False, inline="always")
def panel_offset(p):
    """Where panel p (columns 4p .. 4p+3, rows 0 .. 4p+3) starts in the packed U."""
    return 8 * p * (p + 1)


class _Vectors:
    """Emits vector code of one element type: loads, stores, arithmetic on a tile's 3 vectors."""

    def __init__(self, context, builder, dtype):
        self.context, self.builder = context, builder
        self.bits = 32 if dtype == types.float32 else 64
        self.width = _vector_bytes() * 8 // self.bits
        self.lanes = _VECTORS * self.width
        self.element = context.get_data_type(dtype)
        self.vector = ir.VectorType(self.element, self.width)

    def data(self, array_type, value):
        return self.context.make_array(array_type)(self.context, self.builder, value).data

    def at(self, base, offset, vector=None):
        pointer = self.builder.gep(base, [offset])
        return self.builder.bitcast(pointer, (vector or self.vector).as_pointer())

    def offset(self, start, number):
        return self.builder.add(start, _INDEX(number))

    def load(self, base, offset, vector=None, align=None):
        value = self.builder.load(self.at(base, offset, vector))
        value.align = align or self.bits // 8
        return value

    def load_row(self, base, offset):
        return [self.load(base, self.offset(offset, v * self.width)) for v in range(_VECTORS)]

    def store(self, value, base, offset, align=None):
        self.builder.store(value, self.at(base, offset, value.type)).align = align or self.bits // 8

    def splat(self, scalar):
        vector = ir.VectorType(scalar.type, self.width)
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def constant(self, value):
        return ir.Constant(self.vector, [value] * self.width)

    def call(self, name, *operands):
        vector = operands[0].type
        bits = 32 if vector.element == ir.FloatType() else 64
        kind = ir.FunctionType(vector, [vector] * len(operands))
        name = f"llvm.{name}.v{self.width}f{bits}"
        function = self.builder.module.globals.get(name) or ir.Function(
            self.builder.module, kind, name
        )
        return self.builder.call(function, operands)

    def loop(self, steps, start, body):
        """Emit for k in range(steps): values = body(k, values); return the last values."""
        builder = self.builder
        entry = builder.block
        head, inside, done = (
            builder.append_basic_block(name) for name in ("tile.head", "tile.body", "tile.done")
        )
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(_INDEX)
        k.add_incoming(_INDEX(0), entry)
        values = [builder.phi(value.type) for value in start]
        for phi, value in zip(values, start, strict=True):
            phi.add_incoming(value, entry)
        builder.cbranch(builder.icmp_signed("<", k, steps), inside, done)
        builder.position_at_end(inside)
        for phi, value in zip(values, body(k, values), strict=True):
            phi.add_incoming(value, builder.block)
        k.add_incoming(builder.add(k, _INDEX(1)), builder.block)
        builder.branch(head)
        builder.position_at_end(done)
        return values


@intrinsic
def fma_tile(typingctx, F, f_at, E, e_at, U, u_at, steps):
    """F[f_at + c*LANES + r] += sum_k E[e_at + k*LANES + r] * U[u_at + k*4 + c], k ascending.

    F, E and U are flat; c runs over the 4 columns and r over the LANES rows of a tile.
    """
    at = types.intp
    signature = types.void(F, at, E, at, U, at, at)

    def codegen(context, builder, signature, args):
        emit = _Vectors(context, builder, signature.args[0].dtype)
        f, e, u = (emit.data(signature.args[i], args[i]) for i in (0, 2, 4))
        _, f_at, _, e_at, _, u_at, steps = args

        def step(k, sums):
            errors = emit.load_row(e, builder.add(e_at, builder.mul(k, _INDEX(emit.lanes))))
            row = builder.gep(u, [builder.add(u_at, builder.mul(k, _INDEX(PANEL)))])
            after = []
            for c in range(PANEL):
                scalar = emit.splat(builder.load(builder.gep(row, [_INDEX(c)])))
                for v in range(_VECTORS):
                    after.append(emit.call("fma", errors[v], scalar, sums[c * _VECTORS + v]))
            return after

        places = [emit.offset(f_at, i * emit.width) for i in range(PANEL * _VECTORS)]
        sums = emit.loop(steps, [emit.load(f, place) for place in places], step)
        for place, total in zip(places, sums, strict=True):
            emit.store(total, f, place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def round_column(
    typingctx, F, f_at, E, e_at, steps, U, u_at, scale, zero, s_at, low, high,
    noise, x_at, stochastic, C, c_at, D, damping, stats, t_at,
):  # fmt: skip
    """Round one column of a tile, after the feedback of the ``steps`` columns before it.

    z = F + sum_k E_k U[u_at + 4k]; y = z / s + frac(o); the code is rint(y) + floor(o), or
    floor(y + noise) + floor(o), clamped; E of this column becomes w - w_hat.  stats gains, per
    row: D eta^2, damping e^2, the least distance to a tie (a minimum), and clipped targets.
    All arrays are flat; ``stochastic`` is a literal int.
    """
    if not isinstance(stochastic, types.IntegerLiteral):
        return None
    at, real = types.intp, F.dtype
    signature = types.void(
        F, at, E, at, at, U, at, scale, zero, at, real, real,
        noise, at, stochastic, C, at, types.float64, types.float64, stats, at,
    )  # fmt: skip
    random = bool(stochastic.literal_value)

    def codegen(context, builder, signature, args):
        emit = _Vectors(context, builder, signature.args[0].dtype)
        f, e, u, s, o, x, c, t = (
            emit.data(signature.args[i], args[i]) for i in (0, 2, 5, 7, 8, 12, 15, 19)
        )
        f_at, e_at, steps, u_at, s_at = (args[i] for i in (1, 3, 4, 6, 9))
        low, high, x_at, c_at, t_at = (args[i] for i in (10, 11, 13, 16, 20))
        double = ir.VectorType(ir.DoubleType(), emit.width)
        code_type = context.get_data_type(signature.args[15].dtype)
        codes = ir.VectorType(code_type, emit.width)
        low, high = emit.splat(low), emit.splat(high)
        D, damping = emit.splat(args[17]), emit.splat(args[18])

        first = builder.sub(e_at, builder.mul(steps, _INDEX(emit.lanes)))

        def step(k, sums):
            errors = emit.load_row(e, builder.add(first, builder.mul(k, _INDEX(emit.lanes))))
            place = builder.add(u_at, builder.mul(k, _INDEX(PANEL)))
            scalar = emit.splat(builder.load(builder.gep(u, [place])))
            return [emit.call("fma", errors[v], scalar, sums[v]) for v in range(_VECTORS)]

        def less(a, b):
            return builder.fcmp_ordered("<", a, b)

        def wide(value):
            return value if emit.bits == 64 else builder.fpext(value, double)

        targets = emit.loop(steps, emit.load_row(f, f_at), step)
        for v, z in enumerate(targets):
            shift = v * emit.width
            step_size = emit.load(s, emit.offset(s_at, shift))
            offset = emit.load(o, emit.offset(s_at, shift))
            whole = emit.call("floor", offset)
            y = builder.fadd(builder.fdiv(z, step_size), builder.fsub(offset, whole))
            stat = [emit.offset(t_at, i * emit.lanes + shift) for i in range(4)]
            if random:
                floats = ir.VectorType(ir.FloatType(), emit.width)
                u01 = emit.load(x, emit.offset(x_at, shift), floats, 4)
                u01 = u01 if emit.bits == 32 else builder.fpext(u01, double)
                k = builder.fadd(emit.call("floor", builder.fadd(y, u01)), whole)
            else:
                k = emit.call("rint", y)
                distance = builder.fsub(emit.constant(0.5), emit.call("fabs", builder.fsub(y, k)))
                y, k, distance = builder.fadd(y, whole), builder.fadd(k, whole), wide(distance)
                inside = builder.and_(builder.fcmp_ordered(">=", y, low), less(y, high))
                tie = emit.load(t, stat[2], double, 8)
                nearer = builder.and_(inside, less(distance, tie))
                emit.store(builder.select(nearer, distance, tie), t, stat[2], 8)
            outside = builder.or_(less(k, low), less(high, k))
            count = emit.load(t, stat[3], double, 8)
            one = ir.Constant(double, [1.0] * emit.width)
            more = builder.select(outside, builder.fadd(count, one), count)
            emit.store(more, t, stat[3], 8)
            k = builder.select(less(k, low), low, k)
            k = builder.select(less(high, k), high, k)
            w_hat = builder.fmul(step_size, builder.fsub(k, offset))
            eta = builder.fsub(wide(w_hat), wide(z))
            place = emit.offset(e_at, shift)
            error = builder.fsub(emit.load(e, place), w_hat)
            emit.store(error, e, place)
            for i, weight, value in ((0, D, eta), (1, damping, wide(error))):
                total = emit.load(t, stat[i], double, 8)
                total = emit.call("fma", weight, builder.fmul(value, value), total)
                emit.store(total, t, stat[i], 8)
            # through int32: a direct conversion to bytes goes lane by lane
            whole_codes = builder.fptosi(k, ir.VectorType(ir.IntType(32), emit.width))
            if code_type != ir.IntType(32):
                whole_codes = builder.trunc(whole_codes, codes)
            emit.store(whole_codes, c, emit.offset(c_at, shift), code_type.width // 8)
        return context.get_dummy_value()

    return signature, codegen
