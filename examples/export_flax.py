"""Flax: an interceptor sees every call of a Dense layer, with its inputs, outside jit.

Works for any ``flax.linen`` model; here a perceptron whose two branches read the same features.

Usage: ``python examples/export_flax.py digits.h5``; needs flax, optax and scikit-learn.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from walkthrough import batches, main

import quiplinalg as ql


class Gated(nn.Module):
    """A gated block as in Llama, and a linear classifier: gate and up have the same inputs."""

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(64, name="embed")(pixels))
        gate, up = nn.Dense(96, name="gate")(x), nn.Dense(96, name="up")(x)
        x = x + nn.Dense(64, name="down")(nn.silu(gate) * up)
        return nn.Dense(10, name="head")(x)


def train(x: np.ndarray, y: np.ndarray) -> dict:
    model, optimizer = Gated(), optax.adam(2e-3)

    def loss(variables: dict) -> jax.Array:
        logits = model.apply(variables, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(y)).mean()

    @jax.jit
    def step(variables: dict, state: optax.OptState) -> tuple[dict, optax.OptState]:
        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    variables = model.init(jax.random.key(0), x[:1])
    state = optimizer.init(variables)
    for _ in range(150):
        variables, state = step(variables, state)
    return variables


def predict(variables: dict, x: np.ndarray) -> np.ndarray:
    return np.asarray(Gated().apply(variables, x))


def export(variables: dict, x: np.ndarray, file: ql.ProblemWriter) -> None:
    hessians: dict[str, ql.Hessian] = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            name = "/".join(context.module.path)
            if name not in hessians:
                hessians[name] = ql.Hessian(args[0].shape[-1])
            hessians[name].add(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        for batch in batches(x):
            Gated().apply(variables, batch)

    params = flatten_dict(variables["params"], sep="/")
    for name, H in hessians.items():  # a kernel is (in, out); gate and up have equal Hessians,
        file.add(name, params.pop(f"{name}/kernel"), H, orientation="in_out")  # stored once
    for name, value in params.items():  # biases, norms, embeddings: kept as they are
        file.add_array(name, value)


def put_back(problem: ql.ProblemReader, result: ql.ResultReader) -> dict:
    params = {name: problem.array(name) for name in problem.arrays}
    for name in result.names:
        params[f"{name}/kernel"] = result.layer(name).dequantize().T
    return {"params": jax.tree.map(jnp.asarray, unflatten_dict(params, sep="/"))}


if __name__ == "__main__":
    main(train, predict, export, put_back)
