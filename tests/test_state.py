"""The state's and the updates' shapes, dtypes and structure, and what moves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference

DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64"]
FORMS = reference.FORMS
each = pytest.mark.parametrize("form", FORMS)
both_forms = pytest.mark.parametrize("form", ["delta", "leader"])


def avals(tree):
    return jax.tree.map(lambda x: (jax.typeof(x), x.weak_type), tree)


def slots(state):
    """The trees in the state that are like the parameters."""
    names = ("v", "multiplier", "mu", "nu")
    found = {name: optax.tree.get(state, name) for name in names}
    return {name: slot for name, slot in found.items() if slot is not None}


@each
def test_is_stable_in_every_dtype_at_once(x64, form):
    params = {
        "empty": jnp.ones((0, 3)),
        "none": None,
        "scalar": jnp.ones((), jnp.bfloat16),
        "tree": {},
        **{dtype: jnp.ones((2, 3), dtype) for dtype in DTYPES},
    }
    optimizer = FORMS[form](lambda t: 0.1 / (t + 1))
    state = first = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(3):
        updates, state = update(params, state, params)
        assert avals(state) == avals(first)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_tree_all_finite((updates, state))
    # On shapes alone, too.
    shapes = jax.eval_shape(lambda: params)
    chex.assert_trees_all_equal(optimizer.init(shapes), first)
    # At least float32, and the average of squares is real.
    for name, slot in slots(state).items():
        for dtype in DTYPES:
            wide = np.result_type(jnp.dtype(dtype), np.float32)
            expected = jnp.finfo(wide).dtype if name in ("v", "nu") else wide
            assert slot[dtype].dtype == expected


@both_forms
def test_accumulator_dtype_speaks_of_v_alone(x64, form):
    optimizer = FORMS[form](accumulator_dtype=jnp.float64)
    params = jnp.ones(3, jnp.float32)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert updates.dtype == jnp.float32
    expected = {"v": jnp.float64, "multiplier": jnp.float32}
    for name, slot in slots(state).items():
        assert slot.dtype == expected[name]


@each
@pytest.mark.parametrize("kind", [float, np.float64, np.array, jnp.float32])
def test_updates_have_their_gradients_dtype(form, kind):
    pairs = [(p, g) for p in DTYPES[1:3] for g in DTYPES[1:3]]
    params = [jnp.ones(3, p) for p, _ in pairs]
    grads = [jnp.ones(3, g) for _, g in pairs]
    optimizer = FORMS[form](kind(0.125))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for update, g in zip(updates, grads, strict=True):
        assert update.dtype == g.dtype
        # An update stops short of a target that it would round to beyond of.
        rtol = float(jnp.finfo(g.dtype).eps)
        np.testing.assert_allclose(np.float64(update), -0.125, max(rtol, 1e-5))


@each
@pytest.mark.parametrize("params", [{}, (), None, [None], {"a": {}}, 1.0])
def test_trees_without_arrays(form, params):
    optimizer = FORMS[form](0.5)
    grads = jax.tree.map(jnp.asarray, params)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    expected = jax.tree.map(lambda p: -p / 2, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    assert optax.tree.get(state, "count") == 1


@both_forms
def test_zero_gradients_move_nothing(x64, form):
    params = {dtype: jnp.asarray([1.1, -3.3, 0.007], dtype) for dtype in DTYPES}
    optimizer = FORMS[form](0.3)

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
def test_slots_follow_float32_in_bfloat16(form):
    # In bfloat16 itself they would stop: 0.999 is 1 there.
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.normal(1.0, 1.0, size=(300, 20)), jnp.bfloat16)

    def train(dtype):
        optimizer = FORMS[form](0.0)

        def step(state, g):
            params = jnp.zeros(20, dtype)
            _, state = optimizer.update(g.astype(dtype), state, params)
            return state, None

        start = optimizer.init(jnp.zeros(20, dtype))
        return slots(jax.lax.scan(step, start, grads)[0])

    chex.assert_trees_all_equal(train(jnp.bfloat16), train(jnp.float32))


@pytest.mark.parametrize("seed", [2**32 - 1, 2**70, -1, np.int64(2**20)])
def test_any_integer_is_a_seed(seed):
    optimizer = optax.chain(
        optax_ftml.ftml(seed=seed, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(seed),
    )
    params = jnp.ones(4, jnp.bfloat16)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    chex.assert_tree_all_finite(updates)
