"""Faults in second-order updates: OBQ, pruning, updates of inverses and factors, Hessians."""

from __future__ import annotations

from fault import Fault

OBQ = ("tests/kernels/test_obs_slots.py", "tests/rounding/test_obq.py")
PRUNE = ("tests/kernels/test_obs_slots.py", "tests/pruning/test_obs_prune.py")
ONE_PASS = ("tests/kernels/test_prune_slots.py", "tests/pruning/test_sparsegpt.py")
UPDATES = ("tests/factor/test_update_identities.py", "tests/factor/test_update_ratios.py")
HESSIAN = ("tests/hessian/test_accumulate.py",)
OBS = "kernels/cpu_obs.py"

FAULTS = (
    Fault(
        "OBQ's saliency with H_qq for [H^-1]_qq",
        OBS,
        "cost = float_bits(e * e / d[j])",
        "cost = float_bits(e * e * d[j])",
        OBQ,
    ),
    Fault(
        "OBS prunes by magnitude",
        OBS,
        "cost = float_bits(w[j] * w[j] / d[j])",
        "cost = float_bits(w[j] * w[j])",
        PRUNE,
    ),
    Fault(
        "the OBS update is divided by H_qq, so that delta_q is not -e",
        OBS,
        "by, inverse = e / pivot, 1 / math.sqrt(pivot)",
        "by, inverse = e * pivot, 1 / math.sqrt(pivot)",
        OBQ,
    ),
    Fault(
        "the inverse is not downdated: its diagonal stays",
        OBS,
        "d[j0 + r] -= v * v",
        "d[j0 + r] -= 0 * v",
        OBQ,
    ),
    Fault(
        "OBQ does not clamp",
        OBS,
        "code = min(max(free, low), high)",
        "code = free",
        OBQ,
    ),
    Fault(
        "the steps of rows are merged by cost where it falls along a row",
        "pruning/choice.py",
        "    largest = np.maximum.accumulate(costs, axis=1)\n    last =",
        "    largest = costs\n    last =",
        ("tests/pruning/test_obs_prune.py",),
    ),
    Fault(
        "one pass prunes the largest",
        "kernels/cpu_prune.py",
        "mask[row + r, column] = rank[r] < drop",
        "mask[row + r, column] = rank[r] >= drop",
        ONE_PASS,
    ),
    Fault(
        "the removal of one row is divided by the square",
        "factor/update/engine.py",
        "V = W if failed else W / np.sqrt(C).astype(W.dtype)",
        "V = W if failed else W / C.astype(W.dtype)",
        UPDATES,
    ),
    Fault(
        "a downdate is an update",
        "kernels/cpu_update.py",
        "kind(sign * v[at + i])",
        "kind(abs(sign) * v[at + i])",
        UPDATES,
    ),
    Fault(
        "the mean of weighted tokens is over their number",
        "hessian/accumulate.py",
        "        H = self.sum()\n        H /= self.weight\n",
        "        H = self.sum()\n        H /= self.count\n",
        ("tests/hessian/test_weighted_mean.py", *HESSIAN),
    ),
    Fault(
        "merging forgets the tokens of the other",
        "hessian/accumulate.py",
        "        self.count += other.count\n",
        "",
        HESSIAN,
    ),
    Fault(
        "the shifted target forgets what W is right for",
        "hessian/asymmetric.py",
        "    C[live] -= H  # x_i = x~_i is what W is right for\n",
        "",
        ("tests/hessian/test_asymmetric.py",),
    ),
    Fault(
        "K-best keeps the worse of its answer and LDLQ's",
        "rounding/kbest.py",
        "several.sums[:, 0] < single.sums[:, 0]",
        "several.sums[:, 0] > single.sums[:, 0]",
        ("tests/rounding/test_kbest.py",),
    ),
    Fault(
        "the model bound takes cubes for balls",
        "theory/model_bound.py",
        "_SHARE = 1 / (2 * math.pi * math.e)",
        "_SHARE = 1 / 12",
        ("tests/theory/test_certificates.py",),
    ),
)
