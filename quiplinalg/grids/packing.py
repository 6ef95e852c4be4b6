"""Dense packing of codes: one LSB-first bit stream a row, as MatMulNBits, GPTQ v2 and MLX read."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import DTypeError, InvalidArgumentError
from quiplinalg.parallel import run_all

__all__ = ["pack", "unpack"]

_ROWS_AT_ONCE = 1 << 20  # codes expanded to single bits at a time


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= 8:
        raise InvalidArgumentError(
            f"bits must be a whole number from 1 to 8; got bits={bits!r}. "
            "Use the width the codes were made with."
        )


def _rows(columns: int) -> int:
    return max(1, _ROWS_AT_ONCE // max(columns, 1))


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes of ``bits`` bits into bytes, least significant bit first.

    Parameters
    ----------
    codes : ndarray, (m, n), uint8
        Values 0 .. 2**bits - 1.
    bits : int
        1 to 8.

    Returns
    -------
    ndarray, (m, ceil(n * bits / 8)), uint8
        Code j of a row takes bits j*bits .. (j+1)*bits - 1 of the row's stream; the last byte is
        filled with zeros.

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
    _check_bits(bits)
    codes = np.asarray(codes)
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise DTypeError(
            f"codes must be an (m, n) uint8 array; got {codes.dtype} of shape {codes.shape}. "
            "Codes on an unbounded grid cannot be packed."
        )
    if codes.size and int(codes.max()) >= 1 << bits:
        raise InvalidArgumentError(
            f"codes must be below 2**bits = {1 << bits}; got a code of {int(codes.max())}. "
            "Pass the width the codes were made with."
        )
    m, n = codes.shape
    packed = np.empty((m, -(-n * bits // 8)), np.uint8)

    def part(i: int) -> None:
        rows = codes[i : i + _rows(n)]
        single = np.unpackbits(rows[:, :, None], axis=2, count=bits, bitorder="little")
        packed[i : i + _rows(n)] = np.packbits(
            single.reshape(rows.shape[0], n * bits), axis=1, bitorder="little"
        )

    run_all(part, [(i,) for i in range(0, m, _rows(n))])
    return packed


def unpack(packed: np.ndarray, bits: int, n: int) -> np.ndarray:
    """Return the (m, n) uint8 codes that `pack` made ``packed`` from.

    Parameters
    ----------
    packed : ndarray, (m, ceil(n * bits / 8)), uint8
    bits : int
        1 to 8.
    n : int
        Codes in a row.

    Returns
    -------
    ndarray, (m, n), uint8

    Raises
    ------
    InvalidArgumentError, DTypeError
        The width of ``packed`` does not fit n and bits; not a uint8 matrix.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.unpack(np.array([[57, 1]], np.uint8), 2, 5)
    array([[1, 2, 3, 0, 1]], dtype=uint8)
    """
    _check_bits(bits)
    packed = np.asarray(packed)
    if packed.dtype != np.uint8 or packed.ndim != 2:
        raise DTypeError(
            f"packed must be a 2-D uint8 array; got {packed.dtype} of shape {packed.shape}. "
            "Reshape the stream to one row of bytes per row of codes."
        )
    if n < 0 or packed.shape[1] != -(-n * bits // 8):
        raise InvalidArgumentError(
            f"packed must have ceil(n * bits / 8) = {-(-n * bits // 8)} bytes a row for n={n} and "
            f"bits={bits}; got {packed.shape[1]}. Check n and bits."
        )
    m = packed.shape[0]
    codes = np.empty((m, n), np.uint8)
    for i in range(0, m, _rows(n)):
        rows = packed[i : i + _rows(n)]
        single = np.unpackbits(rows, axis=1, count=n * bits, bitorder="little")
        codes[i : i + _rows(n)] = np.packbits(
            single.reshape(rows.shape[0], n, bits), axis=2, bitorder="little"
        )[:, :, 0]
    return codes
