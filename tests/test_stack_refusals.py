"""What takes one array, one H or one layer says so to stacks, lists and prepared ones."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from stacked import indefinite, layers

import quiplinalg as ql
from quiplinalg.errors import level_of_caller

W3, H3 = layers(4, 6, 8, dtype=np.float64, h_dtype=np.float64)
W, H = W3[0], H3[0]
PRUNED = {"sparsity": 0.5}
# functions of (W, H) for one layer
OF_ONE = {
    "exact": ql.exact,
    "kbest": ql.kbest,
    "lnq": ql.lnq,
    "mse_grid": lambda W, H: ql.mse_grid(W, 2),
    "nearest": ql.nearest,
    "obq": ql.obq,
    "quip": ql.quip,
    "safe": ql.safe,
    "sparsegpt": lambda W, H: ql.sparsegpt(W, H, **PRUNED),
}
# functions of (W, H, quantized)
OF_RESULTS = {
    "certify": ql.certify,
    "descend": ql.descend,
    "low_rank_correction": lambda W, H, q: ql.low_rank_correction(W, H, q, 1),
    "refit": ql.refit,
    "verify": ql.verify,
}


class Array:
    """As of JAX on a GPU: __array__ copies to the host, and says nothing."""

    def __init__(self, a, module="jaxlib._jax", kind=2):
        self.a, self.shape, self.dtype, self.ndim = a, a.shape, a.dtype, a.ndim
        self._kind = kind
        self.__class__ = type("ArrayImpl", (Array,), {"__module__": module})

    def devices(self):
        return [SimpleNamespace(platform="gpu" if self._kind == 2 else "cpu")]

    def __dlpack_device__(self):
        return self._kind, 0

    def __array__(self, dtype=None, copy=None):
        return self.a

    def __len__(self):
        return len(self.a)

    def __getitem__(self, i):
        return self.a[i]


@pytest.mark.parametrize("name", OF_ONE)
def test_a_stack_for_a_function_of_one_layer(name):
    with pytest.raises(
        ql.InvalidArgumentError,
        match=r"W must be a matrix.*\(4, 6, 8\)\. ldlq and gptq take stacks.*one member at a time, "
        r"W\[i\], or for convolutions flatten the trailing axes first: W\.reshape",
    ):
        OF_ONE[name](W3, H3)


def test_stacks_of_hessians_for_one():
    for call in (ql.prepare, ql.udu, lambda H: ql.nearest(W, H), lambda H: ql.obq(W, H)):
        with pytest.raises(
            ql.InvalidArgumentError, match=r"takes one H: .*H\[i\].*ldlq and gptq take stacks of H"
        ):
            call(H3)
    with pytest.raises(ql.InvalidArgumentError, match=r"X\.T @ X"):
        ql.prepare(W3)
    with pytest.raises(ql.InvalidArgumentError, match=r"\(1, 4, 6, 8\)\. Flatten the trailing"):
        ql.ldlq(W3[None], H)


@pytest.mark.parametrize("name", OF_RESULTS)
def test_results_of_several_layers_for_one(name):
    with pytest.raises(
        ql.DTypeError, match=r"got a QuantizedStack of 4\. Pass its members, stack\[i\], one by one"
    ):
        OF_RESULTS[name](W3, H3, ql.ldlq(W3, H3))
    with pytest.raises(ql.DTypeError, match=r"quantized must be a Quantized; got ndarray\. \w+"):
        OF_RESULTS[name](W, H, W)


def test_files_take_no_stack(tmp_path):
    stack = ql.ldlq(W3, H3)
    with ql.ResultWriter(tmp_path / "result.h5") as file:
        with pytest.raises(ql.DTypeError, match=r"layer must be .* QuantizedStack.*stack\[i\]"):
            file.add("experts", stack)
        file.add("experts/0", stack[0])


@pytest.mark.parametrize(
    "module,fix",
    (
        ("jaxlib._jax", r"jax\.numpy\.stack\(W\)"),
        ("torch", r"torch\.stack\(W\)"),
        ("cupy", r"cupy\.stack\(W\)"),
        ("tensorflow.python", r"tensorflow\.stack\(W\)"),
        ("other", "your library's stack"),
    ),
)
def test_lists_of_device_arrays_are_not_copied(module, fix):
    def there(a):
        return Array(a, module)

    for call in (
        lambda: ql.ldlq([there(W), there(W)], H),
        lambda: ql.ldlq((there(W), there(W)), H3[:2]),
        lambda: ql.ldlq([W, there(W)], H),
        lambda: ql.ldlq([[there(w) for w in W]], H),
        lambda: ql.kbest([there(w) for w in W], H),
        lambda: ql.nearest([there(w) for w in W]),
        lambda: ql.mse_grid([there(w) for w in W], 2),
    ):
        with pytest.raises(
            ql.DTypeError, match=rf"W must be one array; .*CUDA device 0.*silently.*{fix}"
        ):
            call()
    with pytest.raises(ql.DTypeError, match=r"H must be one array.*stack them on the device first"):
        ql.ldlq(W3, [there(h) for h in H3])


def test_lists_of_host_arrays_are_arrays():
    whole = ql.ldlq(W3, H3)
    for make in (np.asarray, list, tuple, lambda a: Array(a, kind=1), np.ndarray.tolist):
        stack = ql.ldlq([make(w) for w in W3], [make(h) for h in H3])
        assert np.array_equal(stack.codes, whole.codes)
    assert ql.nearest([[0.0, 0.4, 3.0]], bits=2, clip="minmax").codes.tolist() == [[0, 0, 3]]
    for empty in ([], [[]], ()):
        with pytest.raises(ql.QuipLinalgError):
            ql.nearest(empty, H)


def test_elements_of_lists_are_arrays():
    masked = np.ma.masked_array(W, W > 1)
    with pytest.raises(ql.DTypeError, match="an element of W must be a plain array; got a masked"):
        ql.ldlq([W, masked], H)
    with pytest.raises(ql.DTypeError, match="an element of W must be a dense array"):
        ql.ldlq([scipy.sparse.csr_array(W)], H)
    with pytest.raises(ql.DTypeError, match=r"H must be one array; got a list of PreparedHessian"):
        ql.ldlq(W3, [ql.prepare(h) for h in H3])


def test_a_prepared_hessian_where_an_array_is_needed():
    ready = ql.prepare(H)
    q = ql.ldlq(W, ready)
    taking = {k: call for k, call in OF_ONE.items() if k not in ("lnq", "mse_grid")}
    for call in (
        *taking.values(),
        lambda W, H: ql.descend(W, H, q),
        lambda W, H: q.nearest_loss(W, H),
        lambda W, H: ql.proxy_loss(q, W, H),
        lambda W, H: ql.udu(H),
    ):
        with pytest.raises(
            ql.DTypeError,
            match=r"H must be an array; got a PreparedHessian, .*ldlq, gptq and lnq.*H\.hessian",
        ):
            call(W, ready)
    assert ql.obq(W, ready.hessian).loss == ql.obq(W, H).loss


@pytest.mark.parametrize("value", ("x", None, 1, np.array([True, False])))
def test_flags_are_true_or_false(value):
    for name, calls in (
        ("sym", (ql.ldlq, ql.gptq, ql.nearest, ql.obq, ql.kbest, ql.safe, ql.exact)),
        ("static_groups", (ql.ldlq, ql.gptq)),
        ("outliers_first", (ql.obq,)),
        ("per_tensor", (ql.quip,)),
    ):
        for call in calls:
            with pytest.raises(
                ql.InvalidArgumentError, match=rf"{name} must be True or False; got {name}=.*\. \w+"
            ):
                call(W, H, **{name: value})


def test_flags_of_numpy():
    for name in ("sym", "static_groups"):
        for value in (False, True):
            ours, theirs = (
                ql.ldlq(W, H, group_size=4, **{name: v}) for v in (value, np.bool_(value))
            )
            assert np.array_equal(ours.codes, theirs.codes)


@pytest.mark.parametrize("damp", (np.array([0.1, 0.2]), [0.1], np.array(["auto"])))
def test_damping_is_one_number(damp):
    for call in (ql.ldlq, ql.obq, ql.safe, lambda W, H, damp: ql.prepare(H, damp=damp)):
        with pytest.raises(ql.InvalidArgumentError, match="damp must be a fraction"):
            call(W, H, damp=damp)
    with pytest.raises(ql.InvalidArgumentError, match="clip must be"):
        ql.ldlq(W, H, clip=np.array(["mse", "minmax"]))


WARNING = {
    "bounded_feedback": lambda W, H: ql.bounded_feedback(H, c=1.0, damp="auto"),
    "exact": lambda W, H: ql.exact(W, H, damp="auto"),
    "kbest": lambda W, H: ql.kbest(W, H, damp="auto"),
    "ldlq": lambda W, H: ql.ldlq(W, H, damp="auto"),
    "lnq": lambda W, H: ql.lnq(W, H, damp="auto"),
    "obq": lambda W, H: ql.obq(W, H, damp="auto"),
    "prepare": lambda W, H: ql.prepare(H, damp="auto"),
    "safe": lambda W, H: ql.safe(W, H, damp="auto"),
    "sparsegpt": lambda W, H: ql.sparsegpt(W, H, damp="auto", **PRUNED),
    "stack": lambda W, H: ql.ldlq(np.stack([W, W]), np.stack([H, H]), damp="auto"),
    "stack of one H": lambda W, H: ql.ldlq(np.stack([W, W]), H, damp="auto"),
    "udu": lambda W, H: ql.udu(H, damp="auto"),
}


@pytest.mark.parametrize("name", WARNING)
def test_warnings_name_the_line_that_called(name):
    call = WARNING[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(W, indefinite(8, 0.02))
    caught = [w for w in caught if w.category is ql.DampingWarning]
    assert len(caught) == (2 if name == "stack" else 1)
    assert {(w.filename, w.lineno) for w in caught} == {(__file__, call.__code__.co_firstlineno)}


def test_level_of_caller_ends_with_the_frames():
    assert level_of_caller() == 1
    namespace = {"level_of_caller": level_of_caller, "warnings": warnings}
    inside = compile(
        "def inner():\n    return level_of_caller()\ndef outer():\n    return inner()\n",
        ql.__file__, "exec",
    )  # fmt: skip
    exec(inside, namespace)
    assert namespace["outer"]() == 3
