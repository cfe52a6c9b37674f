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
    "adam": lambda: optax.adam(3e-3),
    "adamw": lambda: optax.adamw(3e-3, weight_decay=0.1),
    "sgd": lambda: optax.sgd(1e-2, momentum=0.9),
    "lion": lambda: optax.lion(1e-3),
    "ftml": lambda: optax_ftml.ftml(3e-3),
    "ftml box": lambda: optax_ftml.ftml(0.1, prox=optax_ftml.prox.box(-1, 1)),
    "schedule": lambda: optax_ftml.ftml(optax.cosine_decay_schedule(0.1, 50)),
    "inject": lambda: optax.inject_hyperparams(optax_ftml.ftml)(3e-3),
    "inject schedule": lambda: optax.inject_hyperparams(optax_ftml.ftml)(
        optax.cosine_decay_schedule(0.1, 50)
    ),
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.1),
        optax_ftml.ftml(3e-3),
    ),
    "every other": lambda: optax.MultiSteps(
        optax_ftml.ftml(3e-3), 2
    ).gradient_transformation(),
}


def _params(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(7, 5)) * 10, dtype),
        "b": [jnp.asarray(rng.normal(size=()), dtype), jnp.zeros((3,), dtype)],
        "wide": jnp.asarray(rng.normal(size=(4,)), jnp.float32),
    }


def _grads(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params
    )


def _step(optimizer):
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def _has_copy(m):
    return not isinstance(m, optax.MaskedNode)


def _assert_is_rounded(params, master):
    def check(p, m):
        if _has_copy(m):
            assert m.dtype == jnp.float32
            # NumPy's rounding, which XLA cannot leave out.
            np.testing.assert_array_equal(
                np.asarray(p), np.asarray(m).astype(p.dtype)
            )

    jax.tree.map(check, params, master)


@pytest.mark.parametrize(
    ("name", "dtype", "jit"),
    [(name, jnp.bfloat16, True) for name in OPTIMIZERS]
    + [("ftml", dtype, jit) for dtype in LOW for jit in (False, True)],
)
def test_is_the_float32_run_rounded(name, dtype, jit):
    low = optax_ftml.with_master_params(OPTIMIZERS[name]())
    wide = OPTIMIZERS[name]()
    params = _params(dtype)
    target = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    state, wide_state = low.init(params), wide.init(target)
    chex.assert_trees_all_equal_shapes_and_dtypes(state.inner_state, wide_state)
    step, wide_step = _step(low), _step(wide)
    if jit:
        step, wide_step = jax.jit(step), jax.jit(wide_step)
    before = jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))
    for t in range(30):
        grads = _grads(params, t)
        params, state = step(params, state, grads)
        target, wide_state = wide_step(
            target,
            wide_state,
            jax.tree.map(lambda g: g.astype(jnp.float32), grads),
        )
        _assert_is_rounded(params, state.master)
    assert before == jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))
    master = jax.tree.map(
        lambda p, m: m if _has_copy(m) else p, params, state.master
    )
    # The copy is moved by a difference of parameters: one float32 rounding
    # more a step than without.
    chex.assert_trees_all_close(master, target, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", LOW)
def test_lands_on_the_copy_however_far_the_step(dtype):
    optimizer = optax_ftml.with_master_params(optax.scale(-1.0))
    largest = float(np.log2(float(jnp.finfo(dtype).max))) - 1
    rng = np.random.default_rng(0)

    def draw():
        size = 2 ** rng.uniform(-largest / 2, largest, size=100_000)
        return np.where(rng.random(100_000) < 0.5, size, -size)

    params = jnp.asarray(draw(), dtype)
    state = optimizer.init(params)
    for _ in range(5):
        target = draw()
        grads = jnp.asarray(np.float64(state.master) - target, jnp.float32)
        params, state = _step(optimizer)(params, state, grads)
        _assert_is_rounded(params, state.master)
        # To within the rounding of the step itself.
        error = np.abs(np.float64(state.master) - target)
        size = np.abs(target) + np.abs(np.float64(grads))
        assert np.max(error / size) < 3 * 2**-24


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_small_steps_survive_a_loop(jit):
    # Compiled into one loop, where XLA may keep more digits than asked for.
    optimizer = optax_ftml.with_master_params(optax.sgd(1e-4))
    params = jnp.ones((8,), jnp.bfloat16)

    def body(carry, _):
        return _step(optimizer)(*carry, jnp.ones((8,), jnp.bfloat16)), None

    def loop(carry):
        return jax.lax.scan(body, carry, length=1000, unroll=4)[0]

    carry = (params, optimizer.init(params))
    if jit:
        params, state = jax.jit(loop)(carry)
    else:
        params, state = loop(carry)
    np.testing.assert_allclose(state.master, 0.9, rtol=1e-4)
    _assert_is_rounded(params, state.master)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_follows_parameters_that_something_else_moved(jit):
    optimizer = optax_ftml.with_master_params(optax.sgd(1e-3))
    step = jax.jit(_step(optimizer)) if jit else _step(optimizer)
    params = jnp.array([1.0, 2.0, 3.0], jnp.bfloat16)
    params, state = step(params, optimizer.init(params), jnp.ones_like(params))
    untouched = np.asarray(state.master)
    params = params.at[1].set(5.0)
    params, state = step(params, state, jnp.ones_like(params))
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
    params = jax.tree.map(
        lambda p, m: m.astype(p.dtype) if _has_copy(m) else p,
        params,
        state.master,
    )
    after = _step(optimizer)(params, state, _grads(params, 0))
    chex.assert_trees_all_equal(after, (params, state))


def test_wide_parameters_keep_no_copy(x64):
    optimizer = optax_ftml.with_master_params(optax.adam(1e-3))
    params = {
        "low": jnp.ones(2, jnp.float16),
        "single": jnp.ones(2, jnp.float32),
        "complex": jnp.ones(2, jnp.complex64),
    }
    state = optimizer.init(params)
    assert [_has_copy(state.master[k]) for k in params] == [True, False, False]
    optimizer = optax_ftml.with_master_params(
        optax.adam(1e-3), dtype=jnp.float64
    )
    state = optimizer.init(params)
    params, state = _step(optimizer)(params, state, params)
    assert state.master["low"].dtype == jnp.float64
    assert state.master["single"].dtype == jnp.float64
    assert params["single"].dtype == jnp.float32


def test_masked_partition_and_apply_if_finite():
    params = _params(jnp.bfloat16)
    grads = _grads(params, 0)
    mask = {"w": True, "b": False, "wide": True}
    optimizer = optax.masked(
        optax_ftml.with_master_params(optax.adam(0.1)), mask
    )
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)
    chex.assert_trees_all_equal(updates["b"], grads["b"])
    moved = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(
        moved["w"], np.asarray(state.inner_state.master["w"], jnp.bfloat16)
    )

    optimizer = optax_ftml.with_master_params(
        optax.partition(
            {"a": optax.sgd(0.1), "b": optax_ftml.ftml(0.1)},
            {"w": "a", "b": "b", "wide": "b"},
        )
    )
    params, state = _step(optimizer)(params, optimizer.init(params), grads)
    _assert_is_rounded(params, state.master)

    optimizer = optax_ftml.with_master_params(
        optax.apply_if_finite(optax.adam(0.1), 5)
    )
    state = optimizer.init(params)
    bad = jax.tree.map(lambda g: g * jnp.nan, grads)
    after, state = jax.jit(_step(optimizer))(params, state, bad)
    chex.assert_trees_all_equal(after, params)


def test_passes_extra_arguments():
    optimizer = optax_ftml.with_master_params(
        optax.chain(
            optax.sgd(1e-2), optax.contrib.reduce_on_plateau(patience=1)
        )
    )
    params = jnp.ones(3, jnp.float16)
    state = optimizer.init(params)
    for _ in range(5):
        _, state = optimizer.update(
            params, state, params, value=jnp.float32(1.0)
        )
    assert state.inner_state[1].scale < 1


def test_state_maps_like_parameters():
    optimizer = optax_ftml.with_master_params(optax_ftml.ftml(0.1))
    params = _params(jnp.bfloat16)
    state = jax.eval_shape(optimizer.init, params)
    seen = []
    optax.tree_map_params(optimizer, lambda s: seen.append(s.shape), state)
    assert sorted(seen) == sorted(
        [p.shape for p in jax.tree.leaves(params)]
        + [p.shape for p in jax.tree.leaves((params["w"], params["b"]))]
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64, jnp.int32])
def test_refuses_other_dtypes(dtype):
    with pytest.raises(ValueError, match=r"dtype must be float32 .*, got"):
        optax_ftml.with_master_params(optax.sgd(0.1), dtype)


def test_needs_params():
    optimizer = optax_ftml.with_master_params(optax.sgd(0.1))
    params = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="params must be given"):
        optimizer.update(params, optimizer.init(params))


@pytest.mark.parametrize("dtype", LOW)
def test_a_step_beyond_the_largest_number_ends_there_and_comes_back(dtype):
    largest = jnp.finfo(dtype).max
    params = jnp.full(2, largest, dtype)
    optimizer = optax_ftml.with_master_params(optax.sgd(1.0))
    state = optimizer.init(params)
    step = _step(optimizer)
    # Rounded to nearest, 1.003 times the largest number is infinite.
    params, state = step(params, state, jnp.array([-0.003, 0.0]) * largest)
    np.testing.assert_array_equal(params, jnp.full(2, largest, dtype))
    params, state = step(params, state, jnp.full(2, 0.5) * largest)
    np.testing.assert_array_equal(params, jnp.full(2, 0.5 * largest, dtype))
