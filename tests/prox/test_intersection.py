"""intersection against Clarabel, and in training."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import optax_ftml
from optax_ftml import prox
from tests.prox import cases

NORMALS = np.random.default_rng(3).normal(size=(3, 6))
CASES = {
    "doubly stochastic": (
        [prox.simplex(axis=0), prox.simplex(axis=1)],
        lambda t: [t >= 0, cp.sum(t, 0) == 1, cp.sum(t, 1) == 1],
        (6, 6),
    ),
    "simplex with upper bounds": (
        [prox.simplex(), prox.box(0.0, 0.4)],
        lambda t: [t >= 0, cp.sum(t) == 1, t <= 0.4],
        (6,),
    ),
    "three halfspaces": (
        [prox.halfspace(a, -1.0) for a in NORMALS],
        lambda t: [NORMALS @ t <= -1],
        (6,),
    ),
    "monotone in a ball": (
        [prox.monotone(), prox.l2_ball(1.0)],
        lambda t: [t[1:] >= t[:-1], cp.norm2(t) <= 1],
        (6,),
    ),
    "three that share bounds": (
        [prox.simplex(axis=0), prox.simplex(axis=1), prox.box(0.0, 0.4)],
        lambda t: [t >= 0, cp.sum(t, 0) == 1, cp.sum(t, 1) == 1, t <= 0.4],
        (4, 4),
    ),
}


def nearest(constraints, leader, step_size):
    theta = cp.Variable(leader.shape)
    root = np.sqrt(np.max(step_size) / step_size)
    distance = cp.sum_squares(cp.multiply(root, theta - leader)) / 2
    cases.minimise(distance, constraints(theta), 1e-11)
    return theta.value


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize(
    "name",
    [
        *("doubly stochastic", "simplex with upper bounds"),
        pytest.param("three halfspaces", marks=pytest.mark.slow),
        pytest.param("monotone in a ball", marks=pytest.mark.slow),
        pytest.param("three that share bounds", marks=pytest.mark.slow),
    ],
)
def test_it_is_what_a_solver_finds(x64, name):
    proxes, constraints, shape = CASES[name]
    f = jax.jit(prox.intersection(*proxes))
    rng = np.random.default_rng(1)
    errors = [(2, 1e-6, 5e-5)] * 10 + [(4, 1e-4, 5e-4)] * 10
    for decades, error, error32 in errors:
        leader, step_size = cases.draw(rng, decades=decades, shape=shape)
        theta = f(leader, step_size)
        expected = nearest(constraints, leader, step_size)
        # The solver itself is not always closer where the set is curved.
        slack = 1e-4 if name == "monotone in a ball" else 0
        np.testing.assert_allclose(theta, expected, atol=error + slack)
        narrow = f(jnp.float32(leader), jnp.float32(step_size))
        np.testing.assert_allclose(narrow, expected, atol=error32 + slack)


def test_what_is_feasible_comes_back_bit_for_bit():
    f = jax.jit(prox.intersection(prox.simplex(), prox.box(0.0, 0.4)))
    point = jnp.array([0.4, 0.3, 0.3, 0.0])
    for s in (jnp.ones(4), jnp.geomspace(1e-6, 1, 4), jnp.zeros(4)):
        np.testing.assert_array_equal(f(point, s), point)


def test_a_share_without_a_gradient_gives_way():
    never = 2.0**63
    f = jax.jit(prox.intersection(prox.simplex(), prox.box(0.0, 0.6)))
    theta = f(jnp.array([0.5, 0.4, 0.4]), jnp.array([1.0, 1.0, never]))
    np.testing.assert_allclose(theta, [0.5, 0.4, 0.1], atol=5e-3)


def test_training_ends_on_the_best_transport():
    rng = np.random.default_rng(0)
    cost = rng.uniform(size=(10, 10))
    least = cost[scipy.optimize.linear_sum_assignment(cost)].sum()
    birkhoff = prox.intersection(prox.simplex(axis=0), prox.simplex(axis=1))
    optimizer = optax_ftml.ftml(0.3, prox=birkhoff)
    start = jnp.full((10, 10), 0.1)

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(jnp.float32(cost), state, x)
        return (optax.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=1500)
    assert np.sum(cost * np.asarray(x, np.float64)) <= least + 1e-4
    np.testing.assert_allclose(jnp.sum(x, 0), 1, atol=1e-4)
    np.testing.assert_allclose(jnp.sum(x, 1), 1, atol=1e-4)


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="at least one"):
        prox.intersection()
    with pytest.raises(TypeError, match="prox"):
        prox.intersection(3)
    with pytest.raises(ValueError, match="tolerance"):
        prox.intersection(prox.simplex(), tolerance=0.0)
