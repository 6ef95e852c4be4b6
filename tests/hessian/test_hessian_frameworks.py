"""Activations of torch and JAX, bfloat16 too, read where they are."""

import numpy as np
import pytest

import quiplinalg as ql

X = np.random.default_rng(0).integers(-8, 9, (3, 40, 6)).astype(np.float64) / 4
WANT = np.einsum("abi,abj->ij", X, X)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn"])
def test_torch(name):
    torch = pytest.importorskip("torch")
    batch = torch.from_numpy(X).to(getattr(torch, name)).requires_grad_(True)
    H = ql.Hessian(6)
    H.add(batch, weights=torch.ones(3, 40, dtype=torch.bool))
    assert (H.sum() == WANT).all()  # quarters: exact in every one of these formats
    assert batch.requires_grad
    probe = torch.zeros(6, dtype=torch.float64)
    A = torch.from_numpy(WANT)
    seen = []

    def product(v):
        seen.append(v)
        return A @ v

    estimate = ql.hutchinson_diagonal(product, 6, probes=8, like=probe)
    assert all(isinstance(v, torch.Tensor) and v.dtype == torch.float64 for v in seen)
    plain = ql.hutchinson_diagonal(lambda v: WANT @ v, 6, probes=8)
    assert np.abs(estimate.diagonal - plain.diagonal).max() <= 1e-12 * np.abs(WANT).max()


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_jax(name):
    jnp = pytest.importorskip("jax.numpy")
    H = ql.Hessian(6)
    H.add(jnp.asarray(X, getattr(jnp, name)))
    assert (H.sum() == WANT).all() and H.precision == "float32"


def test_shift_target_gives_back_the_callers_kind():
    torch = pytest.importorskip("torch")
    W = torch.ones(2, 6, dtype=torch.bfloat16)
    out = ql.shift_target(W, WANT, WANT)
    assert isinstance(out, torch.Tensor) and out.dtype == torch.bfloat16 and torch.equal(out, W)
