"""Where there has been no gradient: sets move it first, penalties leave it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_ftml
from optax_ftml import prox
from tests import reference
from tests.prox import cases

# Shares that want 0.5, with these curvatures: the last has no gradient.
CURVATURE = np.array([1.0, 10.0, 100.0, 0.0], np.float32)
# With a multiplier of 0.345, by which the radius is chosen.
BALL = 0.5 * CURVATURE / (CURVATURE + 0.345)
SHARES = [0.0495, 0.4550, 0.4955, 0]


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (prox.simplex(), SHARES),
        (prox.l1_ball(), SHARES),
        (prox.box_section(0.0, 1.0, 1.0, 1.0), SHARES),
        (prox.hyperplane(1.0, 1.0), [0.5, 0.5, 0.5, -0.5]),
        (prox.l2_ball(np.linalg.norm(BALL)), BALL),
        (prox.monotone(), [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_what_has_no_gradient_moves_first(f, expected):
    has_gradient = CURVATURE > 0
    rate = np.where(has_gradient, 0.3 / np.maximum(CURVATURE, 1), 0)
    steps = np.float32(np.where(has_gradient, rate, cases.NEVER))

    def step(_, theta):
        return f(theta - rate * CURVATURE * (theta - 0.5), steps)

    theta = jax.lax.fori_loop(0, 500, step, jnp.full(4, 0.25))
    np.testing.assert_allclose(theta, expected, atol=2e-4)


MEMBER = (0.4 * 3**0.5 - 0.5) / 3**0.5


@pytest.mark.parametrize(
    ("f", "leader", "step_size", "expected"),
    [
        # A group shrinks beside what does not move.
        (
            prox.group_lasso(0.5, axis=None),
            *([0.4, 0.4, 0.4, 0], [1, 1, 1, 0], [*[MEMBER] * 3, 0]),
        ),
        # What has had none is 0 at once, and follows its neighbours.
        (
            prox.group_lasso(1e-6, axis=None),
            *([3, 4, 5], [0.1, 0.1, cases.NEVER], [3, 4, 0]),
        ),
        (
            prox.total_variation(0.5),
            *([0, 1, 9, 5, 6], [1, 1, cases.NEVER, 1, 1], [0.5, 1, 5, 5, 5.5]),
        ),
    ],
)
def test_in_a_slice_that_has_had_one(f, leader, step_size, expected):
    theta = f(jnp.float32(leader), jnp.float32(step_size))
    np.testing.assert_allclose(theta, expected, rtol=1e-5)


@pytest.mark.parametrize("make", [optax_ftml.ftml, optax_ftml.proximal_adam])
def test_an_embedding_keeps_the_rows_that_no_batch_had(make):
    optimizer = make(0.01, prox=prox.group_lasso(1e-3, axis=1))
    start = jax.random.normal(jax.random.key(0), (6, 4))
    batch, unseen = jnp.array([0, 2]), jnp.array([1, 3, 4, 5])
    gradient = jax.grad(lambda table: jnp.sum((table[batch] - 1) ** 2))
    table, _ = reference.train(optimizer, gradient, start, 50)
    np.testing.assert_array_equal(table[unseen], start[unseen])
    assert jnp.all(jnp.abs(table[batch] - 1) < jnp.abs(start[batch] - 1))
