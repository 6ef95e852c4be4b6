"""Result files in memory: one layer each, to be written to the disk in one go."""

from __future__ import annotations

import io
import os

import h5py

from quiplinalg.files.guard import format_errors, split_name
from quiplinalg.files.result import ResultReader
from quiplinalg.files.result_layer import stored_layer, write_layer
from quiplinalg.files.result_writer import ResultWriter
from quiplinalg.files.writer import start_file, written_by
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized

__all__ = ["layer_image", "open_image"]


def layer_image(name: str, layer: Quantized | Pruned, /, **attributes: str | int | float) -> bytes:
    """The bytes of a result file with one layer; the parameters are those of `ResultWriter.add`.

    Costs the size of the file in memory.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> image = layer_image("dense", ql.ldlq(np.ones((2, 3)), np.eye(3)), note=7)
    >>> with open_image(image, "dense.h5") as file:
    ...     file.names, file.layer("dense").codes.shape, file.attributes("dense")
    (('dense',), (2, 3), {'note': 7})
    """
    stored = stored_layer(name, layer, attributes)
    split_name(name)  # raises for what is no name
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        start_file(file, ResultWriter._encoding, ResultWriter._groups, written_by())
        write_layer(file, name, stored)
    return buffer.getvalue()


def open_image(data: bytes, path: str | os.PathLike) -> ResultReader:
    """A reader of a result file that is in memory; ``path`` is what errors call it."""
    return _ImageReader(data, path)


class _ImageReader(ResultReader):
    def __init__(self, data: bytes, path: str | os.PathLike):
        self._data = data
        super().__init__(path)

    def _open(self) -> h5py.File:
        with format_errors(self.path):
            return h5py.File(io.BytesIO(self._data), "r")
