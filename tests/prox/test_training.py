"""Training with each prox: the solver's optimum, narrow parameters, rows.

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
    optimizer = optax_ftml.ftml(
        optax.cosine_decay_schedule(0.02, STEPS, alpha=1e-6),
        b2=0.99,
        prox=cases.CONVEX[name].make(None),
    )

    def step(_, carry):
        theta, state = carry
        grads = X.T @ (X @ theta - Y)
        updates, state = optimizer.update(grads, state, theta)
        return optax.apply_updates(theta, updates), state

    start = jnp.zeros(cases.SIZE)
    end, state = jax.lax.fori_loop(
        0, STEPS, step, (start, optimizer.init(start))
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
    assert np.max(np.abs(forces)) > 0.01
    np.testing.assert_allclose(
        optax_ftml.multipliers(state),
        forces,
        atol=1e-3 * np.max(np.abs(forces)),
    )


WIDTHS = ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
SETS = [n for n, case in cases.CONVEX.items() if case.feasible is not None]
LEVELS = np.array([-1.0, 0.0, 0.5])
VIOLATIONS = {
    "l2_sphere": lambda point: abs(np.linalg.norm(point) - 1.3),
    "top_k": lambda point: np.sort(np.abs(point))[-3],
    "levels": lambda point: np.max(
        np.min(np.abs(np.subtract.outer(point, LEVELS)), axis=1)
    ),
}


def violation(name, point):
    """How far a point is outside of the set."""
    if name in VIOLATIONS:
        return VIOLATIONS[name](point)
    theta = cp.Variable(cases.SIZE, value=point)
    return cases.violation(cases.CONVEX[name].problem(theta)[1])


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("name", cases.typical([*SETS, *VIOLATIONS]))
def test_narrow_parameters_stay_in_the_set(name, dtype):
    make = cases.NOT_CONVEX.get(name) or cases.CONVEX[name].make
    grads = np.random.default_rng(0).normal(size=(20, cases.SIZE))
    thetas = reference.trajectory(
        optax_ftml.ftml(0.1, prox=make(None)),
        jnp.zeros(cases.SIZE, dtype),
        jnp.asarray(grads, dtype),
    )
    assert thetas.dtype == dtype
    for point in np.asarray(thetas, np.float64)[[0, 9, 19]]:
        # Each number is off by its own rounding and that of the step to it.
        rounding = 2 * float(jnp.finfo(dtype).eps) * (1 + np.sum(np.abs(point)))
        assert violation(name, point) <= rounding


PENALTIES = {
    "l1": prox.l1(1e-3),
    "l2 alone": prox.elastic_net(0.0, 1e-4),
    "group_lasso": prox.group_lasso(1e-3, axis=1),
    "total_variation": prox.total_variation(1e-3),
}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((name, optax_ftml.ftml) for name in PENALTIES),
        ("group_lasso", optax_ftml.proximal_adam),
    ],
)
def test_an_embedding_keeps_the_rows_that_no_batch_had(name, make):
    start = jax.random.normal(jax.random.key(0), (6, 4))
    batch = jnp.array([0, 2])  # In every step; the other rows in none.
    optimizer = make(0.01, prox=PENALTIES[name])

    def step(_, carry):
        table, state = carry
        grads = jax.grad(lambda t: jnp.sum((t[batch] - 1) ** 2))(table)
        updates, state = optimizer.update(grads, state, table)
        return optax.apply_updates(table, updates), state

    table, _ = jax.lax.fori_loop(0, 50, step, (start, optimizer.init(start)))
    unseen = jnp.array([1, 3, 4, 5])
    np.testing.assert_array_equal(table[unseen], start[unseen])
    assert jnp.all(jnp.abs(table[batch] - 1) < jnp.abs(start[batch] - 1))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_step_has_gradients_by_the_bounds_of_a_box(shape):
    def end(lower, upper):
        optimizer = optax_ftml.ftml(0.5, prox=prox.box(lower, upper))
        params = jnp.array([0.9, -0.9, 0.0])
        grads = jnp.array([-1.0, 1.0, 1e-3])
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return jnp.sum((params + updates) * jnp.array([2.0, 3.0, 5.0]))

    bounds = jnp.full(shape, -1.0), jnp.full(shape, 1.0)
    by_lower, by_upper = jax.grad(end, (0, 1))(*bounds)
    assert by_lower.shape == by_upper.shape == shape
    np.testing.assert_allclose((by_lower.sum(), by_upper.sum()), (3, 2))
