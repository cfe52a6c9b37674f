"""monotone: float32 keeps digits, and bins without a gradient move first."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import prox
from tests.prox import cases

TOTAL_VARIATION = functools.partial(prox.total_variation, 0.7)


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


@pytest.mark.parametrize(
    ("leader", "step_size", "expected"),
    [
        ([0.8, 0.2], [2.5e5, 2.5e-3], [0.2, 0.2]),
        ([300.2, 300.0], [1, 1e-4], [300.00002, 300.00002]),
    ],
)
def test_the_heavier_of_two_stays(leader, step_size, expected):
    theta = prox.monotone()(jnp.float32(leader), jnp.float32(step_size))
    np.testing.assert_allclose(theta, expected, rtol=1e-7)


def test_float32_is_right_over_eight_decades():
    rng = np.random.default_rng(0)
    leaders = 2 * rng.normal(size=(60, 20)).astype(np.float32)
    steps = 10 ** rng.uniform(-6, 2, size=(60, 20)).astype(np.float32)
    leaders[20:40, 9], leaders[40:, 9] = 1e6, -1e6
    theta = np.asarray(jax.jit(prox.monotone())(leaders, steps))
    for found, leader, s in zip(theta, leaders, steps, strict=True):
        right = pooled(leader, s)
        sizes = largest_of_pools(right, leader)
        assert np.max(np.abs(found - right) / sizes) < 3e-5


@pytest.mark.parametrize("make", [prox.monotone, TOTAL_VARIATION])
def test_another_axis_is_the_same(make):
    leader, s = (
        jnp.float32(a)
        for a in cases.draw(np.random.default_rng(0), 2, shape=(3, 5, 2))
    )
    columns = cases.jit(make(axis=1))(leader, s)
    rows = cases.jit(make(axis=-1))(leader.swapaxes(1, 2), s.swapaxes(1, 2))
    np.testing.assert_allclose(columns, rows.swapaxes(1, 2), rtol=1e-6)


def test_bins_without_a_gradient_do_not_hold_the_others():
    start = jnp.array([0.1, 0.9, 0.3, 0.4])
    target = jnp.array([0.2, 0.0, 0.35, 0.5])
    seen = jnp.array([1.0, 0.0, 1.0, 1.0])
    optimizer = optax_ftml.ftml(
        optax.cosine_decay_schedule(0.02, 2000), prox=prox.monotone()
    )

    def step(carry, _):
        theta, state = carry
        grads = seen * (theta - target)
        updates, state = optimizer.update(grads, state, theta)
        return (optax.apply_updates(theta, updates), state), None

    (theta, _), _ = jax.lax.scan(
        step, (start, optimizer.init(start)), length=2000
    )
    np.testing.assert_allclose(theta[seen > 0], [0.2, 0.35, 0.5], atol=1e-4)
