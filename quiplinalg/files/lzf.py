"""How much an LZF stream unpacks to, without unpacking it."""

from __future__ import annotations

__all__ = ["lzf_length"]


def lzf_length(stream: bytes) -> int:
    """Bytes after unpacking; -1 for a stream that ends inside a token.

    A token is a control byte c < 32 with c + 1 literal bytes after it, or a copy of (c >> 5) + 2
    bytes, where a length field of 7 is continued in the next byte, and of one more byte of offset.

    Examples
    --------
    >>> lzf_length(b"\\x01ab" + b"\\x20\\x00"), lzf_length(b"\\x09ab")
    (5, -1)
    """
    at = length = 0
    end = len(stream)
    try:
        while at < end:
            control = stream[at]
            field = control >> 5
            if not field:
                at, length = at + control + 2, length + control + 1
            elif field < 7:
                at, length = at + 2, length + field + 2
            else:
                at, length = at + 3, length + 9 + stream[at + 1]
    except IndexError:
        return -1
    return length if at == end else -1
