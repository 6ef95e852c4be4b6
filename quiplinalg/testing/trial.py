"""A trial of a quantiser: it is called, its results are checked, and what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.errors import QuipLinalgError
from quiplinalg.reference import nearest, row_losses, udu
from quiplinalg.testing.assertions import assert_on_grid, assert_rounds_targets
from quiplinalg.testing.cases import COARSE, Case, order_of, tolerance
from quiplinalg.testing.given import read_codes
from quiplinalg.testing.report import GUARANTEES, Broken, QuantizerReport
from quiplinalg.testing.suspects import SUSPECTS, Suspect, right_codes

__all__ = ["Trial"]

_CASES_DIAGNOSED = 4
_SINGULAR = ("refusal", "dead columns")  # H is not positive definite: an error is an answer
_TELLING = 17  # columns: with more rounding errors part the rows, with 2 many mistakes are alike
_NO_BLOCK = 8  # columns: fewer are in one block of anyone's
_SIGMAS = 6


class Trial:
    """Calls the quantiser and collects what it breaks."""

    def __init__(
        self,
        quantize: Callable[..., Any],
        order: str | Callable[[np.ndarray], np.ndarray],
        damp: float,
        returns: str,
        convert: Callable[[np.ndarray], Any] | None,
        dtype: np.dtype,
    ):
        self.quantize, self.order, self.damp = quantize, order, damp
        self.returns, self.convert, self.dtype = returns, convert, dtype
        self.found: dict[str, list[tuple[Case, str]]] = {}
        self.wrong: list[tuple[Case, np.ndarray]] = []  # for the diagnosis
        self.right: list[tuple[Case, np.ndarray]] = []
        self.checked = {"runs", "inputs", "grid"}
        self.calls = 0

    def broke(self, guarantee: str, case: Case, message: str) -> None:
        self.found.setdefault(guarantee, []).append((case, message))

    def call(self, case: Case, may_refuse: bool = False) -> np.ndarray | None:
        """Codes of a case, or None where there are none to speak of."""
        given = (case.W, case.H, case.scale, case.zero)
        arrays = [a.astype(self.dtype, order="C") for a in given]
        copies = [a.copy() for a in arrays]
        passed = arrays if self.convert is None else [self.convert(a) for a in arrays]
        self.calls += 1
        try:
            result = self.quantize(*passed, int(case.maxq))
        except Exception as error:
            if not may_refuse:
                self.broke("runs", case, f"{type(error).__name__}: {error}")
            return None
        if any(not np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True)):
            self.broke("inputs", case, "an argument was written into; work on a copy")
        if result is None or isinstance(result, (tuple, dict)):
            what = f"a {type(result).__name__}; return the codes or W_hat alone"
            self.broke("runs", case, f"the result is {what}")
            return None
        try:
            array = to_numpy(result, "result", integers=True)
        except QuipLinalgError as error:
            self.broke("runs", case, str(error))
            return None
        if array.shape != case.W.shape:
            self.broke("runs", case, f"the result has shape {array.shape}, not {case.W.shape}")
            return None
        whole = array.dtype.kind in "iub" or np.array_equal(array, np.rint(array))
        try:
            if self.returns == "codes":
                array = read_codes(array, "codes", case.W.shape, case.maxq)
            elif self.returns == "values" and array.dtype.kind in "iub":
                array = array.astype(np.float64)
            return assert_on_grid(array, case.scale, case.zero, case.maxq)
        except AssertionError as error:
            if may_refuse:
                self.broke(case.guarantee, case, f"no error, and no result either: {error}")
                return None
            hint = ""
            if array.dtype.kind not in "iub" and whole and self.returns == "auto":
                hint = "; floats are read as W_hat, but these are whole: pass returns='codes'"
            self.broke("grid", case, f"{error}{hint}")
            if array.dtype.kind in "iub":
                self.wrong.append((case, array.astype(np.int64)))
            return None

    def case(self, case: Case) -> None:
        """Run one case."""
        self.checked.add(case.guarantee)
        codes = self.call(case, may_refuse=case.guarantee in _SINGULAR)
        if codes is None:
            return
        message = getattr(self, case.guarantee.replace(" ", "_"))(case, codes)
        if message:
            self.broke(case.guarantee, case, message)
            if case.guarantee not in _SINGULAR:
                self.wrong.append((case, codes))
        elif case.guarantee == "targets":
            self.right.append((case, codes))

    def damped(self, case: Case, damp: float | None = None) -> np.ndarray:
        n = len(case.H)
        share = self.damp if damp is None else damp
        return case.H + share * np.trace(case.H) / n * np.eye(n)

    def targets(self, case: Case, codes: np.ndarray, damp: float | None = None) -> str:
        """The certificate of one result; empty where it holds."""
        perm = order_of(self.order, case.H)
        try:
            assert_rounds_targets(
                codes, case.W, self.damped(case, damp), case.scale, case.zero, case.maxq,
                order=perm, tau=case.tau,
            )  # fmt: skip
        except AssertionError as error:
            return str(error)
        return ""

    def feedback(self, case: Case, codes: np.ndarray) -> str:
        perm = order_of(self.order, case.H)
        H = self.damped(case)
        _, D = udu(H[np.ix_(perm, perm)])
        W_hat = case.scale * (codes - case.zero)
        losses = row_losses(W_hat, case.W, H) / case.scale[:, 0] ** 2
        m, mean = len(losses), D.sum() / 12
        sigma = np.sqrt(np.square(D).sum() / 180 / m)
        if abs(losses.mean() - mean) <= _SIGMAS * sigma:
            return ""
        return (
            f"the mean loss is {losses.mean():.4g} squared steps; tr D / 12 is {mean:.4g}, and "
            f"nearest's tr H / 12 is {np.trace(H) / 12:.4g}"
        )

    def exactly(self, case: Case, codes: np.ndarray) -> str:
        """Compare with the codes that the case brings along."""
        bad = codes != case.expected
        if not bad.any():
            return ""
        i, j = (int(x) for x in np.argwhere(bad)[0])
        return (
            f"{int(bad.sum())} of {bad.size} codes differ from what they must be, the first at row "
            f"{i}, column {j}: {codes[i, j]} for {case.expected[i, j]}"
        )

    diagonal = ties = near_ties = idempotent = exactly

    def again(self, case: Case, codes: np.ndarray, other: Case, rows: slice) -> str:
        second = self.call(other)
        if second is None:
            return "the second call failed"
        bad = second != codes[rows]
        return (
            f"{int(bad.sum())} of {bad.size} codes are others the second time" if bad.any() else ""
        )

    def units(self, case: Case, codes: np.ndarray) -> str:
        messages = [
            self.again(case, codes, case.changed(H=case.H * 4.0**k), slice(None)) for k in (-9, 8)
        ]
        return next((m for m in messages if m), "")

    def repeat(self, case: Case, codes: np.ndarray) -> str:
        return self.again(case, codes, case, slice(None))

    def rows(self, case: Case, codes: np.ndarray) -> str:
        for i in (0, len(codes) // 2, len(codes) - 1):
            one = slice(i, i + 1)
            alone = self.call(case.only(one))
            if alone is None:
                return "the call with one row failed"
            if not np.array_equal(alone, codes[one]):  # products of one row may round otherwise
                message = self.targets(case.only(one), alone) or self.targets(case, codes)
                if message:
                    return f"row {i}: {message}"
        return ""

    def refusal(self, case: Case, codes: np.ndarray) -> str:
        """Of an indefinite H: any codes but nearest's may have been meant."""
        if not np.array_equal(codes, nearest(case.W, case.scale, case.zero, case.maxq)):
            return ""
        return "falls back to nearest, without an error"

    def dead_columns(self, case: Case, codes: np.ndarray) -> str:
        """The certificate of the live columns; damping is of their mean diagonal, or of all."""
        live = np.flatnonzero(case.H.diagonal())
        perm = order_of(self.order, case.H)
        rank = np.argsort(perm)[live]
        H, message = case.H[np.ix_(live, live)], ""
        for mean in (np.trace(H) / max(len(live), 1), np.trace(H) / len(case.H)):
            try:
                assert_rounds_targets(
                    codes[:, live], case.W[:, live], H + self.damp * mean * np.eye(len(live)),
                    case.scale, case.zero, case.maxq, order=np.argsort(rank), tau=case.tau,
                )  # fmt: skip
            except AssertionError as error:
                message = str(error)
            else:
                return ""
        if np.array_equal(codes, nearest(case.W, case.scale, case.zero, case.maxq)):
            return "falls back to nearest, without an error"
        return f"of the columns that are not dead, {message}"

    def report(self) -> QuantizerReport:
        broken = tuple(
            Broken(name, self.found[name][0][0].name, self.found[name][0][1], len(self.found[name]))
            for name in GUARANTEES
            if name in self.found
        )
        return QuantizerReport(
            ok=not broken,
            broken=broken,
            diagnosis=self.diagnosis() if broken else "",
            checked=tuple(name for name in GUARANTEES if name in self.checked),
            problems=self.calls,
        )

    def explains(self, suspect: Suspect, case: Case, codes: np.ndarray) -> bool:
        """Whether a suspect gives these codes, in this precision or in float64."""
        perm, H = order_of(self.order, case.H), self.damped(case)
        for kind in {self.dtype, np.dtype(np.float64)}:  # ties are where it puts them
            W, scale, zero = (a.astype(kind) for a in (case.W, case.scale, case.zero))
            given = (W, H, scale, zero, case.maxq, perm)
            theirs = suspect(*given)
            if np.array_equal(right_codes(*given), theirs):
                continue
            if (theirs == codes).all(axis=1).mean() >= 0.9:  # a tie may part a row or two
                return True
        return False

    def not_damped(self, case: Case, codes: np.ndarray) -> bool:
        """Whether the codes are right for an H without the damping that was announced."""
        return self.damp > 0 and not self.targets(case, codes, damp=0.0)

    def coarse(self, case: Case, codes: np.ndarray) -> bool | None:
        """Whether the codes are right to the accuracy of float32; None if that tells nothing."""
        if self.dtype != np.float64:
            return False
        tau = tolerance(case.W, case.H, case.scale, np.dtype(np.float32))
        if tau.max() >= COARSE:
            return None
        return not self.targets(replace(case, tau=tau), codes)

    def diagnosis(self) -> str:
        """What the quantiser does instead, as far as the suspects tell."""
        plain = [w for w in self.wrong if w[0].guarantee in ("targets", "grid")]
        picked = [w for w in plain or self.wrong if len(w[0].H) <= _TELLING][-_CASES_DIAGNOSED:]
        picked = picked or (plain or self.wrong)[:_CASES_DIAGNOSED]
        for name, suspect in SUSPECTS.items():
            if picked and all(self.explains(suspect, case, codes) for case, codes in picked):
                if "bit-identical" in name and any(_tells(*right) for right in self.right):
                    return f"falls back to nearest, without an error, on {picked[0][0].name}"
                return name
        if plain and all(self.not_damped(case, codes) for case, codes in plain):
            return f"nothing is added to the diagonal of H, but damp={self.damp:g} was passed"
        if set(self.found) <= {"targets", "near ties"}:
            coarse = [self.coarse(case, codes) for case, codes in self.wrong]
            if any(coarse) and False not in coarse:
                return (
                    "right to the accuracy of float32 and not to float64's: W, H or the feedback "
                    "is float32 somewhere (pass dtype=numpy.float32 if that is meant)"
                )
        first = next(name for name in GUARANTEES if name in self.found)
        where, message = self.found[first][0]
        if not self.wrong and {*self.found} <= {*_SINGULAR}:
            return f"where H is not positive definite, on {where.name}: {message}"
        if not self.wrong or {*self.found} - {*_SINGULAR} <= {"runs", "inputs", "grid"}:
            return f"fails on {where.name}: {message}"
        least = min((len(case.H) for case, _ in plain), default=0)
        if least and all(case.clips for case, _ in plain):
            if any(not case.clips and len(case.H) >= least for case, _ in self.right):
                return "right until a code is clipped, and wrong after: look at the clamp"
        passed = max((len(c.H) for c, _ in self.right if len(c.H) < least), default=0)
        if passed >= _NO_BLOCK:
            step = min(self.first_step(case, codes) for case, codes in plain)
            return (
                f"right up to n = {passed} and wrong from n = {least} on, where step {step} "
                "is the first wrong one: look at what happens between blocks of columns"
            )
        if "units" in self.found:
            return (
                "codes depend on the unit of H: the errors are divided by the diagonal of the "
                "factor once too often, or not at all"
            )
        names = ", ".join(name for name in GUARANTEES if name in self.found)
        return f"none of the {len(SUSPECTS)} known mistakes; broken: {names}"

    def first_step(self, case: Case, codes: np.ndarray) -> int:
        perm = order_of(self.order, case.H)
        right = right_codes(
            case.W, self.damped(case), case.scale, case.zero, case.maxq, perm
        )  # up to there both have the same targets
        bad = (right != codes)[:, perm]
        return int(np.argmax(bad.any(axis=0)))


def _tells(case: Case, codes: np.ndarray) -> bool:
    """Whether these codes are not those of nearest, ties apart."""
    t = np.clip(case.W / case.scale + case.zero, 0, case.maxq)
    return bool((np.abs(codes - t) > 0.5 + 1e-3).any())
