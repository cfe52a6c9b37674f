"""Long runs: a v in low precision, and many steps, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from benchmarks import low_precision


@pytest.mark.slow
def test_bfloat16_v_over_20_000_steps_and_why_not_to_nearest():
    """A quadratic, from gradients with noise of variance 1, by four seeds."""
    curvature = jnp.logspace(-1, 1, 200)
    target = jnp.linspace(-1, 1, 200)

    def train(optimizer, key):
        def step(carry, key):
            params, state = carry
            noise = jax.random.normal(key, params.shape)
            grads = curvature * (params - target) + noise
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            loss = 0.5 * jnp.sum(curvature * (params - target) ** 2)
            return (params, state), loss

        start = jnp.zeros(200)
        carry = start, optimizer.init(start)
        keys = jax.random.split(key, 20_000)
        (_, state), losses = jax.lax.scan(step, carry, keys)
        return state[0].v.astype(jnp.float32), jnp.mean(losses[-4000:])

    @jax.jit
    @jax.vmap
    def run(key):
        low = optax_ftml.ftml(0.01, accumulator_dtype=jnp.bfloat16)
        nearest = low_precision.v_to_nearest(optax_ftml.ftml(0.01))
        return [train(o, key) for o in (optax_ftml.ftml(0.01), low, nearest)]

    keys = jax.random.split(jax.random.key(0), 4)
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

    def step(t, carry):
        # As irregular as noise, and the same in each precision.
        noise = jnp.sin(t.astype(float) ** 2 * 0.37 + jnp.arange(3.0))
        after = {}
        for name, (dtype, optimizer) in forms.items():
            params, state = carry[name]
            grads = (params - target + noise).astype(dtype)
            updates, state = optimizer.update(grads, state, params)
            after[name] = optax.apply_updates(params, updates), state
        return after

    start = {
        name: (jnp.zeros(3, dtype), optimizer.init(jnp.zeros(3, dtype)))
        for name, (dtype, optimizer) in forms.items()
    }
    end = jax.lax.fori_loop(0, 200_000, step, start)
    for name, (params, _) in end.items():
        error = np.max(np.abs(np.float64(params) - end["float64"][0]))
        assert error < (1e-2 if name == "low" else 1e-4), (name, error)
