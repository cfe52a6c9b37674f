"""in_metric: derivatives, matrices against Clarabel, dead coordinates."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_ftml import _numerics
from optax_ftml import prox
from tests.prox import cases

LEADER, STEPS = jnp.array([0.7, 0.9, -0.2]), jnp.array([3.0, 1.0, 0.2])


def simplex(**settings):
    return prox.in_metric(
        lambda tree, _: optax.projections.projection_simplex(tree), **settings
    )


def test_forward_mode_is_that_of_the_direct_prox():
    tangents = jnp.array([1.0, -2.0, 3.0]), jnp.array([0.5, 0.1, 0.2])
    ours, theirs = (
        jax.jit(lambda *a, f=f: jax.jvp(f, (LEADER, STEPS), a))(*tangents)
        for f in (simplex(), prox.simplex())
    )
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)


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


@pytest.mark.slow
def test_reverse_mode_twice():
    def second(f):
        def loss(s):
            return jnp.sum(f(LEADER, s) ** 2)

        return jax.jit(jax.grad(lambda s: jax.grad(loss)(s)[0]))(STEPS)

    shrink = prox.in_metric(lambda x, step_size: x / (1 + step_size))
    ours = second(shrink)
    theirs = second(lambda x, s: x / (1 + s))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_penalty_leaves_a_tree_without_a_gradient():
    shrink = prox.in_metric(lambda x, step_size: x / (1 + step_size))
    never = jnp.full(3, _numerics.bound(jnp.float32))
    np.testing.assert_array_equal(shrink(LEADER, never), LEADER)


def test_complex_leaves():
    f = prox.in_metric(lambda x, _: x / jnp.maximum(1, jnp.linalg.norm(x)))
    theta = jax.jit(f)(jnp.array([3 + 4j, 0.0]), jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(theta, [0.6 + 0.8j, 0], atol=1e-6)


def eigenvalues(function):
    def f(tree, step_size):
        values, vectors = jnp.linalg.eigh((tree + tree.T) / 2)
        return (vectors * function(values, step_size)) @ vectors.T

    return f


def singular_values(function):
    def f(tree, step_size):
        u, values, v = jnp.linalg.svd(tree, full_matrices=False)
        return (u * function(values, step_size)) @ v

    return f


MATRICES = {
    "semidefinite": (
        eigenvalues(lambda v, _: jnp.maximum(v, 0)),
        lambda t: (0, [t >> 0, t == t.T]),
    ),
    "spectral norm": (
        singular_values(lambda v, _: jnp.minimum(v, 1)),
        lambda t: (0, [cp.sigma_max(t) <= 1]),
    ),
    "nuclear norm": (
        singular_values(lambda v, s: jnp.maximum(v - 0.5 * s, 0)),
        lambda t: (0.5 * cp.normNuc(t), []),
    ),
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
    problem = cp.Problem(cp.Minimize(penalty + distance), constraints)
    problem.solve(
        solver="CLARABEL",
        tol_gap_abs=1e-10,
        tol_gap_rel=1e-10,
        tol_feas=1e-10,
    )
    found = jax.jit(prox.in_metric(f))(jnp.float32(leader), jnp.float32(s))
    np.testing.assert_allclose(found, theta.value, atol=error)


def test_nearest_correlation_matrix():
    leader = np.random.default_rng(0).normal(size=(5, 5))
    leader = leader + leader.T
    theta = cp.Variable((5, 5), symmetric=True)
    cp.Problem(
        cp.Minimize(cp.sum_squares(theta - leader)),
        [theta >> 0, cp.diag(theta) == 1],
    ).solve("CLARABEL")
    eye = np.eye(5)
    f = prox.intersection(
        prox.in_metric(MATRICES["semidefinite"][0]),
        prox.box(np.where(eye > 0, 1.0, -np.inf), np.where(eye > 0, 1, np.inf)),
    )
    found = jax.jit(f)(jnp.float32(leader), jnp.ones((5, 5)))
    np.testing.assert_allclose(found, theta.value, atol=1e-4)
