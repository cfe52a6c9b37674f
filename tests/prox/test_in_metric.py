"""in_metric: float32, derivatives, matrices against Clarabel."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases

LEADER, STEPS = jnp.array([0.7, 0.9, -0.2]), jnp.array([3.0, 1.0, 0.2])


def from_euclidean(name, tolerance=1e-6, **settings):
    """The prox with one step size for all, made one in the metric."""
    f = cases.CONVEX[name].make(None)
    return prox.in_metric(
        lambda x, step_size: f(x, jnp.full(x.shape, step_size)),
        tolerance=tolerance,
        **settings,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l1_ball", "l2_ball", "total_variation"])
def test_float32_is_close_over_six_decades(x64, name):
    arguments = map(np.float32, cases.draw_rows(np.random.default_rng(3), 6))
    leader, s = arguments
    theta = jax.jit(jax.vmap(from_euclidean(name)))(leader, s)
    exact = jax.jit(jax.vmap(cases.CONVEX[name].make(None)))(
        np.float64(leader), np.float64(s)
    )
    errors = np.max(np.abs(theta - exact) / (1 + np.abs(exact)), axis=-1)
    # Of a thousand draws rounding leaves one or two further off.
    assert np.sum(errors > 3e-5) <= 2
    assert np.max(errors) < 5e-3


def test_the_derivative_by_what_the_function_closes_over(x64):
    @jax.jit
    def ball(radius):
        def project(x, _):
            return x * jnp.minimum(1, radius / jnp.linalg.norm(x))

        f = prox.in_metric(project, tolerance=1e-10)
        return jnp.sum(f(jnp.float64(LEADER), jnp.float64(STEPS)))

    slope = jax.jit(jax.grad(ball))(0.7)
    differences = (ball(0.7 + 1e-4) - ball(0.7 - 1e-4)) / 2e-4
    np.testing.assert_allclose(slope, differences, rtol=1e-5)


def test_a_penalty_leaves_a_tree_without_a_gradient():
    never = jnp.full(3, cases.NEVER)
    theta = prox.in_metric(lambda x, s: x / (1 + s))(LEADER, never)
    np.testing.assert_array_equal(theta, LEADER)


def semidefinite(tree, _):
    values, vectors = jnp.linalg.eigh((tree + tree.T) / 2)
    return (vectors * jnp.maximum(values, 0)) @ vectors.T


def nuclear_norm(tree, step_size):
    u, values, v = jnp.linalg.svd(tree, full_matrices=False)
    return (u * jnp.maximum(values - 0.5 * step_size, 0)) @ v


MATRICES = {
    "semidefinite": (semidefinite, lambda t: (0, [t >> 0, t == t.T])),
    "nuclear norm": (nuclear_norm, lambda t: (0.5 * cp.normNuc(t), [])),
}


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize(("decades", "error"), [(2, 1e-5), (4, 1e-4)])
@pytest.mark.parametrize("name", MATRICES)
def test_matrices_are_what_a_solver_finds(name, decades, error):
    f, parts = MATRICES[name]
    rng = np.random.default_rng(0)
    leader, s = cases.draw(rng, decades=decades, shape=(6, 6))
    s /= np.max(s)
    theta = cp.Variable((6, 6))
    penalty, constraints = parts(theta)
    distance = cp.sum_squares(cp.multiply(s**-0.5, theta - leader)) / 2
    cases.minimise(penalty + distance, constraints, 1e-10)
    found = jax.jit(prox.in_metric(f))(jnp.float32(leader), jnp.float32(s))
    np.testing.assert_allclose(found, theta.value, atol=error)


def test_nearest_correlation_matrix():
    leader = np.random.default_rng(0).normal(size=(5, 5))
    leader = leader + leader.T
    theta = cp.Variable((5, 5), symmetric=True)
    cases.minimise(
        cp.sum_squares(theta - leader), [theta >> 0, cp.diag(theta) == 1]
    )
    free = np.where(np.eye(5) > 0, 0, np.inf)
    f = prox.intersection(
        prox.in_metric(semidefinite), prox.box(1 - free, 1 + free)
    )
    found = jax.jit(f)(jnp.float32(leader), jnp.ones((5, 5)))
    np.testing.assert_allclose(found, theta.value, atol=1e-4)
