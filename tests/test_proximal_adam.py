"""proximal_adam is Adam where the prox is nothing, and ends where it should."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference
from tests.prox import cases

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_with_the_prox_of_nothing_is_adam(x64, dtype):
    grads = RNG.normal(size=(500, 6)) * np.logspace(-3, 3, 6)
    theta = RNG.normal(size=6)
    if dtype == "complex64":
        grads, theta = grads * (1 + 2j), theta * (1 - 1j)
    theta, grads = jnp.asarray(theta, dtype), jnp.asarray(grads, dtype)
    arguments = optax.cosine_decay_schedule(0.01, 500), 0.8, 0.99, 1e-6, 1e-7
    actual, expected = (
        jax.jit(reference.trajectory, static_argnums=0)(o, theta, grads)
        for o in (
            optax_ftml.proximal_adam(*arguments, prox=reference.free),
            optax.adam(*arguments),
        )
    )
    assert actual.dtype == dtype
    tolerance = 1e-13 if dtype == "float64" else 3e-6
    np.testing.assert_allclose(actual, expected, tolerance, tolerance)


def test_narrow_parameters_are_computed_in_float32():
    grads = jnp.asarray(RNG.normal(size=(20, 6)), jnp.bfloat16)
    theta = jnp.asarray(RNG.normal(size=6), jnp.bfloat16)
    optimizer = optax_ftml.proximal_adam(0.1, prox=optax_ftml.prox.l1(0.5))
    state = optimizer.init(theta)
    for g in grads:
        wide, _ = optimizer.update(
            g.astype(jnp.float32), state, theta.astype(jnp.float32)
        )
        updates, state = optimizer.update(g, state, theta)
        assert state.mu.dtype == state.nu.dtype == jnp.float32
        assert updates.dtype == jnp.bfloat16
        # Off by the rounding of the target and of the update.
        eps = float(jnp.finfo(jnp.bfloat16).eps)
        error = np.abs(updates.astype(jnp.float32) - wide)
        size = np.abs(wide) + np.abs(theta.astype(jnp.float32))
        assert np.all(error <= eps * size)
        theta = optax.apply_updates(theta, updates)


X = RNG.normal(size=(30, cases.SIZE)) * np.logspace(-1, 1, cases.SIZE)
X /= np.sqrt(len(X))
Y = X @ (1 + RNG.normal(size=cases.SIZE)) + RNG.normal(size=len(X))


@pytest.mark.parametrize("name", ["box", "l1", "simplex", "group_lasso"])
def test_ends_on_the_solver_s_optimum(x64, name):
    """Least squares with columns over two decades, as for ftml."""
    steps = 20_000
    optimizer = optax_ftml.proximal_adam(
        optax.cosine_decay_schedule(0.02, steps, alpha=1e-6),
        b2=0.99,
        prox=cases.CONVEX[name].make(None),
    )

    def step(_, carry):
        theta, state = carry
        grads = X.T @ (X @ theta - Y)
        updates, state = optimizer.update(grads, state, theta)
        return optax.apply_updates(theta, updates), state

    start = jnp.zeros(cases.SIZE)
    end, _ = jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))

    theta = cp.Variable(cases.SIZE)
    penalty, constraints = cases.CONVEX[name].problem(theta)
    loss = cp.sum_squares(X @ theta - Y) / 2
    problem = cp.Problem(cp.Minimize(loss + penalty), constraints)
    tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-9)
    least = problem.solve(solver="CLARABEL", **tolerances)
    np.testing.assert_allclose(end, theta.value, atol=1e-3)
    theta.value = np.asarray(end)
    assert max([0, *(np.max(c.violation()) for c in constraints)]) < 1e-9
    assert problem.objective.value <= least * (1 + 1e-4)
