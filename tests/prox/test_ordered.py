"""monotone and total_variation in float32: digits beside large numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox


@pytest.mark.parametrize(
    ("f", "leader", "step_size", "expected"),
    [
        # The heavier of two stays.
        (prox.monotone(), [0.8, 0.2], [2.5e5, 2.5e-3], [0.2, 0.2]),
        (prox.monotone(), [300.2, 300], [1, 1e-4], [300.00002, 300.00002]),
        (prox.monotone(), [0.3, 0.1, 1e6], [1e-3, 3e-3, 1], [0.25, 0.25, 1e6]),
        (
            prox.total_variation(1e-3),
            *([1e4, 3e-3, 2e-3, 0.02], 1, [9999.999, 3.5e-3, 3.5e-3, 0.019]),
        ),
        # A strength of 0 changes no bit.
        (prox.total_variation(0.0), *[[1e4, 3e-3, 2e-3, 0.02]] * 3),
    ],
)
def test_small_numbers_keep_their_digits(f, leader, step_size, expected):
    theta = f(jnp.float32(leader), jnp.float32(step_size))
    np.testing.assert_allclose(theta, expected, rtol=3e-7)
