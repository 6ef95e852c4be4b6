"""Faults in what searches for better codes, and in what certifies that there are none."""

from __future__ import annotations

from fault import Fault

EXACT = ("tests/kernels/test_search_slots.py", "tests/rounding/test_exact.py")
KBEST = ("tests/kernels/test_search_slots.py", "tests/rounding/test_kbest.py")
DUAL = ("tests/theory/test_dual_value.py", "tests/theory/test_certificates.py")
SEARCH, PATHS = "kernels/cpu_exact.py", "kernels/cpu_kbest.py"
VALUE, BOUND = "theory/dual_value.py", "theory/dual_bound.py"

FAULTS = (
    Fault(
        "exact search visits codes beyond the grid",
        SEARCH,
        "    if q < low or q > high:\n        return np.inf\n",
        "",
        EXACT,
    ),
    Fault(
        "exact search turns back from a column after its first dear code",
        SEARCH,
        "upward = up_cost[k] < down_cost[k]",
        "upward = entered and up_cost[k] < down_cost[k]",
        EXACT,
    ),
    Fault(
        "exact search starts from a target that is not fed",
        SEARCH,
        "            _feed(target, k, w[k] - s[k] * (q - o[k]), U)\n            cost",
        "            cost",
        EXACT,
    ),
    Fault(
        "exact search calls a row proven whose nodes are spent",
        SEARCH,
        "loss[r], nodes[r], proven[r] = best, count, k < 0",
        "loss[r], nodes[r], proven[r] = best, count, True",
        EXACT,
    ),
    Fault(
        "exact search goes on beyond its budget",
        SEARCH,
        "if not here < best or count >= budget:",
        "if not here < best or count > 2 * budget:",
        EXACT,
    ),
    Fault(
        "exact codes come back in the order of the search",
        "rounding/exact.py",
        "    best[:, permutation] = codes\n",
        "    best[:] = codes\n",
        ("tests/rounding/test_exact.py",),
    ),
    Fault(
        "exact search weighs errors with the roots of the pivots",
        "rounding/exact.py",
        "D = pivots**2",
        "D = pivots",
        ("tests/rounding/test_exact.py",),
    ),
    Fault(
        "K-best offers a parent's nearest code only",
        PATHS,
        "if K == 1 or not (above <= high or below >= low):",
        "if True:",
        KBEST,
    ),
    Fault(
        "K-best takes the farther of two codes first",
        PATHS,
        "(above - k) - d < (k - below) + d",
        "(above - k) - d > (k - below) + d",
        KBEST,
    ),
    Fault(
        "K-best forgets what a path has cost so far",
        PATHS,
        "first[p, r] = fma(D, eta * eta, cost[p, r])",
        "first[p, r] = D * (eta * eta)",
        KBEST,
    ),
    Fault(
        "the targets of a K-best path are those of the path in its place before",
        PATHS,
        "place[p, r] = best[1][p, r] * lanes + r",
        "place[p, r] = p * lanes + r",
        KBEST,
    ),
    Fault(
        "K-best errors of earlier blocks stay with the path of that number",
        PATHS,
        "_sort(X[t], anchor, shared[t], c0, 1 if one else paths, keep)",
        "_sort(X[t], anchor, c0, c0, 1 if one else paths, keep)",
        KBEST,
    ),
    Fault(
        "the codes of a K-best path are not followed back through its parents",
        PATHS,
        "                path[r] = P[t, j, path[r], r]\n",
        "                path[r] = 0 * P[t, j, path[r], r]\n",
        KBEST,
    ),
    Fault(
        "a dual bound without the check that A is positive definite",
        VALUE,
        "    if info:\n        return -np.inf\n\n    values",
        "    if info < 0:\n        return -np.inf\n\n    values",
        DUAL,
    ),
    Fault(
        "a dual bound that is not drawn back where it is infeasible",
        VALUE,
        "        if value > -np.inf:\n            return value\n",
        "        return value\n",
        DUAL,
    ),
    Fault(
        "a dual bound that adds the quadratic term instead of taking it off",
        VALUE,
        "float((y * values).sum()) - quadratic",
        "float((y * values).sum()) + quadratic",
        DUAL,
    ),
    Fault(
        "a dual bound that is not rounded down",
        VALUE,
        "return value - 4 * (n + 8) * _EPS * total",
        "return value",
        DUAL,
    ),
    Fault(
        "a dual bound that takes H as exact where it is rounded",
        VALUE,
        "eta = 4 * _EPS * size + float((doubt * scale * scale).max())",
        "eta = 0.0",
        DUAL,
    ),
    Fault(
        "a dual bound that does not know how far the targets are known",
        BOUND,
        "np.sqrt(value) - moved if value > 0",
        "np.sqrt(value) if value > 0",
        DUAL,
    ),
    Fault(
        "a dual bound in units of the step, not of its square",
        BOUND,
        "np.ldexp(value, power + 2 * unit)",
        "np.ldexp(value, power + unit)",
        DUAL,
    ),
    Fault(
        "a dual bound without what the pruned weights cost",
        BOUND,
        "constant = float(fixed @ H @ fixed)",
        "constant = 0.0",
        DUAL,
    ),
    Fault(
        "Newton's steps leave the gap's multipliers out of A",
        "theory/dual_newton.py",
        "A.flat[:: A.shape[0] + 1] -= y[0] if dual.kinds == 1 else y[0] - y[1]",
        "A.flat[:: A.shape[0] + 1] -= y[0]",
        DUAL,
    ),
)
