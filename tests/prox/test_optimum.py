"""Training with each convex prox ends where a solver says, with its forces.

Least squares with columns over two decades, 20,000 steps, and a learning rate
that goes from 0.02 to a millionth of it along a cosine.
"""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests.prox import cases

STEPS = 20_000
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, cases.SIZE)) * np.logspace(-1, 1, cases.SIZE)
X /= np.sqrt(len(X))
Y = X @ (1 + RNG.normal(size=cases.SIZE)) + RNG.normal(size=len(X))


def train(f):
    optimizer = optax_ftml.ftml(
        optax.cosine_decay_schedule(0.02, STEPS, alpha=1e-6), b2=0.99, prox=f
    )

    @jax.jit
    def run():
        def step(_, carry):
            theta, state = carry
            grads = X.T @ (X @ theta - Y)
            updates, state = optimizer.update(grads, state, theta)
            return optax.apply_updates(theta, updates), state

        start = jnp.zeros(cases.SIZE)
        return jax.lax.fori_loop(0, STEPS, step, (start, optimizer.init(start)))

    theta, state = run()
    return theta, optax_ftml.multipliers(state)


@pytest.mark.parametrize("name", cases.CONVEX)
def test_ends_on_the_solver_s_optimum_with_its_multipliers(x64, name):
    case = cases.CONVEX[name]
    theta, copy = cp.Variable(cases.SIZE), cp.Variable(cases.SIZE)
    penalty, constraints = case.problem(copy)
    # The price of being the same as what the penalty and the set are of.
    is_same = theta == copy
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(X @ theta - Y) / 2 + penalty),
        [*constraints, is_same],
    )
    problem.solve(
        solver="CLARABEL",
        tol_gap_abs=1e-9,
        tol_gap_rel=1e-9,
        tol_feas=1e-9,
    )
    least, forces = problem.value, is_same.dual_value
    end, multipliers = train(case.make(None))
    theta.value = copy.value = np.asarray(end)
    assert max([0, *(np.max(c.violation()) for c in constraints)]) < 1e-9
    assert problem.objective.value <= least * (1 + 1e-4)
    assert np.max(np.abs(forces)) > 0.01
    np.testing.assert_allclose(
        multipliers, forces, atol=1e-3 * np.max(np.abs(forces))
    )
