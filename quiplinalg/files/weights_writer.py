"""Writing weights files: plain weights of many layers in one HDF5 file, for any other program."""

from __future__ import annotations

import numpy as np

from quiplinalg.files.elements import make_group, write_array
from quiplinalg.files.writer import AtomicWriter, written_by

__all__ = ["WeightsWriter"]


class WeightsWriter(AtomicWriter):
    """Write a weights file; it appears under its name when the ``with`` block ends cleanly.

    Parameters
    ----------
    path : str or path-like
        Where the file will be; the data go to a hidden temporary file beside it until then.
    overwrite : bool
        Replace an existing file, in one step at the end.

    Raises
    ------
    InvalidArgumentError
        The file exists and ``overwrite`` is False, or its directory does not exist.
    """

    _encoding = "quiplinalg-weights"
    _groups = ("layers",)

    def _root_attributes(self) -> dict[str, str]:
        return written_by()

    def add(self, name: str, weight: np.ndarray) -> None:
        """Add the weight of a layer, (m, n) = (out, in), of any floating dtype that files have."""
        parts = self._check_name("layers", name)
        with self._writing("layers", name):
            group = make_group(self._file["layers"], parts, "layer")
            write_array(group, "weight", weight, "array", orientation="out_in")
