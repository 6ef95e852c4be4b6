"""Check QuIP's theorems on real computations, and write the page docs/quip-theorems.md with plots.

Run as ``python docs/quip_theorems.py`` (needs the ``docs`` extra); about a minute.  Everything is
drawn from fixed seeds.  A claim that does not hold stops the script.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

import quiplinalg as ql

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
INK, SOFT, LINE = "#1d2430", "#667085", "#d8dce3"
COLORS = {
    "nearest": "#8a8f98",
    "stochastic": "#c7a252",
    "gptq": "#d08a2c",
    "ldlq": "#2f7fc1",
    "safe": "#3d8b57",
    "quip": "#b3365b",
    "kbest": "#7a4fa3",
    "none": "#8a8f98",
    "hadamard": "#2f7fc1",
    "kronecker": "#d08a2c",
}
METHODS = {
    "nearest": lambda W, H, grid: ql.nearest(W, H, grid=grid),
    "ldlq, natural": lambda W, H, grid: ql.ldlq(W, H, grid=grid, order="natural"),
    "ldlq, act": lambda W, H, grid: ql.ldlq(W, H, grid=grid),
    "obq": lambda W, H, grid: ql.obq(W, H, grid=grid, outliers_first=True),
    "kbest, 16": lambda W, H, grid: ql.kbest(W, H, k=16, grid=grid, order="min-pivot"),
    "ldlq + descent": lambda W, H, grid: ql.descend(
        W, H, ql.ldlq(W, H, grid=grid, order="min-pivot")
    ),
}
PALETTE = dict(zip(
    (*METHODS, "quip, descent"),
    ("#8a8f98", "#9cc3e4", "#2f7fc1", "#d08a2c", "#7a4fa3", "#3d8b57", "#b3365b"),
    strict=True,
))  # fmt: skip
plt.rcParams.update({
    "font.size": 10, "axes.edgecolor": LINE, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.5, "axes.axisbelow": True,
    "legend.frameon": False, "svg.hashsalt": "quiplinalg", "svg.fonttype": "none",
    "figure.figsize": (7.2, 3.4), "figure.constrained_layout.use": True,
})  # fmt: skip


# ------------------------------------------------------------------------------------ problems


def power_law(n: int, decay: float, seed: int) -> np.ndarray:
    """H with eigenvalues k^-decay in a Haar basis, mean diagonal 1."""
    rng = np.random.default_rng([seed, n])
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    H = (Q * np.arange(1, n + 1) ** -decay) @ Q.T
    return (H + H.T) / (2 * H.diagonal().mean())


def outlier_layer(m: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed weights, and a power-law H with outlier channels."""
    rng = np.random.default_rng([seed, m, n])
    s = np.exp(0.5 * rng.standard_normal(n))
    s[rng.choice(n, n // 100 + 1, replace=False)] *= 8
    H = s[:, None] * power_law(n, 1.2, seed) * s
    H = H / H.diagonal().mean() + 1e-2 * np.eye(n)
    W = rng.standard_t(5, (m, n)) * np.exp(0.3 * rng.standard_normal((m, 1)))
    return W * np.exp(0.3 * rng.standard_normal(n)) / np.sqrt(5 / 3), H


def integers() -> ql.UniformGrid:
    """The unbounded grid of step 1 that the theorems are about."""
    return ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits=None)


def rows_of(W: np.ndarray, H: np.ndarray, q: ql.Quantized) -> np.ndarray:
    """The loss of each row."""
    E = np.asarray(q, np.float64) - W
    return np.einsum("ij,ij->i", E @ H, E)


def holds(condition: bool, claim: str) -> None:
    """Stop where a claim of the page is not true."""
    if not condition:
        raise SystemExit(f"does not hold: {claim}")


def save(folder: Path, name: str) -> None:
    """Write the current figure."""
    path = folder / "figures" / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, metadata={"Date": None})
    plt.close()


# ------------------------------------------------------------------------------------ sections


def theorem_1(folder: Path) -> str:
    """Worst and average loss of LDLQ on the unbounded grid."""
    m, n, exact = 4000, 64, ql.AbsoluteDamp(0.0)
    decays = np.arange(0, 2.01, 0.25)
    means: dict[str, list[float]] = {"ldlq": [], "nearest": [], "stochastic": []}
    table, worst = [], 0.0
    single: dict[float, np.ndarray] = {}
    for decay in decays:
        H = power_law(n, decay, 1)
        D = ql.udu(H, damp=exact).D
        W = np.random.default_rng(2).uniform(0, 1, (m, n))
        keywords = {"grid": integers(), "order": "natural", "damp": exact}
        ldlq = ql.ldlq(W, H, **keywords)
        stochastic = ql.ldlq(W, H, rounding="stochastic", seed=0, **keywords)
        nearest = ql.nearest(W, H, grid=integers())
        losses = rows_of(W, H, ldlq)
        single[decay] = losses / (D.sum() / 12)
        worst = max(worst, float(losses.max() / (D.sum() / 4)))
        sigma = np.sqrt((D**2).sum() / 180 / m)  # of the mean of m rows
        holds(abs(losses.mean() - D.sum() / 12) <= 5 * sigma, f"mean = tr D / 12 at {decay}")
        for name, q in (("ldlq", ldlq), ("nearest", nearest), ("stochastic", stochastic)):
            means[name].append(q.loss / m / (H.trace() / 12))
        ratio = ldlq.loss / m / (D.sum() / 12)
        table.append((f"{decay:.2f}", f"{D.sum() / H.trace():.3f}", f"{ratio:.4f}",
                      f"{stochastic.loss / m / (D.sum() / 6):.4f}",
                      f"{nearest.loss / m / (H.trace() / 12):.4f}",
                      f"{losses.max() / (D.sum() / 4):.3f}"))  # fmt: skip
    holds(worst <= 1, "loss <= tr D / 4 for every row")

    _, (left, right) = plt.subplots(1, 2)
    shares = [float(row[1]) for row in table]
    left.plot(decays, shares, color=INK, lw=1, label="tr D / tr H")
    for name, label in (("nearest", "nearest"), ("stochastic", "LDLQ, stochastic"),
                        ("ldlq", "LDLQ, nearest")):  # fmt: skip
        left.plot(decays, means[name], "o", ms=4, color=COLORS[name], label=label)
    left.plot(decays, 2 * np.array(shares), color=INK, lw=1, ls=":", label="2 tr D / tr H")
    left.set(xlabel="decay of the spectrum of H", ylabel="mean loss / (tr H / 12)", ylim=(0, None))
    left.legend(fontsize=8)
    bins = np.linspace(0, 3.2, 81)
    for decay, color in ((0.0, SOFT), (1.0, COLORS["ldlq"]), (2.0, COLORS["quip"])):
        right.hist(single[decay], bins, histtype="step", color=color, label=f"decay {decay:g}")
    right.axvline(1, color=INK, lw=1)
    right.axvline(3, color=INK, lw=1, ls=":")
    top = right.get_ylim()[1]
    right.text(1.03, top, "tr D / 12", va="top")
    right.text(2.97, top, "tr D / 4", va="top", ha="right")
    right.set(xlabel="loss of a row / (tr D / 12)", ylabel=f"rows of {m}")
    right.legend(fontsize=8, loc="center right")
    save(folder, "theorem-1")
    return f"""## Theorem 1: LDLQ is optimal among linear feedbacks

H + damping = T D Tᵀ with T unit upper triangular. On the unbounded integer grid the loss of LDLQ is
at most tr D / 4 a row for every W, tr D / 12 on average over W uniform in [0, 1] with nearest
rounding and tr D / 6 with stochastic rounding; nearest rounding by itself costs tr H / 12.
No other feedback is better, because tr(R H Rᵀ) ≥ tr D for every unit upper triangular R.

![Mean losses follow tr D; no row passes tr D / 4](figures/theorem-1.svg)

{m} rows, n = {n}, eigenvalues k^−decay in a Haar basis:

{
        markdown(
            (
                "decay",
                "tr D / tr H",
                "LDLQ mean ÷ tr D/12",
                "stochastic mean ÷ tr D/6",
                "nearest mean ÷ tr H/12",
                "worst row ÷ tr D/4",
            ),
            table,
        )
    }

The more the spectrum decays, the more there is to win; at decay 0 H is a multiple of the identity,
D = diag H, and feedback brings nothing (theorem 4). Not a theorem: that LDLQ beats nearest on a
given W. It does not always.
"""


def counterexample(folder: Path) -> str:
    """Clamping breaks theorem 1; bounded feedback mends it."""
    sizes = (8, 16, 32, 64, 128, 256, 512)
    names = ("LDLQ, clamped", "nearest", "LDLQ, unbounded", "safe (c = 1)")
    colors = (COLORS["ldlq"], COLORS["nearest"], COLORS["ldlq"], COLORS["safe"])
    exact, losses = ql.AbsoluteDamp(0.0), []
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits=2)
    for n in sizes:
        W, H = ql.testing.clamped_counterexample(n, m=16)
        keywords = {"order": "natural", "damp": exact}
        losses.append([
            ql.ldlq(W, H, grid=grid, **keywords).loss / 16,
            ql.nearest(W, H, grid=grid).loss / 16,
            ql.ldlq(W, H, grid=integers(), **keywords).loss / 16,
            ql.safe(W, H, grid=grid, seed=0, **keywords).loss / 16,
        ])  # fmt: skip
    clamped, nearest, _, safe = np.array(losses)[sizes.index(64)]
    holds(clamped > 50 * nearest, "clamped LDLQ > 50 x nearest at n = 64")
    holds(safe < 3 * nearest, "safe < 3 x nearest at n = 64")
    for name, color, column in zip(names, colors, np.array(losses).T, strict=True):
        style = "--" if "unbounded" in name else "-"
        plt.loglog(sizes, column, style, marker="o", ms=3, color=color, lw=1.2, label=name)
    plt.legend(fontsize=8)
    plt.xticks(sizes, sizes)
    plt.minorticks_off()
    plt.xlabel("n")
    plt.ylabel("loss of a row")
    save(folder, "counterexample")
    rows = [(n, *(f"{x:.4g}" for x in row)) for n, row in zip(sizes, losses, strict=True)]
    return f"""## Section 5.2: a grid that ends breaks it

H = 11ᵀ + I with some entries perturbed by c = 0.01, weights 0.499 and 0.501, codes 0 to 3. LDLQ's
targets leave the grid, the clamped errors are fed forward, and the loss grows like n²; nearest, and
LDLQ on the unbounded grid, stay linear. Bounded feedback (algorithm 5, `safe`) stays with nearest.

![Loss of a row against n](figures/counterexample.svg)

{markdown(("n", *names), rows)}
"""


def incoherence(folder: Path) -> str:
    """mu before and after a random rotation, against the bound of the Hadamard transform."""
    sizes, delta = (64, 128, 256, 512, 1024), 0.1
    kinds = ("none", "hadamard", "kronecker")
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for n in sizes:
        W, H = outlier_layer(n, n, 3)
        W[0, 0] = 40  # one huge weight
        for kind in kinds:
            W2, H2 = W, H
            if kind != "none":
                W2, H2, _ = ql.incoherence_process(W, H, rotation=kind, sides="both", rescale=None)
            found[kind].append((ql.mu_weight(W2), ql.mu_hessian(H2).upper))
    n = np.array(sizes)
    bounds = (2 * np.log(4 * n * n / delta), np.sqrt(2 * np.log(2 * n * n / delta)))
    holds(
        all((np.array(found["hadamard"])[:, k] <= bounds[k]).all() for k in range(2)),
        "mu of the Hadamard transform is within its bound",
    )
    _, axes = plt.subplots(1, 2)
    labels = ("weights: μ_W", "Hessian: μ_H")
    for axis, k, label in zip(axes, range(2), labels, strict=True):
        for kind in kinds:
            axis.loglog(sizes, np.array(found[kind])[:, k], "-o", ms=4, lw=1.2,
                        color=COLORS[kind], label={"none": "before"}.get(kind, kind))  # fmt: skip
        axis.loglog(sizes, bounds[k], ":", color=INK, lw=1, label="Hadamard's bound, δ = 0.1")
        axis.set(xlabel="n", title=label)
        axis.set_yticks((3, 5, 10, 20, 40), (3, 5, 10, 20, 40))
        axis.set_xticks(sizes, sizes)
        axis.minorticks_off()
    axes[0].legend(fontsize=8)
    save(folder, "incoherence")
    rows = [
        (size, *(f"{found[kind][i][k]:.2f}" for k in range(2) for kind in kinds),
         f"{bounds[0][i]:.1f}", f"{bounds[1][i]:.2f}")
        for i, size in enumerate(sizes)
    ]  # fmt: skip
    return f"""## Lemma 5: random rotations make weights and Hessian incoherent

max |W_ij| ≤ μ_W ‖W‖_F / √(mn), and an eigenbasis with max |Q_ij| ≤ μ_H / √n. Heavy-tailed weights
with one of 40 times their size, a Hessian with outlier channels, before and after a rotation of
both sides. For the randomized Hadamard transform the constants are known (QuIP#, lemma 3.1):
μ_W ≤ 2 log(4mn/δ) and μ_H ≤ √(2 log(2n²/δ)), each with probability 1 − δ.

![mu before and after](figures/incoherence.svg)

{
        markdown(
            (
                "n",
                "μ_W before",
                "Hadamard",
                "Kronecker",
                "μ_H before",
                "Hadamard",
                "Kronecker",
                "bound μ_W",
                "bound μ_H",
            ),
            rows,
        )
    }
"""


def certificates(folder: Path) -> str:
    """The gap of each method to the bounds; and, where it is known, to the optimum."""
    W, H = outlier_layer(64, 32, 5)
    grid = ql.mse_grid(W, 3)
    optimum = ql.exact(W, H, grid=grid)
    best = optimum.quantized.loss
    holds(bool(optimum.proven.all()), "the exact search ends at n = 32")
    found = ql.certify(W, H, optimum.quantized, rows=len(W))
    lower = {"model bound": found.model_bound, "dual bound": sum(found.row_bounds)}
    holds(lower["dual bound"] <= best, "dual bound <= optimum")
    small = {name: method(W, H, grid).loss for name, method in METHODS.items()}
    holds(min(small.values()) >= best * (1 - 1e-9), "optimum <= every method")
    shares = {name: value / best for name, value in (small | lower).items()}

    W, H = outlier_layer(128, 192, 6)
    table, gaps = [], {}
    for bits in (2, 3, 4):
        grid = ql.mse_grid(W, bits)
        results = {name: method(W, H, grid) for name, method in METHODS.items()}
        results["quip, descent"] = ql.quip(W, H, bits, refine=None)
        for name, q in results.items():
            c = ql.certify(W, H, q, rows=4 if bits == 2 else 0)
            gaps[bits, name] = c.model_gap_db
            dual = f"{c.dual_gap_db:.2f}" if c.rows else "–"
            table.append((bits, name, f"{c.loss_db:.2f}", f"{c.model_gap_db:.2f}",
                          f"{c.order_db:.2f}", f"{c.rest_db:.2f}", dual))  # fmt: skip
    _, (left, right) = plt.subplots(1, 2, width_ratios=(1, 1.25))
    names = list(shares)
    colors = [SOFT if "bound" in name else PALETTE[name] for name in names]
    left.barh(range(len(names)), list(shares.values()), color=colors, height=0.6)
    left.axvline(1, color=INK, lw=1)
    left.set_yticks(range(len(names)), names)
    left.set(xlim=(0, 2.3), xlabel="loss / optimum, 3 bits, n = 32")
    left.invert_yaxis()
    left.grid(axis="y", visible=False)
    for k, value in enumerate(shares.values()):
        left.text(max(value, 1) + 0.04, k, f"{value:.2f}", va="center", fontsize=8)
    for name, color in PALETTE.items():
        right.plot((2, 3, 4), [gaps[b, name] for b in (2, 3, 4)], "-o", ms=4, lw=1.2, color=color,
                   label=name)  # fmt: skip
    right.axhline(1.53, color=INK, lw=1, ls=":")
    right.text(2, 1.45, "1.53 dB: cubes", va="top", fontsize=8)
    right.set(xlabel="bits", ylabel="dB above the model bound", xticks=(2, 3, 4), ylim=(0, 11.5))
    right.legend(fontsize=7, ncols=2)
    save(folder, "certificates")
    return f"""## How far from the best possible

Three bounds that `certify` and `quiplinalg verify --certificate` compute. The model bound assumes
uniform fractional parts (it is of the mean of the least loss, not of these weights'); the dual
bound holds for every row as it is; the third, rate and distortion, is of Gaussian weights only. At
n = 32 the optimum itself can be found by `exact`:

![Losses over the optimum; gaps in dB by method and bits](figures/certificates.svg)

A layer of 128 x 192 with outlier channels. All but quip round to the same MSE-clipped grid; quip's
grid, and so its bound, is its own. The gap is 1.53 dB of cubes (no feedback into integers is nearer
on average), what the order loses, and the rest: clipping, damping, no feedback. Dual: 4 rows.

{
        markdown(
            ("bits", "method", "loss dB", "gap dB", "of it order", "of it the rest", "dual gap dB"),
            table,
        )
    }
"""


def markdown(headers: tuple, rows: list[tuple]) -> str:
    """A table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (headers, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(headers), *lines[1:]])


def main(folder: Path = HERE) -> None:
    """Write the page and its figures."""
    sections = (theorem_1, counterexample, incoherence, certificates)
    text = "\n".join([INTRODUCTION, *(section(folder) for section in sections)])
    (folder / "quip-theorems.md").write_text(text)
    print(f"{folder / 'quip-theorems.md'}: every claim holds")


INTRODUCTION = """# QuIP's theorems, checked

Written by `python docs/quip_theorems.py`, which stops where a claim does not hold. Every number is
computed by the library from fixed seeds. W is (m, n), H (n, n) the second moment of the inputs, the
loss tr((Ŵ − W) H (Ŵ − W)ᵀ); losses are per row, in squared steps. The paper is
[arXiv 2307.13304](https://arxiv.org/abs/2307.13304); the same statements run as property tests in
`tests/properties`.
"""


if __name__ == "__main__":
    main()
