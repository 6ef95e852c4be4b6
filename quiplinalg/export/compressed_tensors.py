"""The tensors of compressed-tensors' format "pack-quantized", which vLLM and transformers load.

For every layer: ``weight_packed`` (m, ceil(n bits / 32)) int32, ``weight_scale`` (m, groups),
``weight_shape`` (2,) int64 and, unless all zeros are the middle code, ``weight_zero_point``
(ceil(m bits / 32), groups) int32, packed along the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export.codes import plain_codes, stored_scales, words
from quiplinalg.results import Quantized

__all__ = ["LAYOUT", "config", "layer_tensors"]

LAYOUT = "compressed-tensors"
Scheme = tuple[int, int, bool]  # bits, group size (-1: a row), symmetric


def layer_tensors(q: Quantized, dtype: np.dtype | None) -> tuple[dict[str, np.ndarray], Scheme]:
    """Return the tensors of a layer by their last name, and its scheme.

    Parameters
    ----------
    q : Quantized
    dtype : dtype or None
        Of the scales; None: as they are.

    Raises
    ------
    InvalidArgumentError
        What the format does not have: see `plain_codes`; or groups that are not of one size, in
        the order of the columns.
    """
    codes = plain_codes(q, LAYOUT)
    m, n = codes.codes.shape
    groups = codes.scale.shape[1]
    size = codes.group_size
    if groups > 1 and (size is None or n % size):
        raise InvalidArgumentError(
            f"{LAYOUT} has groups of equal size in the order of the columns; got {groups} groups "
            f"of {n} columns that are not. Use layout='gptq', which has an index of the groups, or "
            "to='onnx', or quantise with static_groups=True and a group_size that divides the "
            "columns."
        )
    tensors = {
        "weight_packed": words(codes.codes, codes.bits),
        "weight_scale": stored_scales(codes.scale, dtype),
        "weight_shape": np.array([m, n], np.int64),
    }
    if not codes.symmetric:
        tensors["weight_zero_point"] = words(codes.zero.T, codes.bits).T
    return tensors, (codes.bits, -1 if groups == 1 else int(size or n), codes.symmetric)


def config(schemes: dict[str, Scheme]) -> dict[str, Any]:
    """Return the ``quantization_config`` of a model, from the scheme of each layer."""
    groups: dict[str, Any] = {}
    for number, scheme in enumerate(sorted(set(schemes.values()))):
        bits, size, symmetric = scheme
        grouped = {"strategy": "group", "group_size": size} if size > 0 else {"strategy": "channel"}
        groups[f"group_{number}"] = {
            "targets": sorted(name for name in schemes if schemes[name] == scheme),
            "weights": {"num_bits": bits, "type": "int", "symmetric": symmetric, **grouped},
        }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [],
    }
