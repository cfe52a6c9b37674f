"""The sets that are not convex against all candidates of small problems."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases


def objective(theta, leader, step_size):
    return np.sum((theta - leader) ** 2 / step_size, axis=-1)


@pytest.mark.parametrize(
    ("f", "size"), [(prox.top_k(2, axis=-1), 6), (prox.n_of_m(2, 4), 4)]
)
def test_the_best_of_all_supports_stays(x64, f, size):
    rng = np.random.default_rng(0)
    leader, step_size = cases.draw(rng, shape=(20, size))
    supports = itertools.combinations(range(size), 2)
    masks = np.array([np.isin(np.arange(size), s) for s in supports])
    candidates = np.where(masks[:, None], leader, 0)
    best = np.argmin(objective(candidates, leader, step_size), axis=0)
    np.testing.assert_array_equal(
        jax.jit(f)(leader, step_size), candidates[best, np.arange(20)]
    )


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        *((prox.top_k(k), np.arange(80_000) < k) for k in (0, 3, 99_999)),
        (prox.top_k(3, axis=1), [np.arange(200) < 3] * 400),
        (prox.n_of_m(2, 4), [np.arange(200) % 4 < 2] * 400),
    ],
)
def test_the_first_of_equals_stay(f, expected):
    """More of them than an integer of 16 bits has numbers."""
    expected = np.reshape(expected, (400, 200)).astype(np.float32)
    np.testing.assert_array_equal(f(jnp.ones((400, 200)), 1.0), expected)


def test_levels_are_the_nearest():
    values = [0.5, -1.0, 0.0]
    leader = np.linspace(-3, 3, 101, dtype=np.float32)
    after = prox.levels(values)(leader, 1.0)
    distances = np.abs(np.subtract.outer(leader, np.float32(values)))
    np.testing.assert_array_equal(np.abs(leader - after), distances.min(axis=1))
    assert np.all(np.isin(after, values))


def test_l2_sphere_is_the_best_of_a_grid(x64):
    angles = np.linspace(0, 2 * np.pi, 20_001)[:, None]
    circle = 1.3 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    leader = np.random.default_rng(0).normal(size=(28, 2))
    leader[20:25] *= 10
    # And where the norm has no multiplier.
    leader[25:] = [[0, 0], [0.3, 0], [0, 0.3]]
    leader = np.tile(leader, (2, 1))
    s = np.repeat([[1.0, 1.0], [1e-3, 1.0]], 28, axis=0)
    theta = jax.jit(prox.l2_sphere(1.3, axis=-1))(leader, s)
    np.testing.assert_allclose(np.linalg.norm(theta, axis=1), 1.3, rtol=1e-9)
    least = np.min(objective(circle, leader, s), axis=0)
    assert np.all(objective(theta, leader, s) <= least * (1 + 1e-9))


@pytest.mark.parametrize("size", [2, 6])
def test_a_sphere_has_its_norm_where_leaders_are_far_apart(size):
    rng = np.random.default_rng(0)
    leader = np.resize([1e-9, 6e-3], size) * rng.choice([-1, 1], (100, size))
    s = 10 ** rng.uniform(-4, 4, (100, size))
    theta = prox.l2_sphere(1.3, axis=-1)(np.float32(leader), np.float32(s))
    norms = np.linalg.norm(np.float64(theta), axis=-1)
    np.testing.assert_allclose(norms, 1.3, rtol=3e-6)
