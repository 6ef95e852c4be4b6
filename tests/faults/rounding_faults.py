"""Faults in rounding: its kernels, its driver, descent, grids."""

from __future__ import annotations

from fault import Fault

ROUND = ("tests/rounding/test_rounding.py",)
TIES = ("tests/properties/test_ties.py", *ROUND)
SLOTS = ("tests/kernels/test_slots.py", *ROUND)
DESCENT = ("tests/kernels/test_descent_slots.py", "tests/rounding/test_descent.py")
GRIDS = ("tests/grids/test_grids.py", *SLOTS)
QUIP = ("tests/rounding/test_quip.py",)

TILE, KERNEL = "kernels/cpu_tile.py", "kernels/cpu_rounding.py"
DRIVER, ROUNDER = "rounding/driver.py", "rounding/rounder.py"

FAULTS = (
    Fault(
        "halves are rounded up",
        TILE,
        'k = emit.call("rint", y)\n',
        'k = emit.call("floor", builder.fadd(y, emit.constant(0.5)))\n',
        TIES,
    ),
    Fault(
        "no clamp at the lower end",
        TILE,
        "            k = builder.select(less(k, low), low, k)\n",
        "",
        SLOTS,
    ),
    Fault(
        "codes above the grid wrap round in uint8",
        TILE,
        "            k = builder.select(less(high, k), high, k)\n",
        "",
        SLOTS,
    ),
    Fault(
        "what clipping costs is not fed back",
        TILE,
        "            k = builder.select(less(k, low), low, k)\n"
        "            k = builder.select(less(high, k), high, k)\n"
        "            w_hat = builder.fmul(step_size, builder.fsub(k, offset))\n",
        "            w_hat = builder.fmul(step_size, builder.fsub(k, offset))\n"
        "            k = builder.select(less(k, low), low, k)\n"
        "            k = builder.select(less(high, k), high, k)\n",
        SLOTS,
    ),
    Fault(
        "the feedback has the wrong sign",
        TILE,
        "error = builder.fsub(emit.load(e, place), w_hat)",
        "error = builder.fsub(w_hat, emit.load(e, place))",
        SLOTS,
    ),
    Fault(
        "half-integer zeros are taken as whole",
        TILE,
        "y = builder.fadd(builder.fdiv(z, step_size), builder.fsub(offset, whole))",
        "y = builder.fdiv(z, step_size)",
        SLOTS,
    ),
    Fault(
        "stochastic rounding is to nearest",
        TILE,
        'k = builder.fadd(emit.call("floor", builder.fadd(y, u01)), whole)',
        'k = builder.fadd(emit.call("rint", y), whole)',
        SLOTS,
    ),
    Fault(
        "the last panel of a block is not fed back within it",
        KERNEL,
        "U, u_at + c0 * PANEL, first - c0)",
        "U, u_at + c0 * PANEL, max(first - c0 - PANEL, 0))",
        SLOTS,
    ),
    Fault(
        "off by a panel between blocks",
        KERNEL,
        "steps = min(_STEPS, c0 - k0)",
        "steps = min(_STEPS, c0 - k0 - PANEL)",
        SLOTS,
    ),
    Fault(
        "the rows of a tile that is not full are those of the one before",
        KERNEL,
        "source = W[i]\n",
        "source = W[i if i + lanes <= m or i == 0 else i - 1]\n",
        SLOTS,
    ),
    Fault(
        "the counter of the random numbers wraps at 256 columns",
        KERNEL,
        "x1 = np.uint32(columns[c])",
        "x1 = np.uint32(columns[c] & 0xFF)",
        SLOTS,
    ),
    Fault(
        "H_kk for 1 / [H^-1]_kk in the loss",
        "rounding/prepared.py",
        "        D = host_diagonal(factor)[::-1] ** 2",
        "        D = (self._diagonal + damping)[self.permutation].astype(np.float64)",
        ROUND,
    ),
    Fault(
        "the loss keeps the damping term",
        "rounding/plan.py",
        "loss = max(float(whole - added), 0.0)",
        "loss = max(float(whole), 0.0)",
        ROUND,
    ),
    Fault(
        "group scales from the original weights",
        ROUNDER,
        "        run.kernels.compensate(self.F, U, plan.columns, *span, self.Z, X)\n",
        "        mine = plan.columns[slice(*span)]\n"
        "        X[:] = plan.W[self.rows][:, mine[mine >= 0]]\n",
        ROUND,
    ),
    Fault(
        "group scales from targets that lack the columns to come",
        ROUNDER,
        "        run.kernels.compensate(self.F, U, plan.columns, *span, self.Z, X)\n",
        "        done = np.flatnonzero(plan.columns[slice(*span)] >= 0)\n"
        "        X[:] = self.F[:, done].transpose(0, 2, 1).reshape(-1, real)[:count]\n",
        ROUND,
    ),
    Fault(
        "groups are rounded with scales that are not those stored",
        ROUNDER,
        "s, o = s.astype(np.float32).astype(X.dtype), o.astype(np.float32).astype(X.dtype)",
        "pass",
        ROUND,
    ),
    Fault(
        "groups of the caller's columns where those of the order are meant",
        DRIVER,
        "group = np.where(real, place // (options.group_size or 1), 0)",
        "group = np.where(real, columns // (options.group_size or 1), 0)",
        ROUND,
    ),
    Fault(
        "the permutation is applied the wrong way round to W",
        DRIVER,
        "columns = np.where(real, permutation[place], -1)",
        "columns = np.where(real, np.argsort(permutation)[place], -1)",
        ROUND,
    ),
    Fault(
        "the permutation is applied to H and not to W",
        DRIVER,
        "columns = np.where(real, permutation[place], -1)",
        "columns = place",
        ROUND,
    ),
    Fault(
        "the worse of two clips is kept",
        ROUNDER,
        "np.subtract(*other.row_loss.T) < np.subtract(*self.row_loss.T)",
        "np.subtract(*other.row_loss.T) > np.subtract(*self.row_loss.T)",
        ROUND,
    ),
    Fault(
        "every tile draws the random numbers of the first",
        ROUNDER,
        "run.kernels.philox(run.options.philox_key, first, columns, noise)",
        "run.kernels.philox(run.options.philox_key, 0, columns, noise)",
        ("tests/properties/test_oracle.py", *ROUND),
    ),
    Fault(
        "every tile has the scales of the first rows",
        ROUNDER,
        "self.scale = tiled(run.out.scale[rows], tiles, lanes, 1)",
        "self.scale = tiled(run.out.scale[: rows.stop - rows.start], tiles, lanes, 1)",
        ROUND,
    ),
    Fault(
        "threads share their work space: a race",
        ROUNDER,
        "        def work() -> None:\n            buffers = self._buffers(height)\n",
        "        buffers = self._buffers(height)\n\n        def work() -> None:\n",
        ("tests/properties/test_determinism.py", *ROUND),
    ),
    Fault(
        "the feedback is float32 where float64 was promised",
        "rounding/plan.py",
        "    return U\n\n\ndef panels",
        "    return U.astype(np.float32).astype(dtype)\n\n\ndef panels",
        TIES,
    ),
    Fault(
        "float64 weights are rounded in float32",
        "arrays.py",
        'np.float64 if dtype.kind == "f" and dtype.itemsize >= 8 else np.float32',
        "np.float32",
        ("tests/test_arrays.py", *TIES),
    ),
    Fault(
        "the seed is ignored",
        "rounding/options.py",
        "return (seed ^ (seed >> 32)) & 0xFFFFFFFF",
        "return 0",
        ROUND,
    ),
    Fault(
        "only the low half of the seed counts",
        "rounding/options.py",
        "return (seed ^ (seed >> 32)) & 0xFFFFFFFF",
        "return seed & 0xFFFFFFFF",
        ROUND,
    ),
    Fault(
        "nearest rounds halves up",
        "grids/apply.py",
        "            k = np.rint(y)\n",
        "            k = np.floor(y + 0.5)\n",
        ROUND,
    ),
    Fault(
        "nearest wraps round in uint8",
        "grids/apply.py",
        "codes[rows] = np.clip(k, low, grid.maxq)",
        "codes[rows] = k.astype(np.int64)",
        ROUND,
    ),
    Fault(
        "the zero point is not rounded",
        "kernels/cpu_grid.py",
        "return scale, rint(-p * least / scale)",
        "return scale, -p * least / scale",
        GRIDS,
    ),
    Fault(
        "a symmetric grid has its zero between two codes",
        "kernels/cpu_grid.py",
        "return scale, kind((maxq + 1) / 2)",
        "return scale, kind(maxq / 2)",
        GRIDS,
    ),
    Fault(
        "a group is fitted without its last column",
        "grids/search.py",
        "part = X[rows, g * group_size : (g + 1) * group_size]",
        "part = X[rows, g * group_size : (g + 1) * group_size - 1]",
        GRIDS,
    ),
    Fault(
        "an RMS grid has a level too many",
        "grids/search.py",
        "scale = (2 * rho * rms / maxq).astype(dtype)",
        "scale = (2 * rho * rms / (maxq + 1)).astype(dtype)",
        GRIDS,
    ),
    Fault(
        "descent clips after it has judged a step",
        "kernels/cpu_descent.py",
        "                    new = min(max(new, low), high)\n"
        "                    d = size * (new - old)\n",
        "                    d = size * (new - old)\n"
        "                    new = min(max(new, low), high)\n",
        DESCENT,
    ),
    Fault(
        "descent leaves the residual of other blocks stale",
        "kernels/cpu_descent.py",
        "for start, end in ((0, k0), (k1, n)):",
        "for start, end in ((k1, n),):",
        DESCENT,
    ),
    Fault(
        "descent walks up the slope",
        "kernels/cpu_descent.py",
        "target = old - slope / (curve * size)",
        "target = old + slope / (curve * size)",
        DESCENT,
    ),
    Fault(
        "verify lets a clipped code stand at the wrong end",
        "rounding/verify.py",
        "under = np.where(codes == grid.maxq, -np.inf, under)",
        "under = np.where((codes == grid.maxq) | (codes == 0), -np.inf, under)",
        ("tests/rounding/test_verify.py",),
    ),
    Fault(
        "quip does not count what a rotation costs",
        "rounding/quip.py",
        "return loss + 2 * q.bits_per_weight, q.bits_per_weight",
        "return loss, q.bits_per_weight",
        QUIP,
    ),
    Fault(
        "the loss reads one triangle of H",
        "losses.py",
        "else E @ hessian",
        "else E @ np.triu(hessian)",
        ROUND,
    ),
)
