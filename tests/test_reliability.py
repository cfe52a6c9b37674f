"""Long runs: low precision, a million steps, gradients that are NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from benchmarks import low_precision


def noisy_gradients(curvature, target, params, key):
    noise = jax.random.normal(key, params.shape)
    return curvature * (params - target) + noise


@functools.partial(jax.jit, static_argnums=(0, 2))
def noisy_quadratic(make, key, steps):
    """Minimises a quadratic from gradients with noise of variance 1."""
    optimizer = make()
    size = 200
    curvature = jnp.logspace(-1, 1, size)
    target = jnp.linspace(-1, 1, size)

    def step(carry, key):
        params, state = carry
        grads = noisy_gradients(curvature, target, params, key)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        loss = 0.5 * jnp.sum(curvature * (params - target) ** 2)
        return (params, state), loss

    params = jnp.zeros(size)
    (_, state), losses = jax.lax.scan(
        step, (params, optimizer.init(params)), jax.random.split(key, steps)
    )
    return state[0].v.astype(jnp.float32), jnp.mean(losses[-steps // 5 :])


def float32():
    return optax_ftml.ftml(0.01)


def rounded_at_random():
    return optax_ftml.ftml(0.01, accumulator_dtype=jnp.bfloat16)


def rounded_to_nearest():
    return low_precision.v_to_nearest(optax_ftml.ftml(0.01))


def test_bfloat16_v_over_20_000_steps_and_why_not_to_nearest():
    keys = jax.random.split(jax.random.key(0), 8)
    (v, loss), (low_v, low_loss), (nearest_v, nearest_loss) = (
        jax.vmap(lambda key, make=make: noisy_quadratic(make, key, 20_000))(
            keys
        )
        for make in (float32, rounded_at_random, rounded_to_nearest)
    )
    # The seeds differ by more than the roundings.
    noise = np.std(loss, ddof=1)
    assert abs(np.mean(low_v / v) - 1) < 0.005
    assert abs(np.mean(low_loss) - np.mean(loss)) < noise
    # Rounded to nearest, v stays where its first gradients have put it.
    assert abs(np.mean(nearest_v / v) - 1) > 1
    assert abs(np.mean(nearest_loss) - np.mean(loss)) > 5 * noise


def test_a_million_steps_stay_close_to_float64(x64):
    """float32 and bfloat16 v against float64, in one loop."""
    forms = {
        "float64": (jnp.float64, optax_ftml.ftml(1e-3)),
        "delta": (jnp.float32, optax_ftml.ftml(1e-3)),
        "leader": (
            jnp.float32,
            optax_ftml.ftml(1e-3, prox=optax_ftml.prox.box(-2.0, 2.0)),
        ),
        "low": (
            jnp.float32,
            optax_ftml.ftml(1e-3, accumulator_dtype=jnp.bfloat16),
        ),
    }
    target = np.array([-1.5, 0.3, 1.0])

    @jax.jit
    def run():
        def step(carry, t):
            # As irregular as noise, and the same in each precision.
            noise = jnp.sin(t.astype(float) ** 2 * 0.37 + jnp.arange(3.0))
            after = {}
            for name, (dtype, optimizer) in forms.items():
                params, state = carry[name]
                grads = (params - target + noise).astype(dtype)
                updates, state = optimizer.update(grads, state, params)
                after[name] = optax.apply_updates(params, updates), state
            return after, None

        start = {
            name: (jnp.zeros(3, dtype), optimizer.init(jnp.zeros(3, dtype)))
            for name, (dtype, optimizer) in forms.items()
        }
        return jax.lax.scan(step, start, jnp.arange(1_000_000))[0]

    end = run()
    for name, (params, state) in end.items():
        assert np.all(np.isfinite(params)), name
        count = optax.tree.get(state, "count")
        assert int(np.max(count)) == 1_000_000
        error = np.max(np.abs(np.float64(params) - end["float64"][0]))
        assert error < (1e-2 if name == "low" else 1e-4), (name, error)


def classify(make, batches):
    """Trains a linear classifier; returns its loss at the end."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(512, 10)), jnp.float32)
    y = jnp.asarray(x @ rng.normal(size=10) + 0.3 * rng.normal(size=512) > 0)
    optimizer = make()

    def loss_fn(params, x, y):
        return jnp.mean(
            optax.losses.sigmoid_binary_cross_entropy(x @ params, y)
        )

    @jax.jit
    def step(params, state, x, y):
        grads = jax.grad(loss_fn)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jnp.zeros(10)
    state = optimizer.init(params)
    for rows, broken in batches:
        batch = x[rows].at[0, 0].set(jnp.nan) if broken else x[rows]
        params, state = step(params, state, batch, y[rows])
    return params, state


def _batches(steps, broken_share):
    rng = np.random.default_rng(1)
    broken = rng.random(steps) < broken_share
    rows = rng.integers(512, size=(steps, 32))
    return list(zip(rows, broken, strict=True))


def protected():
    return optax.apply_if_finite(optax_ftml.ftml(0.01), 5)


def test_apply_if_finite_ends_as_a_run_that_never_saw_them():
    batches = _batches(1000, 0.01)
    clean = [batch for batch in batches if not batch[1]]
    assert 0 < len(batches) - len(clean) < 30
    params, state = classify(protected, batches)
    clean_params, clean_state = classify(protected, clean)
    np.testing.assert_array_equal(params, clean_params)
    np.testing.assert_array_equal(
        state.inner_state[0].v, clean_state.inner_state[0].v
    )
    assert int(state.total_notfinite) == len(batches) - len(clean)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_without_protection_one_bad_gradient_is_for_ever(bad):
    optimizer = optax_ftml.ftml(0.1)
    params = jnp.ones(2)
    state = optimizer.init(params)
    for grads in ([bad, 1.0], [1.0, 1.0], [1.0, 1.0]):
        updates, state = optimizer.update(jnp.array(grads), state)
        params = optax.apply_updates(params, updates)
        assert np.isnan(params[0])
        assert np.isfinite(params[1])  # The other coordinate is not touched.
    if np.isnan(bad):  # An infinite square counts as the largest number.
        assert np.isnan(state[0].v[0])
        assert np.isnan(updates[0])
