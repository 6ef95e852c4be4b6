"""The GPTQ loop as it is published, in plain torch operations, one column at a time.

Algorithm 1 of Frantar, Ashkboos, Hoefler, Alistarh, GPTQ (arXiv 2210.17323).  With H + damp I and
R the upper Cholesky factor of its inverse, H^-1 = R^T R, for each block of columns J::

    for k in J:  q = Q(W_k),  e_k = (W_k - q) / R_kk,  W_{>k in J} -= e_k R_{k,>k in J}
    W_{after J} -= E_J R_{J, after J}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["BLOCK", "EagerGPTQ"]

BLOCK = 128


class EagerGPTQ:
    """A layer that is rounded anew by every `run`, after `prepare` has copied what it consumes.

    Parameters
    ----------
    W : ndarray, (m, n)
    H : ndarray, (n, n)
    scale, zero : ndarray, (m, 1)
        The grid, one step a row; zeros are whole numbers.
    bits : int
    act_order : bool
        Columns by descending diagonal of H, ties in the caller's order.
    damp : float
        A share of the mean of the diagonal of H.
    device : str
        Of torch: "cpu", "cuda".
    dtype : torch dtype
        Of everything that is computed.
    """

    def __init__(
        self,
        W: np.ndarray,
        H: np.ndarray,
        scale: np.ndarray,
        zero: np.ndarray,
        bits: int,
        *,
        act_order: bool = False,
        damp: float = 0.01,
        block: int = BLOCK,
        device: str = "cpu",
        dtype: Any = torch.float32,
    ):
        def moved(a: np.ndarray) -> torch.Tensor:
            return torch.tensor(np.array(a), dtype=dtype, device=device)

        self.source = moved(W), moved(H)
        self.scale, self.zero = moved(scale)[:, 0], moved(zero)[:, 0]
        if not bool((self.zero == self.zero.round()).all()):
            raise ValueError("zero must hold whole numbers: the published loop rounds w / scale")
        self.top = float(2**bits - 1)
        self.act_order, self.damp, self.block = act_order, damp, block
        self.work: tuple[torch.Tensor, ...] = ()

    def prepare(self) -> None:
        """Copy W and H."""
        self.work = tuple(x.clone() for x in self.source)

    @torch.no_grad()
    def run(self) -> torch.Tensor:
        """Return the codes, (m, n), in the caller's order; consumes what `prepare` copied."""
        W, H = self.work
        self.work = ()
        order = None
        if self.act_order:
            order = torch.argsort(H.diagonal(), descending=True, stable=True)
            W, H = W[:, order], H[order][:, order]
        H.diagonal().add_(self.damp * H.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        R = torch.linalg.cholesky(inverse, upper=True)
        codes = torch.empty_like(W)
        n = W.shape[1]
        for start in range(0, n, self.block):
            end = min(start + self.block, n)
            inside, triangle = W[:, start:end].clone(), R[start:end, start:end]
            errors = torch.empty_like(inside)
            for k in range(end - start):
                w = inside[:, k]
                code = (torch.round(w / self.scale) + self.zero).clamp_(0, self.top)
                e = (w - self.scale * (code - self.zero)) / triangle[k, k]
                inside[:, k + 1 :] -= torch.outer(e, triangle[k, k + 1 :])
                codes[:, start + k], errors[:, k] = code, e
            W[:, end:] -= errors @ R[start:end, end:]
        if order is None:
            return codes
        back = torch.empty_like(codes)
        back[:, order] = codes
        return back

    def codes(self) -> np.ndarray:
        """Return the codes of one run in host memory, uint8."""
        self.prepare()
        return self.run().to(torch.uint8).cpu().numpy()
