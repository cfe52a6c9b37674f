"""Long runs: a v in low precision, and many steps, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from benchmarks import low_precision


def noisy_quadratic(optimizer, key, steps):
    """Minimizes a quadratic from gradients with noise of variance 1."""
    size = 200
    curvature = jnp.logspace(-1, 1, size)
    target = jnp.linspace(-1, 1, size)

    def step(carry, key):
        params, state = carry
        noise = jax.random.normal(key, params.shape)
        grads = curvature * (params - target) + noise
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        loss = 0.5 * jnp.sum(curvature * (params - target) ** 2)
        return (params, state), loss

    params = jnp.zeros(size)
    (_, state), losses = jax.lax.scan(
        step, (params, optimizer.init(params)), jax.random.split(key, steps)
    )
    return state[0].v.astype(jnp.float32), jnp.mean(losses[-steps // 5 :])


@pytest.mark.slow
def test_bfloat16_v_over_20_000_steps_and_why_not_to_nearest():
    optimizers = (
        optax_ftml.ftml(0.01),
        optax_ftml.ftml(0.01, accumulator_dtype=jnp.bfloat16),
        low_precision.v_to_nearest(optax_ftml.ftml(0.01)),
    )
    keys = jax.random.split(jax.random.key(0), 4)

    @jax.jit
    @jax.vmap
    def run(key):
        return [noisy_quadratic(o, key, 20_000) for o in optimizers]

    (v, loss), (low_v, low_loss), (nearest_v, nearest_loss) = run(keys)
    # The seeds differ by more than the roundings.
    noise = np.std(loss, ddof=1)
    assert abs(np.mean(low_v / v) - 1) < 0.005
    assert abs(np.mean(low_loss) - np.mean(loss)) < noise
    # Rounded to nearest, v stays where its first gradients have put it.
    assert abs(np.mean(nearest_v / v) - 1) > 1
    assert abs(np.mean(nearest_loss) - np.mean(loss)) > 5 * noise


@pytest.mark.slow
def test_many_steps_stay_close_to_float64(x64):
    """float32, with a box too, and bfloat16 v against float64, in one loop."""
    box = optax_ftml.prox.box(-2.0, 2.0)
    forms = {
        "float64": ("float64", optax_ftml.ftml(1e-3)),
        "delta": ("float32", optax_ftml.ftml(1e-3)),
        "leader": ("float32", optax_ftml.ftml(1e-3, prox=box)),
        "low": ("float32", optax_ftml.ftml(1e-3, accumulator_dtype="bfloat16")),
    }
    target = np.array([-1.5, 0.3, 1.0])

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
    end, _ = jax.lax.scan(step, start, jnp.arange(200_000))
    for name, (params, _) in end.items():
        error = np.max(np.abs(np.float64(params) - end["float64"][0]))
        assert error < (1e-2 if name == "low" else 1e-4), (name, error)


def test_apply_if_finite_ends_as_a_run_that_never_saw_a_nan():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(512, 10)), jnp.float32)
    y = jnp.asarray(x @ rng.normal(size=10) + 0.3 * rng.normal(size=512) > 0)
    optimizer = optax.apply_if_finite(optax_ftml.ftml(0.01), 5)
    broken = rng.random(1000) < 0.01
    rows = rng.integers(512, size=(1000, 32))
    assert 0 < broken.sum() < 30

    def loss_fn(params, x, y):
        return jnp.mean(
            optax.losses.sigmoid_binary_cross_entropy(x @ params, y)
        )

    def step(carry, batch):
        params, state = carry
        rows, broken = batch
        x_batch = x[rows].at[0, 0].add(jnp.where(broken, jnp.nan, 0))
        grads = jax.grad(loss_fn)(params, x_batch, y[rows])
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def classify(*batches):
        carry = jnp.zeros(10), optimizer.init(jnp.zeros(10))
        return jax.lax.scan(step, carry, batches)[0]

    params, state = classify(rows, broken)
    clean_params, clean_state = classify(rows[~broken], broken[~broken])
    np.testing.assert_array_equal(params, clean_params)
    np.testing.assert_array_equal(
        state.inner_state[0].v, clean_state.inner_state[0].v
    )
    assert int(state.total_notfinite) == broken.sum()
