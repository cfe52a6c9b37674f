"""monotone and total_variation in float32: digits beside large numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox

FUSED = prox.total_variation(1e-3)


@pytest.mark.parametrize(
    ("f", "leader", "step_size", "expected"),
    [
        # The heavier of two stays.
        (prox.monotone(), [0.8, 0.2], [2.5e5, 2.5e-3], [0.2, 0.2]),
        (prox.monotone(), [300.2, 300], [1, 1e-4], [300.00002, 300.00002]),
        (
            FUSED,
            [1e4, 3e-3, 2e-3, 0.02],
            1.0,
            [1e4 - 1e-3, 3.5e-3, 3.5e-3, 0.019],
        ),
        # A strength of 0 changes no bit.
        (prox.total_variation(0.0), *[[1e4, 3e-3, 2e-3, 0.02]] * 3),
    ],
)
def test_small_numbers_keep_their_digits(f, leader, step_size, expected):
    theta = f(jnp.float32(leader), jnp.float32(step_size))
    np.testing.assert_allclose(theta, expected, rtol=3e-7)


def pooled(x, s):
    """Pools neighbours that are out of order, one after the other."""
    pools = []
    for value, weight in zip(np.float64(x), 1 / np.float64(s), strict=True):
        pools.append([value, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, p, m), (b, q, n) = pools[-2:]
            pools[-2:] = [[a + (b - a) * (q / (p + q)), p + q, m + n]]
    return np.repeat([p[0] for p in pools], [p[2] for p in pools])


def largest_of_pools(theta, leader):
    """The size of the leaders that each number's pool is made of."""
    pool = np.append(0, np.cumsum(np.diff(theta) != 0))
    sizes = [np.max(np.abs(leader[pool == k])) for k in range(pool[-1] + 1)]
    return np.array(sizes)[pool]


@pytest.mark.parametrize("strength", [None, 1e-3, 0.7])
def test_float32_is_right_over_eight_decades(x64, strength):
    rng = np.random.default_rng(0)
    leaders = 2 * rng.normal(size=(60, 20)).astype(np.float32)
    steps = 10 ** rng.uniform(-6, 2, size=(60, 20)).astype(np.float32)
    leaders[20:40, 9], leaders[40:, 9] = 1e6, -1e6
    f = prox.total_variation(strength) if strength else prox.monotone()
    theta = np.asarray(jax.jit(f)(leaders, steps))
    if strength:
        rights = np.asarray(jax.jit(f)(np.float64(leaders), np.float64(steps)))
    else:
        rights = list(map(pooled, leaders, steps))
    for found, right, leader in zip(theta, rights, leaders, strict=True):
        sizes = np.maximum(largest_of_pools(right, leader), np.abs(right))
        assert np.max(np.abs(found - right) / sizes) < 3e-5
