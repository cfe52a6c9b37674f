"""intersection against Clarabel, and in training."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import optax_ftml
from optax_ftml import prox
from tests import reference
from tests.prox import cases

NORMAL = np.random.default_rng(11).normal(size=8)
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
    "monotone and a simplex": (
        [prox.monotone(), prox.simplex()],
        lambda t: [t[1:] >= t[:-1], t >= 0, cp.sum(t) == 1],
        (8,),
    ),
    "three halfspaces": (
        [prox.halfspace(a, -1.0) for a in NORMALS],
        lambda t: [NORMALS @ t <= -1],
        (6,),
    ),
}


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("name", CASES)
def test_it_is_what_a_solver_finds(x64, name):
    proxes, constraints, shape = CASES[name]
    f = jax.jit(prox.intersection(*proxes))
    rng = np.random.default_rng(1)
    errors = [(2, 1e-6, 5e-5)] * 10 + [(4, 1e-4, 5e-4)] * 10
    for decades, error, error32 in errors:
        leader, step_size = cases.draw(rng, decades=decades, shape=shape)
        theta = cp.Variable(shape)
        root = np.sqrt(np.max(step_size) / step_size)
        distance = cp.sum_squares(cp.multiply(root, theta - leader)) / 2
        cases.minimise(distance, constraints(theta), 1e-11)
        found = f(leader, step_size)
        np.testing.assert_allclose(found, theta.value, atol=error)
        found = f(jnp.float32(leader), jnp.float32(step_size))
        np.testing.assert_allclose(found, theta.value, atol=error32)


ORDERED = prox.monotone(), prox.simplex(axis=-1)
CUT = prox.l1_ball(1.5, axis=-1), prox.hyperplane(NORMAL, 0.3, axis=-1)


@pytest.mark.parametrize(
    ("proxes", "dtype", "error"),
    [(ORDERED, np.float64, 1e-5), (CUT, np.float32, 2e-3)],
    ids=["monotone and a simplex", "an L1 ball and a hyperplane"],
)
def test_no_move_ends_far_away(x64, proxes, dtype, error):
    """Neither a residual that stays the same nor a large z is a solution."""
    rng = np.random.default_rng(3)
    x, s = rng.normal(size=(200, 8)), 10 ** rng.uniform(-4, 0, (200, 8))
    x, s = 2 * x.astype(dtype), s.astype(dtype)
    theta = jax.jit(jax.vmap(prox.intersection(*proxes)))(x, s)
    apart = [np.max(np.abs(f(theta, s) - theta), axis=1) for f in proxes]
    # Of hundreds of draws one or two may not end within 1,000 rounds.
    assert np.sum(np.max(apart, axis=0) > error) <= 2
    assert np.max(apart) < 0.1


def test_what_is_feasible_stays_and_what_has_no_gradient_gives_way():
    f = jax.jit(prox.intersection(prox.simplex(), prox.box(0.0, 0.4)))
    point = jnp.array([0.4, 0.3, 0.3, 0.0])
    for s in (jnp.ones(4), jnp.geomspace(1e-6, 1, 4), jnp.zeros(4)):
        np.testing.assert_array_equal(f(point, s), point)
    theta = f(point.at[3].set(0.3), jnp.array([1, 1, cases.NEVER, 1.0]))
    np.testing.assert_allclose(theta, [0.4, 0.3, 0, 0.3], atol=5e-3)


def test_training_ends_on_the_best_transport():
    rng = np.random.default_rng(0)
    cost = rng.uniform(size=(10, 10))
    least = cost[scipy.optimize.linear_sum_assignment(cost)].sum()
    birkhoff = prox.intersection(prox.simplex(axis=0), prox.simplex(axis=1))
    x, _ = reference.train(
        optax_ftml.ftml(0.3, prox=birkhoff),
        lambda _: jnp.float32(cost),
        jnp.full((10, 10), 0.1),
        1500,
    )
    assert np.sum(cost * np.asarray(x, np.float64)) <= least + 1e-4
    np.testing.assert_allclose(jnp.sum(x, 0), 1, atol=1e-4)
    np.testing.assert_allclose(jnp.sum(x, 1), 1, atol=1e-4)


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="at least one"):
        prox.intersection()
    with pytest.raises(TypeError, match="prox"):
        prox.intersection(3)
    with pytest.raises(ValueError, match="tolerance"):
        prox.intersection(min, tolerance=0.0)
