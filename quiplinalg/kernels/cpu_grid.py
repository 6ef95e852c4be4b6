"""Scale search on the CPU: min-max and clipped min-max ranges, GPTQ's definitions."""

from __future__ import annotations

import math

import numpy as np

from quiplinalg.kernels.cpu_tile import bits_float, float_bits, jit, rint

__all__ = ["fit"]

_SHRINKS = 80  # ranges tried by the clip search: p = 1, 0.99 .. 0.21
_BUCKETS = 16  # of elements by the share of the range they need
_SAMPLE = 256  # elements of a row on which every fourth range is tried first
_STRIDE = 4
_CHUNK = 256  # elements between two looks at whether a range has already lost


@jit(cache=False, inline="always")
def _power(x, exponent):
    """x**exponent for x >= 0 in float32 to a few 1e-6 relative, in operations that vectorise.

    2**(exponent * log2(x)), both by Chebyshev polynomials on [0, 1).
    """
    f = np.float32
    i = float_bits(x)
    u = bits_float(np.int32((i & np.int32(0x7FFFFF)) | np.int32(0x3F800000))) - f(1)
    log2 = f(-0.0245685347)
    log2 = log2 * u + f(0.1176130841)
    log2 = log2 * u + f(-0.2726975649)
    log2 = log2 * u + f(0.4545084922)
    log2 = log2 * u + f(-0.7173127803)
    log2 = log2 * u + f(1.4424535262)
    log2 = log2 * u + f(2.4434387e-06)
    y = exponent * (log2 + f((i >> np.int32(23)) - np.int32(127)))
    y = y if y > f(-126) else f(-126)
    whole = np.floor(y)
    v = y - whole
    power = f(0.0018937541)
    power = power * v + f(0.0089495904)
    power = power * v + f(0.0558603371)
    power = power * v + f(0.2401418182)
    power = power * v + f(0.6931544897)
    power = power * v + f(0.9999998984)
    return power * bits_float(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))


# reassoc lets LLVM sum in vectors; the sum only ranks ranges, and is the same in every call.
@jit(cache=False, fastmath={"reassoc", "contract", "nsz"})
def _chunk_error(x, inverse, zero, maxq, norm):
    total = np.float32(0)
    for k in range(x.size):
        t = x[k] * inverse
        q = rint(t) + zero
        q = q if q > np.float32(0) else np.float32(0)
        q = q if q < maxq else maxq
        total += _power(abs(t - (q - zero)), norm)
    return total


@jit(cache=False)
def _stored(x, significant):
    """x rounded to ``significant`` bits as float16 would (11 bits, least exponent -14)."""
    if significant == 0 or not x > 0:
        return x
    _, exponent = math.frexp(x)
    step = math.ldexp(1.0, max(exponent - 1, -14) - significant + 1)
    return type(x)(rint(x / step) * step)


@jit(cache=False, fastmath={"reassoc", "contract", "nsz"})
def _chunk_error_inside(x, inverse):
    """Sum |error|**2.4 where no x is clipped, so that every error is at most half a step.

    |e|**2.4 = e**2 P(|e|) on [0, 1/2], P by minimax: 4e-6 off on average, 2e-4 at most, of the
    mean of |e|**2.4.
    """
    f = np.float32
    total = f(0)
    for k in range(x.size):
        t = x[k] * inverse
        e = abs(t - rint(t))
        power = f(16.22999265)
        power = power * e + f(-30.26203595)
        power = power * e + f(23.03467374)
        power = power * e + f(-9.541039415)
        power = power * e + f(2.939474396)
        power = power * e + f(0.1782818076)
        total += e * e * power
    return total


@jit(cache=False)
def _error(x, clipped, inverse, zero, maxq, norm, limit):
    """Sum |x - grid(x)|**norm, or infinity as soon as it is known to pass limit.

    Only the first ``clipped`` elements may lie beyond the ends of the grid.
    """
    weight = (1.0 / np.float64(inverse)) ** norm
    total = 0.0
    for j in range(0, clipped, _CHUNK):
        part = x[j : min(j + _CHUNK, clipped)]
        total += weight * _chunk_error(part, inverse, zero, maxq, norm)
        if total > limit:
            return np.inf
    for j in range(clipped, x.size, _CHUNK):
        total += weight * _chunk_error_inside(x[j : j + _CHUNK], inverse)
        if total > limit:
            return np.inf
    return total


@jit(cache=False)
def _far_first(row, least, most, x, start):
    """x = row / reach by descending share of the range that an element needs, in 16 buckets.

    start[b] is where the elements begin that a range of b/16 surely holds.  The far ones come first
    because clipping costs them most.
    """
    reach = max(most, -least)
    upper = np.float32(_BUCKETS / most) if most > 0 else np.float32(0)
    lower = np.float32(_BUCKETS / least) if least < 0 else np.float32(0)
    bucket = np.empty(row.size, np.uint8)
    for j in range(row.size):  # without a branch: the sign of a weight cannot be predicted
        w = np.float32(row[j])
        share = w * upper if w * upper > w * lower else w * lower
        most_share = np.float32(_BUCKETS - 0.5)
        bucket[j] = np.uint8(share if share < most_share else most_share)
    count = np.empty(_BUCKETS, np.int64)
    for b in range(_BUCKETS):
        count[b] = 0
    for j in range(row.size):
        count[bucket[j]] += 1
    place = np.empty(_BUCKETS, np.int64)
    at = 0
    for b in range(_BUCKETS - 1, -1, -1):  # bucket b holds shares of b/16 to (b + 1)/16
        place[b] = start[b + 1] = at
        at += count[b]
    start[0] = at
    inverse = np.float32(1 / reach)
    for j in range(row.size):
        x[place[bucket[j]]] = np.float32(row[j]) * inverse
        place[bucket[j]] += 1


@jit(cache=False)
def _range_at(shrink, least, most, maxq, symmetric, significant):
    """Scale and zero of the range (1 - shrink/100) * [least, most]."""
    kind = type(least)
    p = kind(1) - kind(shrink) / kind(100)
    scale = kind(_stored(p * (most - least) / maxq, significant))
    if symmetric:
        return scale, kind((maxq + 1) / 2)
    return scale, rint(-p * least / scale)


@jit()
def fit(X, maxq, symmetric, clip, norm, significant, scale, zero):
    """Fill scale and zero, each (rows,), with the grid of every row of X.

    Range [min(x, 0), max(x, 0)], symmetric about 0 on request ([-1, 1] for a zero row); with
    clip, the range p * [xmin, xmax] of least sum |error|**norm over p = 1, 0.99 .. 0.21, the
    largest p at equality.  A range is given up as soon as its sum passes the best.
    """
    rows, n = X.shape
    kind = X.dtype.type
    x = np.empty(n, np.float32)
    sample = np.empty(min(n, _SAMPLE), np.float32)
    start = np.empty(_BUCKETS + 1, np.int64)
    f = np.float32
    for i in range(rows):
        least, most = kind(0), kind(0)
        for j in range(n):
            w = X[i, j]
            least = w if w < least else least
            most = w if w > most else most
        if symmetric:
            most = max(most, -least)
            if least < 0:
                least = -most
        zeros = least == 0 and most == 0
        if zeros:
            least, most = kind(-1), kind(1)
        s, o = _range_at(0, least, most, maxq, symmetric, significant)
        if clip and s > 0 and not zeros:  # all ranges hold zeros, the first one first
            reach = max(most, -least)
            _far_first(X[i], least, most, x, start)
            # a symmetric grid covers half the range of a row of one sign: all may be clipped there
            known = norm == 2.4 and not (symmetric and least == 0)
            step = max(1, n // _SAMPLE)
            for j in range(sample.size):
                sample[j] = x[j * step]
            guess, best, best_shrink = 0, np.inf, _SHRINKS
            for turn in range(-_SHRINKS // _STRIDE, _SHRINKS):
                # First a few ranges on a sample: the best one there, tried first on the whole
                # row, ends most of the others early.
                if turn == 0:
                    guess, best, best_shrink = best_shrink, np.inf, _SHRINKS
                if turn < 0:
                    shrink = -_STRIDE * turn - 1
                else:
                    shrink = guess if turn == 0 else (turn - 1 if turn <= guess else turn)
                y, clipped = sample, sample.size
                if turn >= 0:
                    y, clipped = x, n
                    if known:  # a scale rounded to float16 may end a little before the range
                        held = ((100 - shrink) * _BUCKETS) // 100 - (1 if significant > 0 else 0)
                        clipped = start[held]
                s1, o1 = _range_at(shrink, least, most, maxq, symmetric, significant)
                if not s1 > 0:
                    continue
                total = _error(y, clipped, f(reach / s1), f(o1), f(maxq), f(norm), best)
                if total < best or (total == best and shrink < best_shrink):
                    best, best_shrink, s, o = total, shrink, s1, o1
        scale[i], zero[i] = s, o
