"""Long runs, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_ftml
from tests import reference


@pytest.mark.slow
def test_many_steps_stay_close_to_float64(x64):
    """float32, with a box too, and bfloat16 v."""

    def end(dtype, **options):
        def grads(t, params):
            # As irregular as noise, and the same in each precision.
            noise = jnp.sin(t.astype(float) ** 2 * 0.37 + jnp.arange(3.0))
            target = jnp.array([-1.5, 0.3, 1.0])
            return (params - target + noise).astype(dtype)

        optimizer = optax_ftml.ftml(1e-3, **options)
        params = jnp.zeros(3, dtype)
        run = jax.jit(lambda: reference.run(optimizer, params, grads, 200_000))
        return run()[0][-1]

    expected = end("float64")
    for limit, options in [
        (1e-4, {}),
        (1e-4, {"prox": optax_ftml.prox.box(-2.0, 2.0)}),
        (1e-2, {"accumulator_dtype": "bfloat16"}),
    ]:
        assert np.max(np.abs(end("float32", **options) - expected)) < limit
