"""The precision in which a reference algorithm computes."""

from __future__ import annotations

import numpy as np

__all__ = ["working_dtype"]


def working_dtype(*arrays: np.ndarray) -> np.dtype:
    """Return longdouble if any array is longdouble, else float64.

    Parameters
    ----------
    *arrays : ndarray
        The inputs of an algorithm.

    Returns
    -------
    dtype
        longdouble or float64.
    """
    wide = any(np.asarray(a).dtype == np.longdouble for a in arrays)
    return np.dtype(np.longdouble if wide else np.float64)
