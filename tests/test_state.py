"""The state's and the updates' shapes, dtypes and structure, and what moves."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet

BOX = optax_ftml.prox.box(-10.0, 10.0)
IDENTITY = optax_ftml.prox.l1(0.0)  # For complex parameters too.
DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64, jnp.complex64]
PROXES = pytest.mark.parametrize(
    "prox", [None, IDENTITY], ids=["delta", "leader"]
)


def assert_same_avals(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        aval, other_aval = jax.typeof(x), jax.typeof(y)
        assert aval == other_aval
        assert aval.weak_type == other_aval.weak_type


@PROXES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("schedule", [0.1, lambda count: 0.1 / (count + 1)])
def test_is_stable(x64, prox, dtype, jit, schedule):
    params = {
        "scalar": jnp.ones((), dtype),
        "matrix": jnp.ones((2, 3), dtype),
        "empty": jnp.ones((0, 3), dtype),
        "none": None,
        "tree": {},
    }
    optimizer = optax_ftml.ftml(schedule, prox=prox)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    first = state
    for _ in range(3):
        updates, state = update(params, state, params)
        assert_same_avals(state, first)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_tree_all_finite((updates, state))


@PROXES
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (jnp.float16, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float32),
        (jnp.float64, jnp.float64),
        (jnp.complex64, jnp.float32),
        (jnp.complex128, jnp.float64),
    ],
)
def test_v_is_real_and_at_least_float32(x64, prox, dtype, expected):
    state = optax_ftml.ftml(prox=prox).init(jnp.ones(3, dtype))
    v = optax.tree.get(state, "v")
    assert v.dtype == expected
    if prox is not None:
        assert state.leader.dtype == jnp.promote_types(dtype, jnp.float32)


@PROXES
def test_accumulator_dtype_speaks_of_v_alone(x64, prox):
    optimizer = optax_ftml.ftml(prox=prox, accumulator_dtype=jnp.float64)
    params = jnp.ones(3, jnp.float32)
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert optax.tree.get(state, "v").dtype == jnp.float64
    assert updates.dtype == jnp.float32
    if prox is not None:
        assert state.leader.dtype == jnp.float32


@PROXES
@pytest.mark.parametrize("grad_dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("kind", [float, np.float64, np.array, jnp.float32])
def test_updates_have_their_gradients_dtype(
    prox, grad_dtype, param_dtype, kind
):
    params = jnp.ones(3, param_dtype)
    optimizer = optax_ftml.ftml(kind(0.125), prox=prox)
    updates, _ = optimizer.update(
        jnp.ones(3, grad_dtype), optimizer.init(params), params
    )
    assert updates.dtype == grad_dtype
    np.testing.assert_allclose(np.float64(updates), -0.125, rtol=1e-6)


@PROXES
def test_init_on_shapes_alone(prox):
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((), jnp.bfloat16)}
    shapes = jax.eval_shape(lambda: params)
    optimizer = optax_ftml.ftml(prox=prox)
    chex.assert_trees_all_equal(optimizer.init(shapes), optimizer.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(optimizer.init, shapes), optimizer.init(params)
    )


@PROXES
def test_init_shares_no_buffer_with_the_parameters(prox):
    optimizer = optax_ftml.ftml(prox=prox)
    params = jnp.ones(3)
    state = optimizer.init(params)
    step = jax.jit(optimizer.update, donate_argnums=(1, 2))
    step(jnp.ones(3), state, params)  # Fails where one buffer is given twice.


@PROXES
@pytest.mark.parametrize("params", [{}, (), None, [None], {"a": {}}])
def test_empty_trees(prox, params):
    optimizer = optax_ftml.ftml(prox=prox)
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert updates == params
    assert optax.tree.get(state, "count") == 1


@PROXES
def test_python_scalars_are_parameters(prox):
    optimizer = optax_ftml.ftml(0.5, prox=prox)
    state = optimizer.init(1.0)
    updates, _ = optimizer.update(jnp.asarray(2.0), state, 1.0)
    np.testing.assert_allclose(updates, -0.5, rtol=1e-6)


@PROXES
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_gradients_move_nothing(x64, prox, dtype):
    params = jnp.asarray([1.1, -3.3, 0.007], dtype)
    optimizer = optax_ftml.ftml(0.3, prox=prox)

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    # Once moved, so that v and the leader are not what init made them.
    carry, _ = step((params, optimizer.init(params)), jnp.ones_like(params))
    moved = carry[0]
    zeros = jnp.zeros((1000, 3), dtype)
    (actual, state), _ = jax.jit(
        lambda carry: jax.lax.scan(step, carry, zeros)
    )(carry)
    assert not jnp.any(moved == params)
    chex.assert_trees_all_equal(actual, moved)
    chex.assert_tree_all_finite(state)


@PROXES
def test_v_follows_float32_in_bfloat16(prox):
    # In bfloat16 itself it would stop: 0.999 is 1 there.
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.normal(1.0, 1.0, size=(1000, 20)), jnp.bfloat16)

    def train(dtype):
        optimizer = optax_ftml.ftml(0.01, prox=prox)

        def step(carry, g):
            params, state = carry
            updates, state = optimizer.update(g.astype(dtype), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.zeros(20, dtype)
        carry, _ = jax.lax.scan(step, (params, optimizer.init(params)), grads)
        chex.assert_tree_all_finite(carry)
        return optax.tree.get(carry[1], "v")

    chex.assert_trees_all_equal(train(jnp.bfloat16), train(jnp.float32))


def make_rounding(**numbers):
    return optax.chain(
        optax_ftml.ftml(**numbers, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    )


def make_master(**numbers):
    return optax_ftml.with_master_params(optax_ftml.ftml(**numbers, prox=BOX))


def make_without_memory(b1, **numbers):
    del b1
    return optax_ftml.ftml(b1=0, **numbers, prox=BOX)


def make_mxnet(learning_rate, b1, b2, eps, eps_root, **options):
    del eps_root
    return mxnet.ftml(learning_rate, b1, b2, eps, wd=eps, **options)


def make_mxnet_scheduled(learning_rate, **numbers):
    return make_mxnet(
        learning_rate=learning_rate,
        **numbers,
        lr_scheduler=mxnet.FactorScheduler(2),
        begin_num_update=jnp.asarray(3, jnp.int32),
        multi_precision=True,
    )


STATES = {
    "delta": optax_ftml.ftml,
    "leader": functools.partial(optax_ftml.ftml, prox=BOX),
    "without memory": make_without_memory,
    "mxnet": make_mxnet,
    "mxnet scheduled": make_mxnet_scheduled,
    "rounding": make_rounding,
    "master": make_master,
}


@pytest.mark.parametrize("make", STATES.values(), ids=STATES.keys())
@pytest.mark.parametrize("wrap", ["plain", "inject", "multi", "finite"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shares_no_buffer(make, wrap, dtype):
    numbers = {
        name: jnp.float32(x)
        for name, x in {
            "learning_rate": 0.1,
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-3,
            "eps_root": 1e-3,
        }.items()
    }
    optimizer = make(**numbers)
    if wrap == "inject":

        def injected(learning_rate, b1, b2, eps, eps_root):
            return make(
                learning_rate=learning_rate,
                b1=b1,
                b2=b2,
                eps=eps,
                eps_root=eps_root,
            )

        optimizer = optax.inject_hyperparams(
            injected, hyperparam_dtype=jnp.float32
        )(**numbers)
    if wrap == "multi":
        optimizer = optax.MultiSteps(optimizer, 2).gradient_transformation()
    if wrap == "finite":  # Which wants the updates in the gradients' dtype.
        dtype = jnp.float32
        optimizer = optax.apply_if_finite(optimizer, 5)
    params = {"a": jnp.ones(3, dtype), "b": jnp.ones((), dtype)}
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    grads = jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        params, state = step(params, state, grads)
    if wrap != "inject":  # Optax keeps the very arrays that it is given.
        assert not any(x.is_deleted() for x in numbers.values())
