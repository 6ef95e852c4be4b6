"""A trial of a quantiser: it is called, its results are checked, and what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.reference import nearest, row_losses, udu
from quiplinalg.testing.assertions import assert_on_grid, assert_rounds_targets
from quiplinalg.testing.cases import Case, order_of
from quiplinalg.testing.report import GUARANTEES, Broken, QuantizerReport
from quiplinalg.testing.suspects import SUSPECTS, right_codes

__all__ = ["Trial"]

_CASES_DIAGNOSED = 4
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

    def call(self, case: Case) -> np.ndarray | None:
        """Codes of a case, or None where there are none to speak of."""
        given = (case.W, case.H, case.scale, case.zero)
        arrays = [a.astype(self.dtype, order="C") for a in given]
        copies = [a.copy() for a in arrays]
        passed = arrays if self.convert is None else [self.convert(a) for a in arrays]
        self.calls += 1
        try:
            result = self.quantize(*passed, int(case.maxq))
        except Exception as error:
            self.broke("runs", case, f"{type(error).__name__}: {error}")
            return None
        if any(not np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True)):
            self.broke("inputs", case, "an argument was written into")
        try:
            array = to_numpy(result, "result", integers=True)
            if self.returns == "codes" and array.dtype.kind == "f":
                if not np.array_equal(array, np.rint(array)):
                    raise AssertionError("codes must be whole numbers")
                array = array.astype(np.int64)
            elif self.returns == "values" and array.dtype.kind != "f":
                array = array.astype(np.float64)
        except Exception as error:
            self.broke("grid", case, str(error))
            return None
        if array.shape != case.W.shape:
            self.broke("runs", case, f"the result has shape {array.shape}, not {case.W.shape}")
            return None
        try:
            return assert_on_grid(array, case.scale, case.zero, case.maxq)
        except AssertionError as error:
            self.broke("grid", case, str(error))
            if array.dtype.kind != "f":
                self.wrong.append((case, array.astype(np.int64)))
            return None

    def case(self, case: Case) -> None:
        """Run one case."""
        self.checked.add(case.guarantee)
        if case.guarantee == "refusal":
            self.refusal(case)
            return
        codes = self.call(case)
        if codes is None:
            return
        message = getattr(self, case.guarantee.replace(" ", "_"))(case, codes)
        if message:
            self.broke(case.guarantee, case, message)
            self.wrong.append((case, codes))
        elif case.guarantee == "targets":
            self.right.append((case, codes))

    def damped(self, case: Case) -> np.ndarray:
        n = len(case.H)
        return case.H + self.damp * np.trace(case.H) / n * np.eye(n)

    def targets(self, case: Case, codes: np.ndarray) -> str:
        """The certificate of one result; empty where it holds."""
        perm = order_of(self.order, case.H)
        try:
            assert_rounds_targets(
                codes, case.W, self.damped(case), case.scale, case.zero, case.maxq, order=perm,
                tau=case.tau,
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

    def refusal(self, case: Case) -> None:
        arrays = [a.astype(self.dtype) for a in (case.W, case.H, case.scale, case.zero)]
        passed = arrays if self.convert is None else [self.convert(a) for a in arrays]
        self.calls += 1
        try:
            result = to_numpy(self.quantize(*passed, int(case.maxq)), "result", integers=True)
        except Exception:
            return
        try:
            codes = assert_on_grid(result, case.scale, case.zero, case.maxq)
        except AssertionError as error:
            self.broke("refusal", case, f"no error, and no result either: {error}")
            return
        if np.array_equal(codes, nearest(case.W, case.scale, case.zero, case.maxq)):
            self.broke("refusal", case, "falls back to nearest, without an error")

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

    def explains(self, name: str, case: Case, codes: np.ndarray) -> bool:
        perm = order_of(self.order, case.H)
        given = (case.W, self.damped(case), case.scale, case.zero, case.maxq, perm)
        theirs = SUSPECTS[name](*given)
        if np.array_equal(right_codes(*given), theirs):
            return False
        return bool((theirs == codes).all(axis=1).mean() >= 0.9)  # a tie may part a row or two

    def diagnosis(self) -> str:
        """What the quantiser does instead, as far as the suspects tell."""
        plain = [w for w in self.wrong if w[0].guarantee in ("targets", "grid")]
        picked = (plain or self.wrong)[:_CASES_DIAGNOSED]
        for name in SUSPECTS:
            if picked and all(self.explains(name, case, codes) for case, codes in picked):
                if "bit-identical" in name and any(_tells(*right) for right in self.right):
                    return f"falls back to nearest, without an error, on {picked[0][0].name}"
                return name
        if "refusal" in self.found and not self.wrong:
            return f"where H is not positive definite: {self.found['refusal'][0][1]}"
        if "runs" in self.found and not self.wrong:
            return f"fails on {self.found['runs'][0][0].name}: {self.found['runs'][0][1]}"
        if plain and self.right:
            least, passed = min(len(c.H) for c, _ in plain), max(len(c.H) for c, _ in self.right)
            if least > passed:
                first = min(self.first_step(case, codes) for case, codes in plain)
                return (
                    f"right up to n = {passed} and wrong from n = {least} on, where step {first} "
                    "is the first wrong one: look at what happens between blocks of columns"
                )
            if all(c.clips for c, _ in plain) and not all(c.clips for c, _ in self.right):
                return "right until a code is clipped, and wrong after: look at the clamp"
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
    """Whether these codes are not those of nearest."""
    return not np.array_equal(codes, nearest(case.W, case.scale, case.zero, case.maxq))
