"""Vector code of the rotations, and blocks transposed in registers.

In a rotation a vector holds one coordinate of as many rows as it has lanes, so every step works on
whole vectors, and a permutation of the coordinates moves vectors; rows become lanes, and lanes
rows, by transposing square blocks.  Emitted as LLVM vectors: plain Numba loops would not keep a
block in registers.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from quiplinalg.kernels.cpu_tile import _vector_bytes
from quiplinalg.kernels.record import OUTPUTS

__all__ = [
    "FIBRES",
    "FLIP",
    "VECTOR_BYTES",
    "butterflies",
    "drain",
    "farthest",
    "flip_block",
    "fold",
    "load_block",
    "move",
    "product",
    "store_block",
    "vector",
]

_INDEX = ir.IntType(64)
_INT = ir.IntType(32)
_AHEAD = 4  # vectors between what is read and what is asked for
FLIP = 8  # rows and columns of a block that is transposed
VECTOR_BYTES = _vector_bytes()
FIBRES = 2 if VECTOR_BYTES == 64 else 1  # multiplied at a time: 16 registers do not hold more


def vector(dtype: np.dtype) -> int:
    """Lanes of a vector register: 8 in float32 and 4 in float64 on AVX2, twice that on AVX-512."""
    return _vector_bytes() // np.dtype(dtype).itemsize


class _Lanes:
    """Emits loads, stores and arithmetic on vectors of one element type."""

    def __init__(self, context, builder, dtype, width=None):
        self.context, self.builder = context, builder
        self.element = context.get_data_type(dtype)
        self.size = dtype.bitwidth // 8
        self.width = width or _vector_bytes() // self.size
        self.type = ir.VectorType(self.element, self.width)

    def data(self, array_type, value):
        return self.context.make_array(array_type)(self.context, self.builder, value).data

    def plus(self, start, step, times):
        """start + times * step, times a Python int."""
        return self.builder.add(start, self.builder.mul(step, _INDEX(times)))

    def scalar(self, base, offset):
        return self.builder.load(self.builder.gep(base, [offset]))

    def at(self, base, offset):
        return self.builder.bitcast(self.builder.gep(base, [offset]), self.type.as_pointer())

    def load(self, base, offset):
        value = self.builder.load(self.at(base, offset))
        value.align = self.size
        return value

    def store(self, value, base, offset):
        self.builder.store(value, self.at(base, offset)).align = self.size

    def prefetch(self, base, offset):
        """Ask for a vector that is read once: it need not stay in the second-level cache."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        name = "llvm.prefetch.p0i8"
        function = self.builder.module.globals.get(name) or ir.Function(
            self.builder.module, kind, name
        )
        place = self.builder.bitcast(self.builder.gep(base, [offset]), byte)
        self.builder.call(function, [place, _INT(0), _INT(0), _INT(1)])

    def splat(self, scalar):
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _INT(0))
        zeros = ir.Constant(ir.VectorType(_INT, self.width), [0] * self.width)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def fma(self, a, b, c):
        name = f"llvm.fma.v{self.width}f{8 * self.size}"
        kind = ir.FunctionType(self.type, [self.type] * 3)
        function = self.builder.module.globals.get(name) or ir.Function(
            self.builder.module, kind, name
        )
        return self.builder.call(function, [a, b, c])

    def transpose(self, rows):
        """The transpose of a square block: the two halves change places at every power of two."""
        half = 1
        while half < self.width:
            low = [i if not i & half else self.width + i - half for i in range(self.width)]
            high = [i + half if not i & half else self.width + i for i in range(self.width)]
            masks = [ir.Constant(ir.VectorType(_INT, self.width), m) for m in (low, high)]
            for i in range(self.width):
                if not i & half:
                    pair = rows[i], rows[i + half]
                    rows[i], rows[i + half] = (
                        self.builder.shuffle_vector(*pair, mask) for mask in masks
                    )
            half *= 2
        return rows


@intrinsic
def load_block(typingctx, X, x_at, x_step, work, place, coefficients, j):
    """work[place[j + c]*L + r] = X[x_at + r*x_step + c] coefficients[j + c], r and c < L."""
    at = types.intp
    signature = types.void(X, at, at, work, place, coefficients, at)

    def codegen(context, builder, signature, args):
        emit = _Lanes(context, builder, signature.args[3].dtype)
        x, w, p, s = (emit.data(signature.args[i], args[i]) for i in (0, 3, 4, 5))
        _, x_at, x_step, _, _, _, j = args
        for r in range(emit.width):
            emit.prefetch(x, emit.plus(builder.add(x_at, _INDEX(_AHEAD * emit.width)), x_step, r))
        rows = [emit.load(x, emit.plus(x_at, x_step, r)) for r in range(emit.width)]
        for c, column in enumerate(emit.transpose(rows)):
            here = builder.add(j, _INDEX(c))
            value = builder.fmul(column, emit.splat(emit.scalar(s, here)))
            emit.store(value, w, builder.mul(emit.scalar(p, here), _INDEX(emit.width)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def store_block(typingctx, work, place, coefficients, j, out, o_at, o_step):
    """out[o_at + r*o_step + c] = work[place[j + c]*L + r] coefficients[j + c], r and c < L."""
    at = types.intp
    signature = types.void(work, place, coefficients, at, out, at, at)

    def codegen(context, builder, signature, args):
        emit = _Lanes(context, builder, signature.args[0].dtype)
        w, p, s, o = (emit.data(signature.args[i], args[i]) for i in (0, 1, 2, 4))
        _, _, _, j, _, o_at, o_step = args
        columns = []
        for c in range(emit.width):
            here = builder.add(j, _INDEX(c))
            value = emit.load(w, builder.mul(emit.scalar(p, here), _INDEX(emit.width)))
            columns.append(builder.fmul(value, emit.splat(emit.scalar(s, here))))
        for r, row in enumerate(emit.transpose(columns)):
            emit.store(row, o, emit.plus(o_at, o_step, r))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def flip_block(typingctx, target, to, to_step, source, fro, fro_step):
    """target[to + r*to_step + c] = source[fro + c*fro_step + r], r and c < FLIP."""
    at = types.intp
    signature = types.void(target, at, at, source, at, at)

    def codegen(context, builder, signature, args):
        emit = _Lanes(context, builder, signature.args[0].dtype, FLIP)
        t, s = emit.data(signature.args[0], args[0]), emit.data(signature.args[3], args[3])
        _, to, to_step, _, fro, fro_step = args
        rows = [emit.load(s, emit.plus(fro, fro_step, r)) for r in range(emit.width)]
        for r, row in enumerate(emit.transpose(rows)):
            emit.store(row, t, emit.plus(to, to_step, r))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def farthest(typingctx, H, a_at, b_at, step, most):
    """most[r] = max(most[r], |H[a_at + r*step + c] - H[b_at + c*step + r]|), r and c < L, as bits.

    ``most`` holds whole numbers of H's width: bits order NaN last, and floats by their size.
    """
    at = types.intp
    signature = types.void(H, at, at, at, most)

    def codegen(context, builder, signature, args):
        emit = _Lanes(context, builder, signature.args[0].dtype)
        h, found = emit.data(signature.args[0], args[0]), emit.data(signature.args[4], args[4])
        _, a_at, b_at, step, _ = args
        whole = ir.VectorType(ir.IntType(8 * emit.size), emit.width)
        sign = ir.Constant(whole, [2 ** (8 * emit.size - 1) - 1] * emit.width)
        place = builder.bitcast(found, whole.as_pointer())
        largest = builder.load(place)
        largest.align = emit.size
        rows = [emit.load(h, emit.plus(a_at, step, r)) for r in range(emit.width)]
        others = emit.transpose([emit.load(h, emit.plus(b_at, step, r)) for r in range(emit.width)])
        for row, other in zip(rows, others, strict=True):
            bits = builder.and_(builder.bitcast(builder.fsub(row, other), whole), sign)
            larger = builder.icmp_signed(">", bits, largest)
            largest = builder.select(larger, bits, largest)
        builder.store(largest, place).align = emit.size
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def move(typingctx, target, t_at, source, s_at, scale, past):
    """target[t_at + r] = source[s_at + r] scale, r < L.

    ``past`` is a literal: 1 writes past the caches, and only where the target is a whole number of
    vectors from address 0; `drain` then makes it visible to other threads.
    """
    if not isinstance(past, types.IntegerLiteral):
        return None
    signature = types.void(target, types.intp, source, types.intp, target.dtype, past)

    def codegen(context, builder, signature, args):
        emit = _Lanes(context, builder, signature.args[0].dtype)
        t, s = emit.data(signature.args[0], args[0]), emit.data(signature.args[2], args[2])
        value = builder.fmul(emit.load(s, args[3]), emit.splat(args[4]))
        store = builder.store(value, emit.at(t, args[1]))
        store.align = emit.size
        if past.literal_value:
            store.align = emit.size * emit.width
            store.set_metadata("nontemporal", builder.module.add_metadata([_INT(1)]))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def drain(typingctx):
    """Make what was written past the caches visible to other threads."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def fold(typingctx, work, sum_at, difference_at, a_at, b_at):
    """The sum and the difference of the vectors at a_at and b_at, to sum_at and difference_at."""
    at = types.intp
    signature = types.void(work, at, at, at, at)

    def codegen(context, builder, signature, args):
        emit = _Lanes(context, builder, signature.args[0].dtype)
        w = emit.data(signature.args[0], args[0])
        a, b = emit.load(w, args[3]), emit.load(w, args[4])
        emit.store(builder.fadd(a, b), w, args[1])
        emit.store(builder.fsub(a, b), w, args[2])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def butterflies(typingctx, work, at, step, levels):
    """Walsh-Hadamard transform of the 2^levels vectors work[at + i*step ..]; levels is literal."""
    if not isinstance(levels, types.IntegerLiteral):
        return None
    count = 2**levels.literal_value
    signature = types.void(work, types.intp, types.intp, levels)

    def codegen(context, builder, signature, args):
        emit = _Lanes(context, builder, signature.args[0].dtype)
        w = emit.data(signature.args[0], args[0])
        places = [emit.plus(args[1], args[2], i) for i in range(count)]
        values = [emit.load(w, place) for place in places]
        half = 1
        while half < count:
            for i in range(count):
                if not i & half:
                    a, b = values[i], values[i + half]
                    values[i], values[i + half] = builder.fadd(a, b), builder.fsub(a, b)
            half *= 2
        for place, value in zip(places, values, strict=True):
            emit.store(value, w, place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def product(typingctx, work, y_at, y_step, y_next, count, x_at, U, u_at, steps):
    """work[y_at + v*y_next + c*y_step] = sum_k work[x_at + (k*FIBRES + v)*L] U[k, c].

    U[k, c] is at u_at + k*OUTPUTS + c.  Vectors of L lanes, v < FIBRES; OUTPUTS of them are
    computed and c < count stored; k ascends.
    """
    at = types.intp
    signature = types.void(work, at, at, at, at, at, U, at, at)

    def codegen(context, builder, signature, args):
        emit = _Lanes(context, builder, signature.args[0].dtype)
        w, u = emit.data(signature.args[0], args[0]), emit.data(signature.args[6], args[6])
        _, y_at, y_step, y_next, count, x_at, _, u_at, steps = args
        entry = builder.block
        head, inside, done = (
            builder.append_basic_block(name) for name in ("sum.head", "sum.body", "sum.done")
        )
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(_INDEX)
        k.add_incoming(_INDEX(0), entry)
        sums = [[builder.phi(emit.type) for _ in range(FIBRES)] for _ in range(OUTPUTS)]
        for total in (one for pair in sums for one in pair):
            total.add_incoming(ir.Constant(emit.type, [0.0] * emit.width), entry)
        builder.cbranch(builder.icmp_signed("<", k, steps), inside, done)
        builder.position_at_end(inside)
        here = builder.add(x_at, builder.mul(k, _INDEX(FIBRES * emit.width)))
        x = [emit.load(w, builder.add(here, _INDEX(v * emit.width))) for v in range(FIBRES)]
        row = builder.add(u_at, builder.mul(k, _INDEX(OUTPUTS)))
        for c, pair in enumerate(sums):
            scalar = emit.splat(emit.scalar(u, builder.add(row, _INDEX(c))))
            for v, total in enumerate(pair):
                total.add_incoming(emit.fma(x[v], scalar, total), inside)
        k.add_incoming(builder.add(k, _INDEX(1)), inside)
        builder.branch(head)
        builder.position_at_end(done)
        for c, pair in enumerate(sums):
            with builder.if_then(builder.icmp_signed("<", _INDEX(c), count)):
                place = emit.plus(y_at, y_step, c)
                for v, total in enumerate(pair):
                    emit.store(total, w, emit.plus(place, y_next, v))
        return context.get_dummy_value()

    return signature, codegen
