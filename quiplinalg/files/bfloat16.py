"""bfloat16 as a true 16-bit HDF5 float type, raw bits in both directions.

HDF5 itself never converts: its float32 to bfloat16 conversion rounds ties and overflow wrongly.
"""

from __future__ import annotations

import h5py
import ml_dtypes
import numpy as np
from h5py import h5d, h5s, h5t

__all__ = ["BFLOAT16", "is_bfloat16", "is_opaque_bfloat16", "read_bfloat16", "write_bfloat16"]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_FIELDS = (15, 7, 8, 0, 7)  # sign at bit 15, 8 exponent bits from bit 7, 7 mantissa bits from 0
_BIAS = 127


def _file_type() -> h5t.TypeFloatID:
    kind = h5t.IEEE_F16LE.copy()
    kind.set_fields(*_FIELDS)
    kind.set_ebias(_BIAS)
    return kind


def is_bfloat16(dataset: h5py.Dataset) -> bool:
    """Whether the elements are a 16-bit HDF5 float with the fields of bfloat16."""
    kind = dataset.id.get_type()
    return (
        isinstance(kind, h5t.TypeFloatID)
        and kind.get_size() == 2
        and kind.get_fields() == _FIELDS
        and kind.get_ebias() == _BIAS
    )


def is_opaque_bfloat16(dataset: h5py.Dataset) -> bool:
    """Whether the elements are two opaque bytes, as Keras stores bfloat16 (the caller must check
    the attribute ``dtype``)."""
    kind = dataset.id.get_type()
    return isinstance(kind, h5t.TypeOpaqueID) and kind.get_size() == 2


def write_bfloat16(group: h5py.Group, name: str, array: np.ndarray) -> h5py.Dataset:
    """Write a C-ordered bfloat16 array of any shape as the contiguous dataset ``name``."""
    kind = _file_type()
    dataset = h5d.create(group.id, name.encode(), kind, h5s.create_simple(array.shape))
    bits = np.ascontiguousarray(array).view(np.uint16).astype("<u2", copy=False)
    if array.size:
        dataset.write(h5s.ALL, h5s.ALL, bits, mtype=kind)
    return group[name]


def read_bfloat16(dataset: h5py.Dataset, part: tuple[slice, ...] | None = None) -> np.ndarray:
    """Read either encoding as an array of ``ml_dtypes.bfloat16``, all of it or one block."""
    kind = dataset.id.get_type()
    big = isinstance(kind, h5t.TypeFloatID) and kind.get_order() == h5t.ORDER_BE
    if isinstance(kind, h5t.TypeFloatID):
        shape, memory, file = dataset.shape, h5s.ALL, h5s.ALL
        if part is not None:
            shape = tuple(each.stop - each.start for each in part)
            memory, file = h5s.create_simple(shape), dataset.id.get_space()
            file.select_hyperslab(tuple(each.start for each in part), shape)
        bits = np.empty(shape, ">u2" if big else "<u2")
        if bits.size:
            dataset.id.read(memory, file, bits, mtype=kind)
    else:
        bits = np.asarray(dataset[() if part is None else part]).view("<u2")
    return bits.astype(np.uint16, copy=False).view(BFLOAT16)
