"""with_master_params: the parameters are the rounded float32 copy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference

LOW = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])


def step(optimizer, params, state, grads):
    updates, state = jax.jit(optimizer.update)(grads, state, params)
    chex.assert_trees_all_equal_dtypes(updates, grads)
    return optax.apply_updates(params, updates), state


def has_copy(m):
    return not isinstance(m, optax.MaskedNode)


def assert_is_rounded(params, master):
    def check(p, m):
        if has_copy(m):
            # NumPy's rounding, which XLA cannot leave out.
            np.testing.assert_array_equal(p, np.asarray(m).astype(p.dtype))

    jax.tree.map(check, params, master)


@LOW
def test_is_the_float32_run_rounded(dtype):
    injected = optax.inject_hyperparams(optax_ftml.ftml)(3e-3)
    box = optax_ftml.prox.box(-1, 1)
    optimizer = optax.chain(
        optax.partition(
            {"a": injected, "b": optax_ftml.ftml(0.1, prox=box)},
            {"w": "a", "b": "b", "wide": "b"},
        ),
        optax.contrib.reduce_on_plateau(patience=1),
    )

    def with_value(optimizer):
        """Gives each update a loss, which the last part asks for."""
        update = functools.partial(optimizer.update, value=jnp.float32(1))
        return optax.GradientTransformation(optimizer.init, update)

    draw = np.random.default_rng(0).normal
    params = {
        "w": jnp.asarray(10 * draw(size=(7, 5)), dtype),
        "b": [jnp.asarray(draw(size=()), dtype), jnp.zeros(3, dtype)],
        "wide": jnp.asarray(draw(size=4), jnp.float32),
    }
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    draws = jax.tree.map(lambda p: jnp.float32(draw(size=(20, *p.shape))), wide)

    def grads(t, _):
        return jax.tree.map(lambda g: g[t], draws)

    low = optax_ftml.with_master_params(optimizer)
    params, _, state = reference.run(with_value(low), params, grads, 20)
    expected, _, inner_state = reference.run(
        with_value(optimizer), wide, grads, 20
    )
    assert_is_rounded(params, state.master)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        state.inner_state, inner_state
    )
    master = jax.tree.map(
        lambda p, m: m if has_copy(m) else p, params, state.master
    )
    chex.assert_trees_all_close(master, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grads", ["low", "float32"])
@LOW
def test_lands_on_the_copy_however_far_the_step(dtype, grads):
    optimizer = optax_ftml.with_master_params(optax.scale(-1.0))
    largest = float(np.log2(float(jnp.finfo(dtype).max))) - 4
    rng = np.random.default_rng(0)

    def draw():
        magnitude = 2 ** rng.uniform(-largest / 2, largest, size=20_000)
        return rng.choice([-1, 1], 20_000) * magnitude

    params = jnp.asarray(draw(), dtype)
    state = optimizer.init(params)
    for is_small in [True, False, True, False]:
        before = np.float64(state.master)
        change = before * rng.uniform(-0.4, 0.4, size=before.shape)
        wanted = change if is_small else before - draw()
        g = jnp.asarray(wanted, dtype if grads == "low" else jnp.float32)
        params, state = step(optimizer, params, state, g)
        assert_is_rounded(params, state.master)
        g = np.float64(g)
        error = np.abs(np.float64(state.master) - (before - g))
        # Each of the two roundings loses half a unit, and stopping short of
        # the target one unit more.
        is_exact = is_small or grads == "float32"
        unit = 2.0**-23 if is_exact else float(jnp.finfo(dtype).eps)
        assert np.all(error <= 2 * unit * (np.abs(before) + np.abs(g)))


def test_follows_parameters_that_something_else_moved():
    optimizer = optax_ftml.with_master_params(optax.sgd(1e-3))
    params = jnp.array([1.0, 2.0, 3.0], jnp.bfloat16)
    ones = jnp.ones_like(params)
    params, state = step(optimizer, params, optimizer.init(params), ones)
    _, state = step(optimizer, params.at[1].set(5.0), state, ones)
    np.testing.assert_allclose(state.master, [0.998, 5 - 1e-3, 2.998])
    with pytest.raises(ValueError, match="params must be given"):
        optimizer.update(ones, state)


def test_wide_parameters_keep_no_copy(x64):
    dtypes = [jnp.float16, jnp.float32, jnp.complex64]
    params = [jnp.ones(2, dtype) for dtype in dtypes]
    for wide, copies in [
        (jnp.float32, [True, False, False]),
        (jnp.float64, [True, True, False]),
    ]:
        optimizer = optax_ftml.with_master_params(optax.adam(1e-3), wide)
        state = optimizer.init(params)
        assert list(map(has_copy, state.master)) == copies
        after, state = step(optimizer, params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, params)
        assert state.master[0].dtype == wide


@LOW
def test_a_finite_step_stays_finite_and_comes_back(dtype):
    largest = float(jnp.finfo(dtype).max)
    params = jnp.full(4, largest, dtype)
    optimizer = optax_ftml.with_master_params(optax.sgd(1.0))
    # Rounded to nearest, 1.003 times the largest number is infinite.
    grads = jnp.array([-0.003 * largest, 0, jnp.inf, jnp.nan], jnp.float32)
    params, state = step(optimizer, params, optimizer.init(params), grads)
    expected = [largest, largest, -np.inf, np.nan]
    np.testing.assert_array_equal(np.float32(params), np.float32(expected))
    grads = jnp.full(4, largest / 2, jnp.float32)
    params, state = step(optimizer, params, state, grads)
    np.testing.assert_array_equal(np.float32(params[:2]), largest / 2)


@pytest.mark.parametrize(
    "dtype", ["float16", jnp.bfloat16, jnp.int32, None, 32]
)
def test_a_copy_has_a_full_dtype(dtype):
    with pytest.raises(ValueError, match=r"dtype must be float32 .*, got"):
        optax_ftml.with_master_params(optax.sgd(0.1), dtype)
