"""The tensors of GPTQ's format, version 2, which GPTQModel, vLLM and others load.

For every layer: ``qweight`` (n bits / 32, m) int32, packed along the columns of W, ``qzeros``
(groups, m bits / 32) int32, ``scales`` (groups, m) and ``g_idx`` (n,) int32.  Version 1 stores each
zero less one; version 2 as it is.  Most loaders round scales to float16.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export.codes import plain_codes, stored_scales, words
from quiplinalg.results import Quantized

__all__ = ["LAYOUT", "config", "layer_tensors"]

LAYOUT = "gptq"
_BITS = (2, 3, 4, 8)
_SIDE = 32
Scheme = tuple[int, int, bool, bool]  # bits, group size (-1: a row), sym, desc_act
_FIELDS = ("bits", "group_size", "sym", "desc_act")


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
        What the format does not have: see `plain_codes`; other bits than 2, 3, 4 and 8; sides that
        are not multiples of 32; groups of different sizes.
    """
    codes = plain_codes(q, LAYOUT)
    m, n = codes.codes.shape
    if codes.bits not in _BITS:
        raise InvalidArgumentError(
            f"{LAYOUT} has codes of 2, 3, 4 or 8 bits; got bits={codes.bits}. "
            "Use layout='compressed-tensors', or to='onnx'."
        )
    if m % _SIDE or n % _SIDE:
        raise InvalidArgumentError(
            f"{LAYOUT} has weights whose sides are multiples of {_SIDE}; got shape {(m, n)}. "
            "Use layout='compressed-tensors', or to='onnx'."
        )
    groups = codes.scale.shape[1]
    size = int(np.bincount(codes.group).max())
    if -(-n // size) != groups:
        raise InvalidArgumentError(
            f"{LAYOUT} has groups of one size, but for the last; got {groups} groups of up to "
            f"{size} of {n} columns. Use to='onnx' or to='dense'."
        )
    tensors = {
        "qweight": words(codes.codes, codes.bits).T,
        "qzeros": words(codes.zero.T, codes.bits),
        "scales": stored_scales(codes.scale.T, dtype),
        "g_idx": codes.group,
    }
    return tensors, (codes.bits, -1 if groups == 1 else size, codes.symmetric,
                     codes.group_size is None)  # fmt: skip


def config(schemes: dict[str, Scheme]) -> dict[str, Any]:
    """Return the ``quantization_config`` of a model, from the scheme of each layer.

    The commonest is that of the model, the others are in "dynamic".
    """
    common = Counter(schemes.values()).most_common(1)[0][0]
    others = {
        f"+:^{re.escape(name)}$": dict(zip(_FIELDS, scheme, strict=True))
        for name, scheme in sorted(schemes.items())
        if scheme != common
    }
    found: dict[str, Any] = {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}
    found |= dict(zip(_FIELDS, common, strict=True))
    return found | ({"dynamic": others} if others else {})
