"""Training with each prox: narrow parameters, NaN gradients, checkpoints."""

import chex
import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import optax_ftml
from optax_ftml import prox
from tests.prox import cases

ALL = {name: case.make for name, case in cases.CONVEX.items()}
ALL |= cases.NOT_CONVEX
RNG = np.random.default_rng(0)
GRADS = RNG.normal(size=(20, cases.SIZE))


def violation(name, point):
    """How far a point is outside of the set."""
    if name == "l2_sphere":
        return abs(np.linalg.norm(point) - 1.3)
    if name == "top_k":
        return np.sort(np.abs(point))[-3]
    if name == "levels":
        levels = np.array([-1.0, 0.0, 0.5])
        return np.max(np.min(np.abs(np.subtract.outer(point, levels)), 1))
    theta = cp.Variable(cases.SIZE, value=point)
    _, constraints = cases.CONVEX[name].problem(theta)
    return max([0, *(np.max(c.violation()) for c in constraints)])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "bfloat16") for name in ALL]
    + [(name, "float16") for name in ("simplex", "l2_ball", "box_section")],
)
def test_each_prox_in_training(name, dtype):
    optimizer = optax.apply_if_finite(
        optax_ftml.ftml(0.1, prox=ALL[name](None)), 5
    )

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def run(params, state, grads):
        for g in grads:
            params, state = step(params, state, jnp.asarray(g, dtype))
        return params, state

    start = jnp.zeros(cases.SIZE, dtype)
    halfway = run(start, optimizer.init(start), GRADS[:10])
    end = run(*halfway, GRADS[10:])
    params, _ = end
    assert params.dtype == dtype
    point = np.asarray(params, np.float64)
    # Each number is off by its own rounding and that of the step to it.
    rounding = 2 * float(jnp.finfo(dtype).eps) * (1 + np.sum(np.abs(point)))
    assert violation(name, point) <= rounding

    # A NaN changes nothing but the count of those.
    bad = run(*halfway, [GRADS[0] * np.nan])
    chex.assert_trees_all_equal(bad[0], halfway[0])
    chex.assert_trees_all_equal(bad[1].inner_state, halfway[1].inner_state)
    after = run(*bad, GRADS[10:])
    chex.assert_trees_all_equal(after[0], end[0])

    saved = serialization.to_bytes(halfway)
    restored = serialization.from_bytes(
        jax.tree.map(jnp.zeros_like, halfway), saved
    )
    chex.assert_trees_all_equal(run(*restored, GRADS[10:]), end)


PENALTIES = {
    "l1": prox.l1(1e-3),
    "elastic_net": prox.elastic_net(1e-3, 1e-4),
    "l2 alone": prox.elastic_net(0.0, 1e-4),
    "group_lasso": prox.group_lasso(1e-3, axis=1),
    "total_variation": prox.total_variation(1e-3),
}


@pytest.mark.parametrize("make", [optax_ftml.ftml, optax_ftml.proximal_adam])
@pytest.mark.parametrize("name", PENALTIES)
def test_an_embedding_keeps_the_rows_that_no_batch_had(name, make):
    table = jax.random.normal(jax.random.key(0), (6, 4))
    batch = jnp.array([0, 2])  # In every step; the other rows in none.
    optimizer = make(0.01, prox=PENALTIES[name])

    @jax.jit
    def step(table, state):
        grads = jax.grad(lambda t: jnp.sum((t[batch] - 1) ** 2))(table)
        updates, state = optimizer.update(grads, state, table)
        return optax.apply_updates(table, updates), state

    start, state = table, optimizer.init(table)
    for _ in range(50):
        table, state = step(table, state)
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
