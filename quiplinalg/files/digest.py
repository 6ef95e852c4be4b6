"""The content of a layer as one short text, to tell whether a file is still what it was."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
from h5py import h5d

from quiplinalg.files.bfloat16 import BFLOAT16
from quiplinalg.files.elements import attribute_text, read_array
from quiplinalg.files.guard import format_errors

__all__ = ["dataset_digest"]

_PIECE = 8 << 20  # bytes


def dataset_digest(dataset: h5py.Dataset) -> str:
    """SHA-256 of the shape, the dtype, the attributes and the stored elements of a dataset.

    Contiguous data are read from the file piece by piece, others into memory.
    """
    path = dataset.file.filename
    with format_errors(path, dataset.name):
        found = hashlib.sha256(f"{dataset.shape} {dataset.dtype}\n".encode())
        found.update(attribute_text(dataset).encode())
        offset = dataset.id.get_offset()
        if dataset.id.get_create_plist().get_layout() == h5d.CONTIGUOUS and offset is not None:
            with open(path, "rb", buffering=0) as file:
                file.seek(offset)
                left = dataset.id.get_storage_size()
                piece = memoryview(bytearray(min(_PIECE, max(left, 1))))
                while left:
                    count = file.readinto(piece[: min(left, len(piece))])
                    if not count:
                        raise OSError("the file ends before its data")
                    found.update(piece[:count])
                    left -= count
        else:
            array = np.ascontiguousarray(read_array(dataset))
            raw = array.view(np.uint16) if array.dtype == BFLOAT16 else array
            found.update(raw.reshape(-1).view(np.uint8).data if raw.size else b"")
    return found.hexdigest()
