"""Whole layers on a device, through the same functions as on the host."""

import numpy as np
import pytest

import quiplinalg as ql

KEYWORDS = (
    {},
    {"bits": 4, "clip": "minmax", "order": "natural"},
    {"bits": 3, "sym": True, "damp": "auto", "block": 8},
    {"group_size": 16},
    {"group_size": 10, "clip": "minmax", "order": "natural"},
    {"group_size": 16, "static_groups": True, "clip": "minmax"},
    {"rounding": "stochastic", "seed": 1 << 40, "clip": "minmax"},
    {"clip": "best"},
    {"damp": ql.AbsoluteDamp(0.3)},
)
SHAPES = ((1, 1), (5, 7), (130, 33), (3, 129), (33, 150))


def problem(m, n, dtype=np.float32, seed=0):
    rng = np.random.default_rng([m, n, seed])
    X = rng.standard_normal((2 * n + 4, n)) @ rng.standard_normal((n, n))
    H = X.T @ X / len(X)
    if n > 20:
        H[11] = H[:, 11] = 0
    return rng.standard_normal((m, n)).astype(dtype), H


def assert_same(device, host):
    """The same to the last bit but for sums in another order, where the scales are the same."""
    if not np.array_equal(device.grid.scale, host.grid.scale):
        # of two ranges that are as good, the other one: 1e-5 of the sums, of few rows
        assert np.mean(device.grid.scale != host.grid.scale) <= 0.02
        assert np.mean(device.codes != host.codes) <= 0.02
        assert device.loss == pytest.approx(host.loss, rel=0.02)
    else:
        np.testing.assert_array_equal(device.grid.zero, host.grid.zero)
        np.testing.assert_array_equal(device.codes, host.codes)
        assert device.loss == pytest.approx(host.loss, rel=1e-9, abs=1e-20)
        assert device.clipped == pytest.approx(host.clipped)
        assert device.near_tie_rows == host.near_tie_rows
    for name in ("permutation", "dead"):
        np.testing.assert_array_equal(getattr(device, name), getattr(host, name))
    for name in ("damp", "order", "method", "rounding", "seed", "precision", "bits_per_weight"):
        assert getattr(device, name) == getattr(host, name), name
    assert device.trace_D == pytest.approx(host.trace_D, rel=1e-9, nan_ok=True)
    index = getattr(device.grid, "group_index", None)
    assert (index is None) == (host.grid.group_index is None)
    if index is not None:
        np.testing.assert_array_equal(index, host.grid.group_index)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", [ql.ldlq, ql.gptq])
def test_layers_are_those_of_the_host(cuda, function, shape):
    for i, keywords in enumerate(KEYWORDS):
        W, H = problem(*shape, np.float64 if i % 3 == 1 else np.float32)
        q = function(cuda.xp.asarray(W), cuda.xp.asarray(H), **keywords)
        assert type(q.codes) is type(q.grid.scale) is type(q.dequantize()) is cuda.xp.ndarray
        assert q.dequantize().dtype == W.dtype
        host = function(W, H, **keywords)
        assert_same(q.to_host(), host)
        np.testing.assert_array_equal(q.dequantize().get(), q.to_host().values(W.dtype))
        assert q.nearest_loss(cuda.xp.asarray(W), cuda.xp.asarray(H)) == pytest.approx(
            q.to_host().nearest_loss(W, H), rel=1e-9
        )


def test_host_arrays_come_back_to_the_host(cuda):
    W, H = problem(20, 30)
    there = ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(H)).to_host()
    q = ql.ldlq(W.astype(np.float16), H.tolist(), backend="cuda")
    assert type(q.codes) is np.ndarray and q.dequantize().dtype == np.float16
    q = ql.ldlq(W, H, backend="cuda")
    np.testing.assert_array_equal(q.codes, there.codes)
    np.testing.assert_array_equal(q.grid.scale, there.grid.scale)


def test_the_second_device(cuda):
    W, H = problem(20, 30)
    with cuda.xp.cuda.Device(1):
        there = cuda.xp.asarray(W), cuda.xp.asarray(H)
    q = ql.ldlq(*there)
    assert q.codes.device.id == q.dequantize().device.id == 1
    ready = ql.prepare(there[1])
    np.testing.assert_array_equal(ql.ldlq(W, ready, backend="cuda").codes, q.codes.get())
    with pytest.raises(ql.BackendMismatchError, match=r"device 1.*device 0"):
        ql.ldlq(cuda.xp.asarray(W), ready)
    with pytest.raises(ql.BackendMismatchError, match=r"W .* device 0.*H .* device 1"):
        ql.ldlq(cuda.xp.asarray(W), there[1])


def test_grids_that_are_given(cuda):
    W, H = problem(20, 30)
    plain = ql.UniformGrid(np.full((1, 1), 0.25, np.float32), np.zeros((1, 1), np.float32), None)
    for grid in (ql.mse_grid(W, 2), plain, ql.minmax_grid(W, 3, group_size=8, scale_dtype="f2")):
        host = ql.ldlq(W, H, grid=grid)
        q = ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(H), grid=grid)
        np.testing.assert_array_equal(q.codes.get(), host.codes)
        assert q.codes.dtype == host.codes.dtype
    found = ql.mse_grid(cuda.xp.asarray(W), 2, group_size=8)
    assert type(found.scale) is cuda.xp.ndarray
    q = ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(H), grid=found)
    np.testing.assert_array_equal(q.grid.scale.get(), found.scale.get())
    with pytest.raises(ql.BackendMismatchError, match="grid"):
        ql.ldlq(W, H, grid=found)
    tiny = ql.UniformGrid(np.full((1, 1), 1e-12, np.float32), plain.zero, None)
    with pytest.raises(ql.InvalidArgumentError, match="codes fit in int32"):
        ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(H), grid=tiny)


@pytest.mark.parametrize("where", ("host", "device"))
def test_grids_in_any_strides(cuda, where):
    W, H = problem(20, 30)
    made = ql.minmax_grid(W, 3, group_size=8)
    scale, zero = (np.repeat(a, 2, axis=1)[:, ::2] for a in (made.scale, made.zero))
    for order in (np.asfortranarray, np.asarray):
        arrays = [order(a) for a in (scale, zero)]
        assert not arrays[0].flags.c_contiguous
        grid = made.of_arrays(*arrays)
        if where == "device":
            arrays = [cuda.xp.asarray(np.ascontiguousarray(a.T)).T for a in arrays]
        there = made.of_arrays(*arrays)
        for rounded in (
            lambda W, H, grid: ql.nearest(W, grid=grid),
            lambda W, H, grid: ql.ldlq(W, H, grid=grid),
            lambda W, H, grid: ql.obq(W, H, grid=grid),
        ):
            host = rounded(W, H, grid)
            q = rounded(cuda.xp.asarray(W), cuda.xp.asarray(H), there)
            np.testing.assert_array_equal(q.codes.get(), host.codes)
            np.testing.assert_array_equal(q.dequantize().get(), host.dequantize())


def test_many_dead_columns_are_waited_for_once(cuda, monkeypatch):
    waits = []
    for name in ("get", "__bool__", "__int__", "__float__"):
        own = getattr(cuda.xp.ndarray, name)

        def counted(self, *args, own=own, **kwargs):
            waits.append(1)
            return own(self, *args, **kwargs)

        monkeypatch.setattr(cuda.xp.ndarray, name, counted)
    W, H = problem(8, 40)
    counts = []
    for dead in (1, 30):
        some = H.copy()
        some[:dead] = some[:, :dead] = 0
        waits.clear()
        assert ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(some)).dead.size == dead + (dead < 11)
        counts.append(len(waits))
    assert counts[0] == counts[1] <= 12


def test_a_prepared_hessian(cuda):
    W, H = problem(20, 30)
    ready = ql.prepare(cuda.xp.asarray(H), order="natural")
    whole = ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(H), order="natural")
    for wide in (np.float32, np.float64):  # another precision factors again
        q = ql.ldlq(cuda.xp.asarray(W, wide), ready, order="natural")
        if wide == np.float32:
            np.testing.assert_array_equal(q.codes.get(), whole.codes.get())
    with pytest.raises(ql.InvalidArgumentError, match="backend must be that of the prepared H"):
        ql.ldlq(W, ready, order="natural")


def test_damping_is_raised_where_it_must_be(cuda):
    W, H = problem(6, 10)
    bad = H - 1.2 * np.linalg.eigvalsh(H)[1] * np.eye(10)
    bad[np.diag_indices(10)] = np.maximum(bad.diagonal(), 1e-3)
    with pytest.warns(ql.DampingWarning):
        host = ql.ldlq(W, bad, damp="auto")
    with pytest.warns(ql.DampingWarning):
        q = ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(bad), damp="auto")
    assert_same(q.to_host(), host)


@pytest.mark.parametrize("n", [1, 5, 129, 200])
def test_what_cannot_be_factored_says_where(cuda, n):
    H = np.eye(n)
    H[n // 2, n // 2] = 1e-3
    H[0, n - 1] = H[n - 1, 0] = 2 if n > 1 else 0
    if n == 1:
        H[:] = -1
    for make in (ql.cholesky, ql.udu):
        with pytest.raises(ql.NotPositiveDefiniteError) as host:
            make(H)
        with pytest.raises(ql.NotPositiveDefiniteError) as there:
            make(cuda.xp.asarray(H))
        assert there.value.index == host.value.index
        assert there.value.pivot == pytest.approx(host.value.pivot)
        assert str(there.value) == str(host.value)


@pytest.mark.parametrize("n", [0, 1, 2, 17, 129])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factorisations(cuda, n, dtype):
    H = (problem(1, n)[1] + np.eye(n)).astype(dtype)
    A = cuda.xp.asarray(H)
    eps = np.finfo(dtype).eps
    norm = np.abs(H).sum(axis=0).max(initial=0)
    L = ql.cholesky(A).L
    factor, ldl = ql.udu(A), ql.ldl(A)
    assert all(type(a) is cuda.xp.ndarray and a.dtype == dtype for a in (L, factor.T, factor.D))
    for X in (L @ L.T, factor.reconstruct(), ldl.reconstruct()):
        assert np.abs(X.get() - H).sum(axis=0).max(initial=0) <= 10 * max(n, 1) * eps * norm
    np.testing.assert_array_equal(np.triu(L.get(), 1), 0)
    np.testing.assert_array_equal(np.tril(factor.T.get(), -1), 0)
    np.testing.assert_array_equal(factor.T.get().diagonal(), 1)
    np.testing.assert_allclose(
        factor.D.get(), ql.udu(H).D, rtol=1e-3 if dtype == np.float32 else 1e-9
    )


def test_nearest_descent_and_obq(cuda):
    xp = cuda.xp
    W, H = problem(20, 30)
    there = xp.asarray(W), xp.asarray(H)
    for keywords in ({}, {"rounding": "stochastic", "seed": 4, "group_size": 7}):
        q = ql.nearest(there[0], H=there[1], **keywords)
        assert_same(q.to_host(), ql.nearest(W, H=H, **keywords))
    start = ql.ldlq(*there)
    end = ql.descend(*there, start)
    host = ql.descend(W, H, start.to_host())
    assert type(end.codes) is xp.ndarray and end.loss < start.loss
    np.testing.assert_array_equal(end.codes.get(), host.codes)
    assert (end.passes, end.changed) == (host.passes, host.changed) and end.loss == pytest.approx(
        host.loss
    )
    for order in ("greedy", "act"):
        trace, host = ql.obq_trace(*there, order=order), ql.obq_trace(W, H, order=order)
        assert type(trace.order) is type(trace.costs) is type(trace.quantized.codes) is xp.ndarray
        np.testing.assert_array_equal(trace.order.get(), host.order)
        assert_same(trace.quantized.to_host(), host.quantized)


def test_rotations(cuda):
    X = np.random.default_rng(0).standard_normal((9, 96)).astype(np.float32)
    H = X.T @ X
    for make in (ql.hadamard_orthogonal, ql.kronecker_orthogonal):
        Q = make(96, seed=3)
        for name, a in (("apply", X), ("apply_transposed", X), ("conjugate", H)):
            found = getattr(Q, name)(cuda.xp.asarray(a))
            assert type(found) is cuda.xp.ndarray
            np.testing.assert_array_equal(found.get(), getattr(Q, name)(a))


def test_bad_arrays_get_the_errors_of_the_host(cuda):
    W, H = problem(4, 6)
    cases = []
    for value in (np.nan, np.inf):
        bad = W.copy()
        bad[2, 3] = value
        cases.append((bad, H))
        bad = H.copy()
        bad[5, 1] = value
        cases.append((W, bad))
    skew, negative, filled = H.copy(), H.copy(), H.copy()
    skew[0, 1] += 1e3
    negative[2, 2] = -1
    filled[2, 2] = 0
    cases += [(W, skew), (W, negative), (W, filled), (W.T, H), (W[0], H), (W, H[:3]), (W, H[None])]
    cases += [(W.astype(int), H), (W, H.astype(complex))]
    for w, h in cases:
        with pytest.raises(ql.QuipLinalgError) as host:
            ql.ldlq(w, h)
        with pytest.raises(type(host.value)) as there:
            ql.ldlq(cuda.xp.asarray(w), cuda.xp.asarray(h))
        assert str(there.value) == str(host.value)


def test_orders_of_the_host_only(cuda):
    W, H = (cuda.xp.asarray(a) for a in problem(4, 6))
    for call in (ql.ldlq, lambda W, H, **kw: ql.ldlq(W[None], H[None], **kw)):
        with pytest.raises(ql.BackendUnavailableError, match=r"min-pivot.*order='act'"):
            call(W, H, order="min-pivot")


def test_nothing_is_changed(cuda):
    W, H = problem(20, 30)
    there = cuda.xp.asarray(W), cuda.xp.asarray(H)
    q = ql.ldlq(*there, group_size=8)
    ql.descend(*there, ql.ldlq(*there))
    ql.obq(*there)
    q.dequantize()[...] = 7
    np.testing.assert_array_equal(there[0].get(), W)
    np.testing.assert_array_equal(there[1].get(), H)


@pytest.mark.parametrize("seed", range(30))
def test_the_pivot_that_failed_is_not_positive(cuda, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 20))
    X = rng.standard_normal((int(rng.integers(1, n)), n))
    H = cuda.xp.asarray(np.full((n, n), 0.3) if seed == 0 else X.T @ X)
    try:
        ql.ldlq(cuda.xp.ones((2, n)), H, damp=0.0)
    except ql.NotPositiveDefiniteError as error:
        assert error.pivot <= 0 and 0 <= error.index < n


def test_what_only_exports_by_dlpack(cuda):
    from fake_frameworks import Exporter

    W, H = (cuda.xp.asarray(a) for a in problem(4, 6))
    q = ql.ldlq(Exporter(W, (2, 0)), Exporter(H, (2, 0)))
    np.testing.assert_array_equal(q.codes.get(), ql.ldlq(W, H).codes.get())


def test_a_hessian_prepared_elsewhere(cuda):
    W, H = problem(4, 6)
    for weight in (W, W[None]):
        with pytest.raises(ql.InvalidArgumentError, match="that of the prepared H, 'cpu'"):
            ql.ldlq(cuda.xp.asarray(weight), ql.prepare(H))


def test_memory_that_is_not_there(cuda):
    W, H = (cuda.xp.asarray(a) for a in problem(64, 100))
    pool = cuda.xp.get_default_memory_pool()
    pool.set_limit(pool.used_bytes() + 50_000)
    try:
        with pytest.raises(ql.InsufficientMemoryError, match="free_all_blocks"):
            ql.ldlq(W, H)
    finally:
        pool.set_limit(0)
