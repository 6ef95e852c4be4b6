"""Dense packing of codes: one LSB-first bit stream a row, as MatMulNBits, GPTQ v2 and MLX read."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.device_arrays import device_of
from quiplinalg.errors import DTypeError, InvalidArgumentError
from quiplinalg.kernels.record import DeviceKernels, select
from quiplinalg.parallel import run_all
from quiplinalg.restore import restore_on_device

__all__ = ["pack", "unpack"]

_CODES_AT_ONCE = 1 << 18  # a few arrays of as many bytes stay in the cache
# fields of 8, 16 and 32 bits, and a word with the lower field of every two set
_FIELDS = ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF))


def _check_bits(bits: int) -> int:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= 8:
        raise InvalidArgumentError(
            f"bits must be a whole number from 1 to 8; got bits={bits!r}. "
            "Use the width the codes were made with."
        )
    return int(bits)


def _check_count(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise InvalidArgumentError(
            f"n must be a whole number, at least 0; got n={n!r}. Pass the number of codes in a "
            "row, codes.shape[1]."
        )
    return int(n)


def _check_codes(codes: Any) -> None:
    if codes.dtype != np.uint8 or codes.ndim != 2:
        if codes.dtype != np.uint8:
            fix = "Pass np.asarray(codes, np.uint8); those of an unbounded grid cannot be packed"
        elif codes.ndim == 3:
            fix = "Of a stack pack each member: pack(stack[i].codes, bits)"
        else:
            fix = "Pass codes.reshape(1, -1) for a single row"
        raise DTypeError(
            f"codes must be an (m, n) uint8 array; got {codes.dtype} of shape {codes.shape}. {fix}."
        )


def _check_largest(largest: int, bits: int) -> None:
    if largest >= 1 << bits:
        raise InvalidArgumentError(
            f"codes must be below 2**bits = {1 << bits}; got a code of {largest}. "
            "Pass the width the codes were made with."
        )


def _check_packed(packed: Any, bits: int, n: int) -> None:
    if packed.dtype != np.uint8 or packed.ndim != 2:
        raise DTypeError(
            f"packed must be a 2-D uint8 array; got {packed.dtype} of shape {packed.shape}. "
            "Reshape the stream to one row of bytes per row of codes."
        )
    if packed.shape[1] != -(-n * bits // 8):
        raise InvalidArgumentError(
            f"packed must have ceil(n * bits / 8) = {-(-n * bits // 8)} bytes a row for n={n} and "
            f"bits={bits}; got {packed.shape[1]}. Check n and bits."
        )


def _rows(columns: int) -> int:
    return max(1, _CODES_AT_ONCE // max(columns, 1))


def _squeeze(words: np.ndarray, bits: int) -> None:
    """Move the 8 codes of each word, one a byte, together: code j to bit j*bits."""
    for width, lower in _FIELDS:
        upper = (words >> width) & lower
        words &= lower
        words |= upper << (width // 8 * bits)


def _spread(words: np.ndarray, bits: int) -> None:
    """Undo `_squeeze`."""
    for width, lower in reversed(_FIELDS):
        held = width // 8 * bits  # bits of a field that hold codes
        lower &= lower >> (width - held)
        upper = (words >> held) & lower
        words &= lower
        words |= upper << width


def pack(codes: Any, bits: int) -> Any:
    """Pack codes of ``bits`` bits into bytes, least significant bit first.

    Parameters
    ----------
    codes : array, (m, n), uint8
        Values 0 .. 2**bits - 1; on the host, or on a CUDA device, where they are packed.
    bits : int
        1 to 8.

    Returns
    -------
    array, (m, ceil(n * bits / 8)), uint8
        Of NumPy, or on the device in the library of ``codes``.  Code j of a row takes bits
        j*bits .. (j+1)*bits - 1 of the row's stream; the last byte is filled with zeros.

    Raises
    ------
    InvalidArgumentError, DTypeError
        A code that does not fit; not a uint8 matrix.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> codes = np.array([[1, 2, 3, 0, 1]], np.uint8)
    >>> ql.pack(codes, 2)
    array([[57,  1]], dtype=uint8)
    >>> (ql.unpack(ql.pack(codes, 2), 2, 5) == codes).all()
    np.True_
    """
    bits = _check_bits(bits)
    if device_of(codes) is not None:
        return _pack_on_device(codes, bits)
    codes = np.asarray(codes)
    _check_codes(codes)
    _check_largest(int(codes.max()) if codes.size else 0, bits)
    m, n = codes.shape
    packed = np.empty((m, -(-n * bits // 8)), np.uint8)

    def part(i: int) -> None:
        rows = codes[i : i + _rows(n)]
        eights = np.zeros((rows.shape[0], -(-n // 8), 8), np.uint8)
        eights.reshape(rows.shape[0], -1)[:, :n] = rows
        _squeeze(eights.view("<u8"), bits)
        whole = eights[:, :, :bits].reshape(rows.shape[0], -1)
        packed[i : i + _rows(n)] = whole[:, : packed.shape[1]]

    run_all(part, [(i,) for i in range(0, m, _rows(n))])
    return packed


def unpack(packed: Any, bits: int, n: int) -> Any:
    """Return the (m, n) uint8 codes that `pack` made ``packed`` from.

    Parameters
    ----------
    packed : array, (m, ceil(n * bits / 8)), uint8
        On the host, or on a CUDA device, where it is unpacked.
    bits : int
        1 to 8.
    n : int
        Codes in a row.

    Returns
    -------
    array, (m, n), uint8
        Of NumPy, or on the device in the library of ``packed``.

    Raises
    ------
    InvalidArgumentError, DTypeError
        The width of ``packed`` does not fit n and bits, or these are no whole numbers; not a
        uint8 matrix.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.unpack(np.array([[57, 1]], np.uint8), 2, 5)
    array([[1, 2, 3, 0, 1]], dtype=uint8)
    """
    bits, n = _check_bits(bits), _check_count(n)
    if device_of(packed) is not None:
        return _unpack_on_device(packed, bits, n)
    packed = np.asarray(packed)
    _check_packed(packed, bits, n)
    m = packed.shape[0]
    codes = np.empty((m, n), np.uint8)

    def part(i: int) -> None:
        rows = packed[i : i + _rows(n)]
        whole = np.zeros((rows.shape[0], -(-n // 8) * bits), np.uint8)
        whole[:, : rows.shape[1]] = rows
        eights = np.zeros((rows.shape[0], -(-n // 8), 8), np.uint8)
        eights[:, :, :bits] = whole.reshape(rows.shape[0], -1, bits)
        _spread(eights.view("<u8"), bits)
        codes[i : i + _rows(n)] = eights.reshape(rows.shape[0], -1)[:, :n]

    run_all(part, [(i,) for i in range(0, m, _rows(n))])
    return codes


def _pack_on_device(codes: Any, bits: int) -> Any:
    kernels = _device_kernels(codes)
    with kernels.running(codes):
        own = kernels.read(codes, "codes", integers=True)
        _check_codes(own)
        m, n = own.shape
        packed = kernels.xp.empty((m, -(-n * bits // 8)), np.uint8)
        worst = kernels.pack(kernels.xp.ascontiguousarray(own), bits, packed)
        _check_largest(int(worst[0]), bits)
        return restore_on_device(codes)(packed)


def _unpack_on_device(packed: Any, bits: int, n: int) -> Any:
    kernels = _device_kernels(packed)
    with kernels.running(packed):
        own = kernels.read(packed, "packed", integers=True)
        _check_packed(own, bits, n)
        codes = kernels.xp.empty((own.shape[0], n), np.uint8)
        kernels.unpack(kernels.xp.ascontiguousarray(own), bits, codes)
        return restore_on_device(packed)(codes)


def _device_kernels(codes: Any) -> DeviceKernels:
    kernels = select("cuda", codes=codes)
    assert isinstance(kernels, DeviceKernels)
    return kernels
