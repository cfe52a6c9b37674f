"""Training with each prox: the solver's optimum, and a box's bounds.

To the optimum it is least squares with columns over two decades, and a learning
rate that goes from 0.02 to a millionth of it along a cosine.
"""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import prox
from tests import reference
from tests.prox import cases

STEPS = 20_000
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, cases.SIZE)) * np.logspace(-1, 1, cases.SIZE)
X /= np.sqrt(len(X))
Y = X @ (1 + RNG.normal(size=cases.SIZE)) + RNG.normal(size=len(X))


@pytest.mark.parametrize("name", cases.typical(cases.CONVEX))
def test_ends_on_the_solver_s_optimum_with_its_multipliers(x64, name):
    schedule = optax.cosine_decay_schedule(0.02, STEPS, alpha=1e-6)
    f = cases.CONVEX[name].make(None)
    end, state = reference.train(
        optax_ftml.ftml(schedule, b2=0.99, prox=f),
        lambda theta: X.T @ (X @ theta - Y),
        jnp.zeros(cases.SIZE),
        STEPS,
    )

    theta, copy = cp.Variable(cases.SIZE), cp.Variable(cases.SIZE)
    penalty, constraints = cases.CONVEX[name].problem(copy)
    # The price of being the same as what the penalty and the set are of.
    is_same = theta == copy
    objective = cp.sum_squares(X @ theta - Y) / 2 + penalty
    least = cases.minimise(objective, [*constraints, is_same])
    forces, zeros = is_same.dual_value, np.abs(copy.value) < 1e-6
    theta.value = copy.value = np.asarray(end)
    assert cases.violation(constraints) < 1e-9
    assert objective.value <= least * (1 + 1e-4)
    np.testing.assert_array_equal(end == 0, zeros)
    size = np.max(np.abs(forces))
    assert size > 0.01
    np.testing.assert_allclose(
        optax_ftml.multipliers(state), forces, atol=1e-3 * size
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rounding_never_leaves_the_box(dtype):
    # Large steps between the edges, where theta + (edge - theta) rounds.
    edges = np.array([[-1.0, 0.3, -0.2], [0.1, 0.7, 50.0]])[:, :, None]
    optimizer = optax_ftml.ftml(10.0, prox=prox.box(*edges))
    lower, upper = jnp.asarray(edges, dtype)
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.uniform(*edges, size=(3, 2000)), dtype)
    grads = jnp.asarray(rng.normal(size=(50, 3, 2000)), dtype)
    thetas = reference.trajectory(optimizer, start, grads)
    assert thetas.dtype == dtype
    assert jnp.all((thetas >= lower) & (thetas <= upper))
    at_edge = (thetas == lower) | (thetas == upper)
    assert np.all(np.mean(at_edge, axis=(0, 2)) > 0.1)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_step_has_gradients_by_the_bounds_of_a_box(shape):
    def end(lower, upper):
        optimizer = optax_ftml.ftml(0.5, prox=prox.box(lower, upper))
        start, grads = jnp.array([0.9, -0.9]), jnp.array([[-1.0, 1.0]])
        theta = reference.trajectory(optimizer, start, grads)
        return jnp.sum(theta @ jnp.array([2.0, 3.0]))

    bounds = jnp.full(shape, -1.0), jnp.full(shape, 1.0)
    by_lower, by_upper = jax.grad(end, (0, 1))(*bounds)
    assert by_lower.shape == by_upper.shape == shape
    np.testing.assert_allclose((by_lower.sum(), by_upper.sum()), (3, 2))
