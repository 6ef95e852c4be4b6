"""Faults in what follows the codes: fits, codebooks, corrections, and their verification."""

from __future__ import annotations

from fault import Fault

REFIT = ("tests/rounding/test_refit.py",)
LNQ = ("tests/rounding/test_lnq.py",)
SLOTS = ("tests/kernels/test_codebook_slots.py",)
RANK = ("tests/rounding/test_low_rank_correction.py",)
VERIFY = ("tests/rounding/test_verify_refined.py",)
FILE = ("tests/files/test_result_refined.py",)

FAULTS = (
    Fault(
        "scales are fitted without H between the groups",
        "rounding/refit.py",
        "S = np.empty((codes.shape[0], len(bases) * groups, len(bases) * groups))",
        "H = np.where(group[:, None] == group, H, 0)\n"
        "        S = np.empty((codes.shape[0], len(bases) * groups, len(bases) * groups))",
        REFIT,
    ),
    Fault(
        "scales are not fitted again to the zeros as they are stored",
        "rounding/refit.py",
        "step = best_step(inner @ S @ back, (inner @ slopes[:, :, None])[:, :, 0])",
        "step = step[:, :groups]",
        REFIT,
    ),
    Fault(
        "a row takes scales that make it worse",
        "rounding/refit.py",
        "better = change_of_loss(S, r, change) < 0",
        "better = change_of_loss(S, r, change) < np.inf",
        REFIT,
    ),
    Fault(
        "pruned weights count in the fit",
        "rounding/refit.py",
        "1.0 - self.mask[rows]",
        "1.0 - 0 * self.mask[rows]",
        REFIT,
    ),
    Fault(
        "levels are fitted with the diagonal of the normal equations alone",
        "rounding/levels.py",
        "S = (S + S.transpose(0, 2, 1)) / 2",
        "S = S * np.eye(count)",
        LNQ,
    ),
    Fault(
        "sorted levels leave the codes behind",
        "rounding/levels.py",
        "place = np.argsort(rank, axis=1).astype(np.uint8)",
        "place = rank.astype(np.uint8)",
        LNQ,
    ),
    Fault(
        "E H is stale after the levels have moved",
        "rounding/levels.py",
        'self.G[rows] += np.einsum("iln,il->in", T, step.astype(T.dtype))',
        "pass",
        LNQ,
    ),
    Fault(
        "the start of a row is the last one, not the best",
        "rounding/levels.py",
        "better = loss < self.loss",
        "better = loss < np.inf",
        LNQ,
    ),
    Fault(
        "the sums by code forget the code that was left",
        "kernels/cpu_codebook.py",
        "add_scaled(flat_t, (i * count + old) * n, -one, flat_h, k * n, n)",
        "add_scaled(flat_t, (i * count + old) * n, one - one, flat_h, k * n, n)",
        SLOTS,
    ),
    Fault(
        "feedback of a block does not reach its own columns",
        "kernels/cpu_codebook.py",
        "add_scaled(flat_f, i * width + at, E[i, k], flat_u, k * width + at, width - at)",
        "add_scaled(flat_f, i * width + at, E[i, k], flat_u, k * width + at, 0)",
        SLOTS,
    ),
    Fault(
        "the correction is the best in the Frobenius norm",
        "rounding/low_rank.py",
        "gram[i : i + _ROWS] = (E[i : i + _ROWS] @ wide) @ E.T",
        "gram[i : i + _ROWS] = E[i : i + _ROWS] @ E.T",
        RANK,
    ),
    Fault(
        "a correction takes no bits",
        "results.py",
        "parts = (self.processing, self.correction)",
        "parts = (self.processing,)",
        RANK,
    ),
    Fault(
        "no fit is verified",
        "rounding/verify_refined.py",
        "bad = np.flatnonzero(~(gain <= allowed + _SOLVED * loss))",
        "bad = np.flatnonzero(~(gain <= allowed + loss + np.inf))",
        VERIFY,
    ),
    Fault(
        "an older version reads a corrected layer, and leaves out the correction",
        "files/result_layer.py",
        "version = REFINED if refined else VERSION",
        "version = VERSION",
        FILE,
    ),
)
