"""Faults outside rounding: factors, damping, incoherence, files, updates, pruning."""

from __future__ import annotations

from fault import Fault

ROUND = ("tests/rounding/test_rounding.py",)
FACTOR = ("tests/factor/test_factorisations.py", "tests/kernels/test_slots.py")
PIVOT = ("tests/factor/test_min_pivot.py", "tests/kernels/test_pivot_slots.py")
BOUNDED = ("tests/factor/test_bounded.py", "tests/rounding/test_safe.py")
ROTATION = ("tests/incoherence/test_rotation.py", "tests/incoherence/test_process.py")
FILES = ("tests/files/test_result.py", "tests/files/test_problem.py")
HESSIAN = "kernels/cpu_hessian.py"

FAULTS = (
    Fault(
        "the factor's zero triangle is fed back: nearest in disguise",
        HESSIAN,
        "value = row[n - 1 - i] * inverse if i >= 0 and k >= 0 else 0.0",
        "value = A[n - 1 - i, n - 1 - k] * inverse if min(i, k) >= 0 and i != k else 0.0",
        ("tests/kernels/test_slots.py", *ROUND),
    ),
    Fault(
        "the feedback is divided by the row's pivot, not its own",
        HESSIAN,
        "inverse = 1.0 / row[n - 1 - k] if k >= 0 else 0.0",
        "inverse = 1.0 / A[0, 0] if k >= 0 else 0.0",
        ("tests/kernels/test_slots.py", *ROUND),
    ),
    Fault(
        "damping is added in reverse",
        HESSIAN,
        "A[j, j] += shift[n - 1 - j]",
        "A[j, j] += shift[j]",
        ("tests/kernels/test_slots.py", *BOUNDED, *ROUND),
    ),
    Fault(
        "the diagonal of H is not looked at for NaN",
        HESSIAN,
        "if i < whole else 0, i + 1)",
        "if i < whole else 0, i)",
        ("tests/kernels/test_slots.py", "tests/rounding/test_bad_input.py"),
    ),
    Fault(
        "a group's own errors are not made up for within it",
        HESSIAN,
        "shift[r] -= work[b, r] * u",
        "shift[r] -= 0 * u",
        ROUND,
    ),
    Fault(
        "the mean diagonal counts dead columns",
        "factor/damping.py",
        "    live = diagonal[diagonal > 0]\n    mean =",
        "    live = diagonal\n    mean =",
        ("tests/factor/test_factorisations.py", *ROUND),
    ),
    Fault(
        "the shift of columns is not permuted",
        "factor/recursive.py",
        "permuted = shift[order]",
        "permuted = shift",
        (*BOUNDED, *ROUND),
    ),
    Fault(
        "the pivot that failed is counted from the wrong end",
        "factor/recursive.py",
        "index = int(order[n - 1 - failed])",
        "index = int(order[failed])",
        FACTOR,
    ),
    Fault(
        "only the first tile below the diagonal is solved",
        "factor/recursive.py",
        "    run_all(kernels.solve_tile, [(A, *rows, i0, half) for rows in tiles])\n",
        "    kernels.solve_tile(A, *tiles[0], i0, half)\n",
        FACTOR,
    ),
    Fault(
        "D is its own square root",
        "factor/udu.py",
        "D=pivots**2",
        "D=pivots",
        FACTOR,
    ),
    Fault(
        "rows of L are divided where its columns should be",
        "factor/ldl.py",
        "C /= pivots\n",
        "C /= pivots[:, None]\n",
        FACTOR,
    ),
    Fault(
        "act order is ascending",
        "factor/orders.py",
        'return np.argsort(-diagonal, kind="stable")',
        'return np.argsort(diagonal, kind="stable")',
        ("tests/factor/test_min_pivot.py", *ROUND),
    ),
    Fault(
        "of equal pivots the last is taken",
        "kernels/cpu_pivot.py",
        "(d == least and order[i] < order[p])",
        "(d == least and order[i] > order[p])",
        PIVOT,
    ),
    Fault(
        "Schur diagonals are kept in float32",
        "kernels/cpu_pivot.py",
        "schur[c] -= np.float64(row[c]) * np.float64(row[c])",
        "schur[c] -= np.float64(np.float32(row[c]) * np.float32(row[c]))",
        PIVOT,
    ),
    Fault(
        "the bounded feedback's damping is in the wrong order",
        "factor/multipliers.py",
        "damping[order] += mu[::-1] / unit**2",
        "damping += mu[::-1] / unit**2",
        BOUNDED,
    ),
    Fault(
        "the bound is on the length, not its square",
        "factor/multipliers.py",
        "slope = here.lengths - bound",
        "slope = np.sqrt(here.lengths) - bound",
        BOUNDED,
    ),
    Fault(
        "undo rotates once more",
        "incoherence/process.py",
        "self.input.apply_transposed(rounded, backend=backend, scales=inverse)",
        "self.input.apply(rounded, backend=backend, scales=inverse)",
        ("tests/incoherence/test_process.py",),
    ),
    Fault(
        "H is scaled as W is",
        "incoherence/process.py",
        "return self.input.conjugate(hessian, backend, inverse, np.float64)",
        "return self.input.conjugate(hessian, backend, self.scales, np.float64)",
        ("tests/incoherence/test_process.py",),
    ),
    Fault(
        "both sides get the same rotation",
        "incoherence/process.py",
        "(int(seed) + OUTPUT_SEED) % (1 << 63)",
        "int(seed)",
        ("tests/incoherence/test_process.py",),
    ),
    Fault(
        "signs do not depend on the seed",
        "incoherence/draws.py",
        "_raw(seed, _SIGNS, index, n)",
        "_raw(0, _SIGNS, index, n)",
        ROTATION,
    ),
    Fault(
        "the rescaling has the wrong exponent",
        "incoherence/rescale.py",
        '"trace": (0.25, 0.5)',
        '"trace": (0.5, 0.5)',
        ("tests/incoherence/test_rescale.py",),
    ),
    Fault(
        "Haar matrices with the signs that QR gives",
        "incoherence/draws.py",
        "return Q * np.where(R.diagonal() < 0, -1.0, 1.0)",
        "return Q",
        ROTATION,
    ),
    Fault(
        "codes are packed with the first of eight in the highest bits",
        "grids/packing.py",
        "        words &= lower\n        words |= upper << (width // 8 * bits)\n",
        "        words[...] = (words & lower) << (width // 8 * bits) | upper\n",
        ("tests/grids/test_packing.py", *FILES),
    ),
    Fault(
        "the diagonal blocks of a packed triangle are not mirrored",
        "files/triangle.py",
        "            H[i0:i, i] = H[i, i0:i]  # the diagonal block\n",
        "            H[i0:i, i] = 0\n",
        ("tests/files/test_problem.py",),
    ),
    Fault(
        "checksums are of nothing",
        "files/elements.py",
        "if array.size else 0",
        "if not array.size else 0",
        FILES,
    ),
    Fault(
        "the permutation is lost in a file",
        "files/result.py",
        "                permutation=permutation,\n",
        "                permutation=None,\n",
        FILES,
    ),
    Fault(
        "a file is replaced without asking",
        "files/atomic.py",
        "if target.exists() and not overwrite:",
        "if target.exists() and not overwrite and target.is_dir():",
        ("tests/files/test_atomic.py",),
    ),
    Fault(
        "a file has its name before it is on the disk",
        "files/atomic.py",
        "        os.fsync(file.fileno())\n",
        "        file.fileno()\n",
        ("tests/files/test_durable.py",),
    ),
    Fault(
        "soft links are followed",
        "files/guard.py",
        "if group.id.links.get_info(part.encode()).type != h5l.TYPE_HARD:",
        "if group.id.links.get_info(part.encode()).type == h5l.TYPE_EXTERNAL:",
        ("tests/files/test_guard.py",),
    ),
)
