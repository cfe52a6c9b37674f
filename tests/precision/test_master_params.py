"""with_master_params: the parameters are the rounded float32 copy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml

LOW = [jnp.bfloat16, jnp.float16]
OPTIMIZERS = {
    "adamw": lambda: optax.adamw(3e-3, weight_decay=0.1),
    "box": lambda: optax_ftml.ftml(0.1, prox=optax_ftml.prox.box(-1, 1)),
    "inject": lambda: optax.inject_hyperparams(optax_ftml.ftml)(3e-3),
}


def _params(dtype):
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(7, 5)) * 10, dtype),
        "b": [jnp.asarray(rng.normal(size=()), dtype), jnp.zeros((3,), dtype)],
        "wide": jnp.asarray(rng.normal(size=(4,)), jnp.float32),
    }


def _grads(params, seed, dtype=None):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), dtype or p.dtype),
        params,
    )


def _stepper(optimizer):
    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        assert jax.tree.map(lambda u, g: u.dtype == g.dtype, updates, grads)
        return optax.apply_updates(params, updates), state

    return step


def _has_copy(m):
    return not isinstance(m, optax.MaskedNode)


def _assert_is_rounded(params, master):
    def check(p, m):
        if _has_copy(m):
            # NumPy's rounding, which XLA cannot leave out.
            np.testing.assert_array_equal(
                np.asarray(p), np.asarray(m).astype(p.dtype)
            )

    jax.tree.map(check, params, master)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", LOW)
def test_is_the_float32_run_rounded(name, dtype):
    low = optax_ftml.with_master_params(OPTIMIZERS[name]())
    wide = OPTIMIZERS[name]()
    params = _params(dtype)
    target = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    state, wide_state = low.init(params), wide.init(target)
    chex.assert_trees_all_equal_shapes_and_dtypes(state.inner_state, wide_state)
    step, wide_step = _stepper(low), _stepper(wide)
    for t in range(20):
        grads = _grads(params, t, jnp.float32)
        params, state = step(params, state, grads)
        target, wide_state = wide_step(target, wide_state, grads)
        _assert_is_rounded(params, state.master)
    master = jax.tree.map(
        lambda p, m: m if _has_copy(m) else p, params, state.master
    )
    chex.assert_trees_all_close(master, target, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("grads", ["low", "float32"])
@pytest.mark.parametrize("dtype", LOW)
def test_lands_on_the_copy_however_far_the_step(dtype, grads):
    optimizer = optax_ftml.with_master_params(optax.scale(-1.0))
    step = _stepper(optimizer)
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
        params, state = step(params, state, g)
        _assert_is_rounded(params, state.master)
        g = np.float64(g)
        error = np.abs(np.float64(state.master) - (before - g))
        # Each of the two roundings loses half a unit, and stopping short of
        # the target one unit more.
        is_exact = is_small or grads == "float32"
        unit = 2.0**-23 if is_exact else float(jnp.finfo(dtype).eps)
        assert np.all(error <= 2 * unit * (np.abs(before) + np.abs(g)))


@pytest.mark.parametrize("dtype", LOW)
def test_small_steps_survive_a_loop(dtype):
    # Compiled into one loop, where XLA may keep more digits than asked for.
    # 2e-7 is below the normal numbers of float16.
    optimizer = optax_ftml.with_master_params(optax.sgd(1.0))
    step = _stepper(optimizer)
    start = jnp.array([1.0, 1e-2, 3e-5], dtype)
    grads = jnp.array([1e-4, 2e-7, 2e-7], dtype)
    (params, state), _ = jax.lax.scan(
        lambda carry, _: (step(*carry, grads), None),
        (start, optimizer.init(start)),
        length=100,
        unroll=4,
    )
    expected = np.float64(start) - 100 * np.float64(grads)
    np.testing.assert_allclose(state.master, expected, rtol=1e-3)
    _assert_is_rounded(params, state.master)


def test_follows_parameters_that_something_else_moved():
    optimizer = optax_ftml.with_master_params(optax.sgd(1e-3))
    step = _stepper(optimizer)
    params = jnp.array([1.0, 2.0, 3.0], jnp.bfloat16)
    ones = jnp.ones_like(params)
    params, state = step(params, optimizer.init(params), ones)
    untouched = np.asarray(state.master)
    params, state = step(params.at[1].set(5.0), state, ones)
    np.testing.assert_allclose(
        state.master, [untouched[0] - 1e-3, 5 - 1e-3, untouched[2] - 1e-3]
    )
    _assert_is_rounded(params, state.master)


def test_zero_updates_leave_copy_and_parameters_alone():
    optimizer = optax_ftml.with_master_params(optax.sgd(0.0))
    params = _params(jnp.bfloat16)
    state = optimizer.init(params)
    state = state._replace(
        master=jax.tree.map(lambda m: m * (1 + 2.0**-10), state.master)
    )
    after = _stepper(optimizer)(params, state, _grads(params, 0))
    chex.assert_trees_all_equal(after, (params, state))


def test_wide_parameters_keep_no_copy(x64):
    params = {
        "low": jnp.ones(2, jnp.float16),
        "single": jnp.ones(2, jnp.float32),
        "complex": jnp.ones(2, jnp.complex64),
    }
    for dtype, copies in [
        (jnp.float32, [True, False, False]),
        (jnp.float64, [True, True, False]),
    ]:
        optimizer = optax_ftml.with_master_params(optax.adam(1e-3), dtype)
        state = optimizer.init(params)
        assert [_has_copy(state.master[k]) for k in params] == copies
        after, state = _stepper(optimizer)(params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, params)
        assert state.master["low"].dtype == dtype


@pytest.mark.parametrize("dtype", LOW)
def test_a_finite_step_stays_finite_and_comes_back(dtype):
    largest = float(jnp.finfo(dtype).max)
    params = jnp.full(4, largest, dtype)
    optimizer = optax_ftml.with_master_params(optax.sgd(1.0))
    step, state = _stepper(optimizer), optimizer.init(params)
    # Rounded to nearest, 1.003 times the largest number is infinite.
    grads = jnp.array([-0.003 * largest, 0, jnp.inf, jnp.nan], jnp.float32)
    params, state = step(params, state, grads)
    expected = [largest, largest, -np.inf, np.nan]
    np.testing.assert_array_equal(np.float32(params), np.float32(expected))
    params, state = step(params, state, jnp.full(4, largest / 2, jnp.float32))
    np.testing.assert_array_equal(np.float32(params[:2]), largest / 2)


def test_partition_inside_and_extra_arguments():
    params = _params(jnp.bfloat16)
    optimizer = optax_ftml.with_master_params(
        optax.chain(
            optax.partition(
                {"a": optax.sgd(0.1), "b": optax_ftml.ftml(0.1)},
                {"w": "a", "b": "b", "wide": "b"},
            ),
            optax.contrib.reduce_on_plateau(patience=1),
        )
    )
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for t in range(5):
        grads = _grads(params, t)
        updates, state = update(grads, state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
    _assert_is_rounded(params, state.master)
    assert state.inner_state[1].scale < 1


def test_errors():
    for dtype in (jnp.bfloat16, jnp.float64, jnp.int32):
        with pytest.raises(ValueError, match=r"dtype must be float32 .*, got"):
            optax_ftml.with_master_params(optax.sgd(0.1), dtype)
    optimizer = optax_ftml.with_master_params(optax.sgd(0.1))
    params = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="params must be given"):
        optimizer.update(params, optimizer.init(params))
