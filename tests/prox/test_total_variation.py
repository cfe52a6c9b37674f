"""total_variation: float32 keeps small numbers' digits; lines never touched."""

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics
from optax_ftml import prox
from tests.prox import test_ordered

LEADER = np.float32([1e4, 0.003, 0.002, 0.005, 0.02])
NEVER = _numerics.bound(jnp.float32)  # the step size without a gradient


def test_a_strength_of_0_changes_no_bit():
    rng = np.random.default_rng(0)
    leader = rng.normal(size=50).astype(np.float32) * 10 ** rng.uniform(-6, 6)
    s = 10 ** rng.uniform(-6, 2, size=50).astype(np.float32)
    f = prox.total_variation(0.0)
    for x in (leader, np.resize(LEADER, 50)):
        after = f(jnp.float32(x), s)
        np.testing.assert_array_equal(after, np.float32(x))


def test_small_numbers_beside_a_large_one():
    theta = prox.total_variation(1e-3)(LEADER, jnp.ones(5))
    expected = [1e4 - 1e-3, 0.0035, 0.0035, 0.005, 0.019]
    np.testing.assert_allclose(theta, expected, rtol=3e-7)


def test_float32_is_right_over_eight_decades(x64):
    rng = np.random.default_rng(0)
    leaders = 2 * rng.normal(size=(80, 16)).astype(np.float32)
    steps = 10 ** rng.uniform(-6, 2, size=(80, 16)).astype(np.float32)
    leaders[::2, 7] = 1e6
    f = jax.jit(prox.total_variation(np.repeat([[1e-3], [0.7]], 40, axis=0)))
    theta = np.asarray(f(leaders, steps))
    rights = np.asarray(f(np.float64(leaders), np.float64(steps)))
    for found, right, leader in zip(theta, rights, leaders, strict=True):
        sizes = test_ordered.largest_of_pools(right, leader)
        sizes = np.maximum(sizes, np.abs(right))
        assert np.max(np.abs(found - right) / sizes) < 3e-5


def test_what_has_had_no_gradient_follows_its_neighbours():
    leader = jnp.array([[0.0, 1.0, 9.0, 5.0, 6.0]] * 2)
    s = jnp.array([[1, 1, NEVER, 1, 1], [NEVER] * 5], jnp.float32)
    theta = prox.total_variation(0.5)(leader, s)
    np.testing.assert_allclose(theta[0], [0.5, 1, 5, 5, 5.5], rtol=1e-6)
    np.testing.assert_array_equal(theta[1], leader[1])
