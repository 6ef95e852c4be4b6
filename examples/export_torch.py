"""PyTorch: hooks on the Linear layers collect their inputs while the model runs as it is.

Works for any model made of ``nn.Linear``; here one attention block that reads the 8 rows of a digit
as 8 tokens.

Usage: ``python examples/export_torch.py digits.h5``; needs torch and scikit-learn.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from walkthrough import batches, main

import quiplinalg as ql

# Layers that are called on the same tensor have one Hessian: it is collected, stored and factored
# once.  In a Llama: k_proj and v_proj with q_proj, up_proj with gate_proj.
SAME_INPUTS = {"k": "q", "v": "q"}


class Attention(nn.Module):
    """One block of a transformer, and a linear classifier of its tokens."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(0.1 * torch.randn(8, width))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(8 * width, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.embed(pixels.unflatten(1, (8, 8))) + self.place
        x = x + self.o(nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head(x.flatten(1))


def train(x: np.ndarray, y: np.ndarray) -> nn.Module:
    torch.manual_seed(0)
    model = Attention()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(10):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            logits = model(torch.from_numpy(x)[rows])
            nn.functional.cross_entropy(logits, torch.from_numpy(y)[rows]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def predict(model: nn.Module, x: np.ndarray) -> np.ndarray:
    return model(torch.from_numpy(x)).numpy()


@torch.no_grad()
def export(model: nn.Module, x: np.ndarray, file: ql.ProblemWriter) -> None:
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    hessians = {name: ql.Hessian(layers[name].in_features) for name in layers.keys() - SAME_INPUTS}
    hooks = [
        layers[name].register_forward_pre_hook(lambda _, inputs, H=H: H.add(inputs[0].cpu()))
        for name, H in hessians.items()
    ]
    for batch in batches(x):
        model(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()

    for name, layer in layers.items():  # weight is (out, in), as quiplinalg has it
        owner = SAME_INPUTS.get(name)
        file.add(name, layer.weight.cpu(), hessians.get(name), shared_hessian_of=owner)
    for name, value in model.state_dict().items():  # biases, norms, embeddings: kept as they are
        if name.removesuffix(".weight") not in layers:
            file.add_array(name, value.cpu())


def put_back(problem: ql.ProblemReader, result: ql.ResultReader) -> nn.Module:
    state = {name: torch.tensor(problem.array(name)) for name in problem.arrays}
    for name in result.names:
        state[f"{name}.weight"] = torch.tensor(result.layer(name).dequantize())
    model = Attention()
    model.load_state_dict(state)
    return model.eval()


if __name__ == "__main__":
    main(train, predict, export, put_back)
