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
DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64"]
OPTIMIZERS = {
    "delta": optax_ftml.ftml,
    "leader": functools.partial(optax_ftml.ftml, prox=IDENTITY),
    "adam": functools.partial(optax_ftml.proximal_adam, prox=IDENTITY),
}
each = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def avals(tree):
    return jax.tree.map(lambda x: (jax.typeof(x), x.weak_type), tree)


def slots(state):
    """The leaves of each tree in the state that is like the parameters."""
    names = ("v", "multiplier", "mu", "nu")
    found = {name: optax.tree.get(state, name) for name in names}
    return {name: slot for name, slot in found.items() if slot is not None}


@each
@pytest.mark.parametrize(
    ("jit", "schedule"), [(True, 0.1), (False, lambda t: 0.1 / (t + 1))]
)
def test_is_stable_in_every_dtype_at_once(x64, make, jit, schedule):
    params = {
        "empty": jnp.ones((0, 3)),
        "none": None,
        "scalar": jnp.ones((), jnp.bfloat16),
        "tree": {},
        **{dtype: jnp.ones((2, 3), dtype) for dtype in DTYPES},
    }
    optimizer = make(schedule)
    state = first = optimizer.init(params)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    for _ in range(3):
        updates, state = update(params, state, params)
        assert avals(state) == avals(first)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_tree_all_finite((updates, state))
    # On shapes alone, too.
    shapes = jax.eval_shape(lambda: params)
    chex.assert_trees_all_equal(optimizer.init(shapes), first)
    # At least float32, and v is real.
    for name, slot in slots(state).items():
        for dtype in DTYPES:
            wide = np.result_type(jnp.dtype(dtype), np.float32)
            expected = jnp.finfo(wide).dtype if name == "v" else wide
            assert slot[dtype].dtype == expected


@pytest.mark.parametrize("prox", [None, IDENTITY])
def test_accumulator_dtype_speaks_of_v_alone(x64, prox):
    optimizer = optax_ftml.ftml(prox=prox, accumulator_dtype=jnp.float64)
    params = jnp.ones(3, jnp.float32)
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert updates.dtype == jnp.float32
    expected = {"v": jnp.float64, "multiplier": jnp.float32}
    for name, slot in slots(state).items():
        assert slot.dtype == expected[name]


@each
@pytest.mark.parametrize("kind", [float, np.float64, np.array, jnp.float32])
def test_updates_have_their_gradients_dtype(make, kind):
    pairs = [(p, g) for p in DTYPES[1:3] for g in DTYPES[1:3]]
    params = [jnp.ones(3, p) for p, _ in pairs]
    grads = [jnp.ones(3, g) for _, g in pairs]
    optimizer = make(kind(0.125))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for update, g in zip(updates, grads, strict=True):
        assert update.dtype == g.dtype
        # An update stops short of a target that it would round to beyond of.
        rtol = float(jnp.finfo(g.dtype).eps)
        np.testing.assert_allclose(np.float64(update), -0.125, max(rtol, 1e-5))


@each
@pytest.mark.parametrize("params", [{}, (), None, [None], {"a": {}}])
def test_empty_trees(make, params):
    optimizer = make(0.1)
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert updates == params
    assert optax.tree.get(state, "count") == 1


@each
def test_python_scalars_are_parameters(make):
    optimizer = make(0.5)
    state = optimizer.init(1.0)
    updates, _ = optimizer.update(jnp.asarray(2.0), state, 1.0)
    np.testing.assert_allclose(updates, -0.5, rtol=1e-5)


@pytest.mark.parametrize("prox", [None, IDENTITY])
def test_zero_gradients_move_nothing(x64, prox):
    params = {dtype: jnp.asarray([1.1, -3.3, 0.007], dtype) for dtype in DTYPES}
    optimizer = optax_ftml.ftml(0.3, prox=prox)

    def step(carry, scale):
        params, state = carry
        grads = jax.tree.map(lambda p: scale.astype(p.dtype) + 0 * p, params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    # First a gradient of 1, so that v is not what init made it.
    scales = jnp.zeros(300).at[0].set(1)
    _, seen = jax.lax.scan(step, (params, optimizer.init(params)), scales)
    for dtype in DTYPES:
        assert not np.any(seen[dtype][0] == params[dtype])
        assert np.all(seen[dtype] == seen[dtype][0])


@each
def test_slots_follow_float32_in_bfloat16(make):
    # In bfloat16 itself they would stop: 0.999 is 1 there.
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.normal(1.0, 1.0, size=(300, 20)), jnp.bfloat16)

    def train(dtype):
        optimizer = make(0.0)

        def step(state, g):
            params = jnp.zeros(20, dtype)
            _, state = optimizer.update(g.astype(dtype), state, params)
            return state, None

        start = optimizer.init(jnp.zeros(20, dtype))
        return slots(jax.lax.scan(step, start, grads)[0])

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


STATES = OPTIMIZERS | {
    "without memory": make_without_memory,
    "mxnet": make_mxnet,
    "mxnet scheduled": make_mxnet_scheduled,
    "rounding": make_rounding,
    "master": make_master,
}


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
@pytest.mark.parametrize("wrap", ["plain", "inject", "multi"])
def test_shares_no_buffer(make, wrap):
    """So that parameters and state can be donated."""
    values = {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9}
    values |= {"eps": 1e-3, "eps_root": 1e-3}
    numbers = {name: jnp.float32(x) for name, x in values.items()}
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
        )(**values)
    if wrap == "multi":
        optimizer = optax.MultiSteps(optimizer, 2).gradient_transformation()
    params = {"a": jnp.ones(3), "b": jnp.ones((), jnp.bfloat16)}
    grads = jax.tree.map(jnp.ones_like, params)
    state = optimizer.init(params)
    for _ in range(2):
        arrays = jax.tree.leaves((params, state, grads, numbers))
        buffers = [x.unsafe_buffer_pointer() for x in arrays]
        assert len(set(buffers)) == len(buffers)
        if wrap == "plain":
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("seed", [2**32 - 1, 2**70, -1, np.int64(2**20)])
def test_any_integer_is_a_seed(seed):
    optimizer = optax.chain(
        optax_ftml.ftml(seed=seed, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(seed),
    )
    params = jnp.ones(4, jnp.bfloat16)
    update = jax.jit(optimizer.update)
    updates, _ = update(params, optimizer.init(params), params)
    chex.assert_tree_all_finite(updates)
