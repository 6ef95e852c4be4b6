"""One call that tests a quantiser, any callable, and says which guarantee it breaks and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.arrays import to_numpy
from quiplinalg.errors import InvalidArgumentError, QuipLinalgError
from quiplinalg.parallel import single_blas_thread
from quiplinalg.testing.cases import make_cases
from quiplinalg.testing.report import QuantizerReport
from quiplinalg.testing.trial import Trial

__all__ = ["check_quantizer"]


@suggest_keywords()
def check_quantizer(
    quantize: Callable[..., Any],
    *,
    order: str | Callable[[np.ndarray], np.ndarray] = "natural",
    bits: tuple[int, ...] = (2, 3, 4, 8),
    dtype: Any = np.float64,
    damp: float = 0.0,
    returns: str = "auto",
    ties: str = "even",
    convert: Callable[[np.ndarray], Any] | None = None,
    max_n: int = 257,
) -> QuantizerReport:
    """Run a quantiser over a fixed family of adversarial problems; say what it breaks, and why.

    The quantiser is any callable that rounds with feedback under H, column by column: GPTQ, LDLQ,
    OBQ in a fixed order, Babai's nearest plane.  They all give the same codes, ties apart.

    Parameters
    ----------
    quantize : callable, (W, H, scale, zero, maxq) -> codes or W_hat
        W is (m, n) = (out, in), H (n, n) symmetric positive definite, scale and zero (m, 1) with
        zero a whole number, maxq = 2**bits - 1 an int; W_hat = scale * (codes - zero).  Called by
        position.  It returns integer codes or floating W_hat, of any framework on the host.
    order : str or callable
        How it orders columns: "natural" (0 to n-1), "reversed", "act" (descending diagonal of H,
        ties in natural order), or a function from H to a permutation.
    bits : tuple of int
        The widths it has.  "feedback" and "near ties" need 8.
    dtype : dtype
        float64 or float32: of the arrays it gets, and what is asked of its accuracy.
    damp : float
        The fraction of the mean diagonal of H that it adds to the diagonal itself.
    returns : str
        "codes", "values", or "auto": integers are codes, floats are values.
    ties : str
        "even", or "any" where you do not mind.
    convert : callable, optional
        Makes your framework's array of a NumPy one, such as ``torch.from_numpy``; in the same
        precision.
    max_n : int
        Largest layer to try; blocks of 128 show from n = 129 on.

    Returns
    -------
    QuantizerReport
        ``ok``, ``broken``, ``diagnosis``; ``raise_if_broken()`` is for tests.

    Raises
    ------
    InvalidArgumentError
        An argument above is not what it should be.  Whatever the quantiser raises is a finding.

    Notes
    -----
    Where H is not positive definite ("refusal", "dead columns") an error is a right answer.  About
    40 calls with n up to 257 and one of 4000 rows, BLAS held at one thread: a second or two
    for a vectorised quantiser.  Seeded: the same problems each time.

    "targets" is the certificate of `assert_rounds_targets`, with a tolerance of some
    n eps cond(H) steps: it needs no reference codes, and a tie that goes the other way passes.
    Never asked: that the loss is below nearest's for each W (false), or any bound on a grid that
    clips (false).  Stochastic rounding breaks "targets" and "repeat" by its nature: use
    `assert_loss_identity` and your uniforms with `assert_rounds_targets`.  Scales that are found
    while rounding: `check_group_quantizer`.

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304), theorems 1 and 6.

    Examples
    --------
    A GPTQ, and two that are wrong:

    >>> def gptq(W, H, scale, zero, maxq, factor="upper"):
    ...     W, P, codes = W.copy(), np.linalg.inv(H), np.zeros(W.shape, int)
    ...     L = np.linalg.cholesky(P)
    ...     C = {"upper": L.T, "lower": L, "dense": P}[factor]  # H^-1 = L L^T
    ...     for k in range(W.shape[1]):
    ...         codes[:, k] = np.clip(np.rint(W[:, k] / scale[:, 0]) + zero[:, 0], 0, maxq)
    ...         error = W[:, k] - scale[:, 0] * (codes[:, k] - zero[:, 0])
    ...         W[:, k + 1 :] -= np.outer(error / C[k, k], C[k, k + 1 :])
    ...     return codes
    >>> print(check_quantizer(gptq))
    14 guarantees hold on ... calls
    >>> wrong = check_quantizer(lambda *a: gptq(*a, factor="lower"))
    >>> print(wrong.diagnosis)
    bit-identical to nearest: no feedback reaches the weights (is the factor's zero triangle read?)
    >>> [b.guarantee for b in wrong.broken]
    ['targets', 'feedback', 'near ties']
    >>> print(check_quantizer(lambda *a: gptq(*a, factor="dense")).diagnosis)
    dense rows of H^-1 in place of the rows of its Cholesky factor (the inverse is never downdated)
    """
    kind = _checked_dtype(dtype)
    for name, function in (("quantize", quantize), ("convert", convert)):
        if not (callable(function) or (name == "convert" and function is None)):
            raise InvalidArgumentError(
                f"{name} must be a function; got {name}={function!r}. Pass it without calling it."
            )
    if not (isinstance(max_n, int) and max_n >= 1):
        raise InvalidArgumentError(
            f"max_n must be a whole number from 1 on; got max_n={max_n!r}. 257 is the usual."
        )
    widths = tuple(bits) if isinstance(bits, Iterable) else (bits,)
    _check_conversion(convert, kind)
    for name, value, choices in (
        ("returns", returns, ("auto", "codes", "values")),
        ("ties", ties, ("even", "any")),
    ):
        if value not in choices:
            raise InvalidArgumentError(
                f"{name} must be one of {', '.join(choices)}; got {name}={value!r}. "
                f"{choices[0]!r} is the usual choice."
            )
    with single_blas_thread():  # the problems are small
        cases = make_cases(widths, kind, max_n, order, damp)
        trial = Trial(quantize, order, damp, returns, convert, kind)
        for case in cases:
            if case.guarantee == "ties" and ties == "any":
                continue
            trial.case(case)
        return trial.report()


def _checked_dtype(dtype: Any) -> np.dtype:
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if dtype is None or kind not in (np.float32, np.float64):
        raise InvalidArgumentError(
            f"dtype must be numpy.float32 or float64; got dtype={dtype!r}. Narrower weights are "
            "widened; frameworks' dtypes belong into convert."
        )
    return kind


def _check_conversion(convert: Callable[[np.ndarray], Any] | None, kind: np.dtype) -> None:
    """Refuse a conversion that narrows, as JAX's does: the quantiser would be blamed for it."""
    if convert is None:
        return
    made = convert(np.ones((1, 1), kind))
    try:
        back = to_numpy(made, "convert").dtype
    except QuipLinalgError:  # an array that only its framework can read
        return
    if back != kind:
        raise InvalidArgumentError(
            f"convert must keep {kind}; got an array of {back}. Pass dtype=numpy.{back}, or let "
            "the framework have float64 (JAX: jax.config.update('jax_enable_x64', True))."
        )
