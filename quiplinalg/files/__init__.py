"""HDF5 files in and out: problems, results, statistics, and Keras weights.

Layout, version 1.0
-------------------
Every element has the attributes ``encoding-type`` and ``encoding-version``; attributes are UTF-8
text of fixed length (read with any length), int64 or float64.  Datasets are contiguous and
uncompressed.  A ``/`` in a name nests groups (encoding "group").  A reader refuses a newer major
version.

Problem file (root: "quiplinalg-problem")::

    layers/<name>               "layer"; sensitivity, absent for 1
        weight                  "array", 2-D float16, bfloat16, float32 or float64;
                                orientation = "out_in" | "in_out"
        hessian                 "hessian", (n, n), or (n (n + 1) / 2,): the lower triangle by rows,
                                or (n,): the diagonal, where no more is known;
                                storage = "full" | "lower" | "diagonal", n_samples (-1: unknown),
                                normalization = "mean" | "sum" | "2mean" | "unknown"
    arrays/<name>               "array": anything else, such as biases or held-out inputs

Layers with one Hessian share it by a hard link.  bfloat16 is a 16-bit HDF5 float: sign bit 15,
8 exponent bits from bit 7 (bias 127), 7 mantissa bits.

Result file (root: "quiplinalg-result", quiplinalg-version)::

    layers/<name>               "layer"; the scalar fields of Quantized, and those of its grid as
                                grid_<field>, None being absent; the caller's own attributes;
                                attributes_crc32
        codes                   "packed-codes", uint8: each row a little-endian bit stream, padded
                                to whole bytes, one row after the other; bits, m, n.
                                Unbounded grid: "array", (m, n) int32
        scale, zero             "array", (rows, groups) floats, rows = 1 or m
        group_index             "array", (n,) int32, absent for one group
        permutation             "array", (n,) int64, absent for the natural order
        dead                    "array", (k,) int64
        mask                    "packed-codes" of 1 bit: 1 where a weight is pruned, and so 0;
                                absent where none is
        scales                  "array", (n,) float16: the inputs were multiplied by them; absent
                                without rescaling
        input_<part>            "array": the parts of the rotation of the inputs (of the outputs),
        output_<part>           with its kind and seed as attributes input_rotation and input_seed
                                of the layer; absent without one.  As Rotation.to_arrays:
                                permutation, signs, inner_signs, windows, factor0, factor1, ...

    layers/<name>               "pruned-layer"; the scalar fields of Pruned, and attributes as above
        weight                  "array", (m, n) float32 or float64: W_hat, 0 where pruned
        mask                    "packed-codes" of 1 bit: 1 where a weight is pruned
        dead                    "array", (k,) int64

Weights file (root: "quiplinalg-weights", quiplinalg-version), which is written only::

    layers/<name>               "layer"
        weight                  "array", (out, in) floats; orientation = "out_in"

The weights of a quantised layer are U^T (scale (codes - zero)) V diag(1/scales), V the input and U
the output rotation, with zeros in the dead columns where there is an input rotation.
``candidates`` is the JSON object of the losses of the rotations that were tried.
``crc32`` of each dataset is the CRC-32 of its elements in C order, little-endian.
``attributes_crc32`` is that of the UTF-8 lines ``<name>``, then for the layer and, after a line
with its name, each dataset in name order: ``key=value`` for the sorted attributes, with Python's
repr of the values.

Writers fill a temporary file in the same directory and move it in place when all is written and
synced; a reader never sees half a file.  Readers open for reading only, follow hard links only,
and measure every dataset against :class:`Limits` before reading it.
"""

from __future__ import annotations

from quiplinalg.files.keras import KerasReader, open_keras
from quiplinalg.files.measure import Limits
from quiplinalg.files.problem import ProblemReader, open_problem
from quiplinalg.files.problem_writer import ProblemWriter
from quiplinalg.files.reader import LayerInfo, ProblemSource
from quiplinalg.files.result import ResultReader, open_result
from quiplinalg.files.result_writer import ResultWriter
from quiplinalg.files.statistics import (
    StatisticsInfo,
    StatisticsReader,
    StatisticsWriter,
    open_statistics,
)

__all__ = [
    "KerasReader",
    "LayerInfo",
    "Limits",
    "ProblemReader",
    "ProblemSource",
    "ProblemWriter",
    "ResultReader",
    "ResultWriter",
    "StatisticsInfo",
    "StatisticsReader",
    "StatisticsWriter",
    "open_keras",
    "open_problem",
    "open_result",
    "open_statistics",
]
