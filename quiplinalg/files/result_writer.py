"""Writing result files: quantised layers, and pruned ones, in one HDF5 file."""

from __future__ import annotations

from quiplinalg.files.result_layer import StoredLayer, stored_layer, write_layer
from quiplinalg.files.writer import AtomicWriter, written_by
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized

__all__ = ["ResultWriter"]


class ResultWriter(AtomicWriter):
    """Write a result file; it appears under its name when the ``with`` block ends cleanly.

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

    _encoding = "quiplinalg-result"
    _groups = ("layers",)

    def _root_attributes(self) -> dict[str, str]:
        return written_by()

    def add(self, name: str, layer: Quantized | Pruned, /, **attributes: str | int | float) -> None:
        """Add a layer.

        Parameters
        ----------
        name : str
            Parts joined by ``/`` become nested groups.
        layer : Quantized or Pruned
            Everything but ``restore``, and the trace of a pruning, is kept.  What is on a device is
            copied from there.
        **attributes : str, int or float
            Anything else to keep with the layer; :meth:`ResultReader.attributes` gives it back.

        Raises
        ------
        InvalidArgumentError
            A name that does not fit, a reserved attribute, or a layer at odds with itself.
        DTypeError
            Neither Quantized nor Pruned.
        OSError
            A full or failing disk.
        """
        self.add_stored(name, stored_layer(name, layer, attributes))

    def add_stored(self, name: str, stored: StoredLayer) -> None:
        """Add a layer from :meth:`ResultReader.stored`; the bytes are those that `add` makes."""
        self._check_name("layers", name)
        with self._writing("layers", name):
            write_layer(self._file, name, stored)
