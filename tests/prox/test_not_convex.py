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


def test_top_k_is_the_best_of_all_supports(x64):
    rng = np.random.default_rng(0)
    f = jax.jit(prox.top_k(2))
    for _ in range(20):
        leader, step_size = cases.draw(rng)
        supports = itertools.combinations(range(cases.SIZE), 2)
        masks = np.array([np.isin(np.arange(cases.SIZE), s) for s in supports])
        candidates = np.where(masks, leader, 0)
        best = np.argmin(objective(candidates, leader, step_size))
        np.testing.assert_array_equal(f(leader, step_size), candidates[best])


@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
@pytest.mark.parametrize("k", [0, 1, 3, 99])
def test_top_k_keeps_exactly_k_of_equals(axis, k):
    after = prox.top_k(k, axis=axis)(jnp.ones((4, 2)), jnp.ones((4, 2)))
    kept = np.sum(after != 0, axis=axis)
    np.testing.assert_array_equal(kept, min(k, 8 if axis != 0 else 4))


def test_levels_are_the_nearest(x64):
    values = [0.5, -1.0, 0.0]
    leader = np.linspace(-3, 3, 101)
    after = prox.levels(values)(leader, np.ones(101))
    distances = np.abs(np.subtract.outer(leader, values))
    np.testing.assert_array_equal(np.abs(leader - after), distances.min(axis=1))
    assert np.all(np.isin(after, values))


def test_l2_sphere_is_the_best_of_a_grid(x64):
    angles = np.linspace(0, 2 * np.pi, 200_001)
    circle = 1.3 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    rng = np.random.default_rng(0)
    f = jax.jit(prox.l2_sphere(1.3))
    leaders = [*rng.normal(size=(20, 2)), *(10 * rng.normal(size=(5, 2)))]
    # And where the norm has no multiplier.
    leaders += [np.zeros(2), np.array([0.3, 0.0]), np.array([0.0, 0.3])]
    for leader in leaders:
        for step_size in (np.ones(2), np.array([1e-3, 1.0])):
            theta = f(leader, step_size)
            np.testing.assert_allclose(np.linalg.norm(theta), 1.3, rtol=1e-9)
            least = np.min(objective(circle, leader, step_size))
            assert objective(theta, leader, step_size) <= least * (1 + 1e-9)


@pytest.mark.parametrize("name", cases.NOT_CONVEX)
def test_what_is_feasible_comes_back_bit_for_bit(name):
    f = jax.jit(cases.NOT_CONVEX[name](None))
    leader = np.random.default_rng(0).normal(size=cases.SIZE)
    once = f(leader.astype(np.float32), jnp.ones(cases.SIZE))
    step_size = jnp.geomspace(1e-6, 1, cases.SIZE)
    np.testing.assert_array_equal(f(once, step_size), once)


@pytest.mark.parametrize("size", [2, 6])
def test_a_sphere_has_its_norm_where_leaders_are_far_apart(size):
    rng = np.random.default_rng(0)
    f = jax.jit(prox.l2_sphere(1.3))
    for _ in range(100):
        leader = np.resize([1e-9, 6e-3], size) * rng.choice([-1, 1], size)
        step_size = 10 ** rng.uniform(-4, 4, size)
        theta = f(np.float32(leader), np.float32(step_size))
        norm = np.linalg.norm(np.float64(theta))
        np.testing.assert_allclose(norm, 1.3, rtol=3e-6)
