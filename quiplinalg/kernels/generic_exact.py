"""The generic twin of the exact search, in plain Python and NumPy."""

from __future__ import annotations

import numpy as np

__all__ = ["exact_rows"]


def exact_rows(W, U, D, grid, budget, codes, loss, nodes, proven):
    scale, zero, low, high = grid
    for r in range(W.shape[0]):
        row = _Row(W[r], U, D, scale[r], zero[r], (low, high), budget, codes[r])
        row.search()
        codes[r], loss[r], nodes[r], proven[r] = row.codes, row.best, row.count, row.proven


class _Row:
    """The search of one row."""

    def __init__(self, w, U, D, s, o, ends, budget, start):
        self.w, self.U, self.D, self.s, self.o = w, U, D, s, o
        self.ends, self.budget = ends, budget
        self.codes, self.count, self.proven = start.copy(), 0, True
        self.best, target = 0.0, w.copy()
        for k, q in enumerate(start):
            self.best = self.cost(k, q, target[k], self.best)
            target = self.below(k, q, target)

    def cost(self, k, q, z, before):
        eta = self.s[k] * (q - self.o[k]) - z
        return before + self.D[k] * (eta * eta)

    def below(self, k, q, target):
        """The targets once column k has the code q."""
        return target + (self.w[k] - self.s[k] * (q - self.o[k])) * self.U[k]

    def search(self):
        """Visit nodes, nearest children first; no recursion, n may be large."""
        low, high = self.ends
        n = len(self.w)
        stack = [self.open(self.w.copy(), 0.0, 0)] if n else []
        while stack:
            target, before, k, up, down = stack[-1][:5]
            costs = [
                self.cost(k, q, target[k], before) if low <= q <= high else np.inf
                for q in (up, down)
            ]
            here = min(costs)
            if not here < self.best:
                stack.pop()
                continue
            if self.count >= self.budget:
                self.proven = False
                return
            self.count += 1
            upward = costs[0] < costs[1]
            q = up if upward else down
            stack[-1][3 if upward else 4] += 1 if upward else -1
            if k == n - 1:
                self.best = here
                self.codes[:] = [*(int(frame[5]) for frame in stack[:-1]), int(q)]
                continue
            stack[-1][5:] = [q]
            stack.append(self.open(self.below(k, q, target), here, k + 1))

    def open(self, target, before, k):
        """A node at depth k: its targets, its cost, and its next codes on both sides."""
        z, s, o = target[k], self.s[k], self.o[k]
        q = min(max(np.rint(z / s + o), self.ends[0]), self.ends[1])
        above = s * (q - o) - z >= 0
        return [target, before, k, q if above else q + 1, q - 1 if above else q]
