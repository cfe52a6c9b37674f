"""in_metric beside the direct proxes: float32, derivatives, huge leaders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases

EUCLIDEAN = [
    *("simplex", "l1_ball", "l2_ball", "hyperplane", "halfspace"),
    *("group_lasso", "total_variation"),
]


def from_euclidean(name, **settings):
    """The prox with one step size for all, made one in the metric."""
    f = cases.CONVEX[name].make(None)
    return prox.in_metric(
        lambda x, step_size: f(x, jnp.full(x.shape, step_size)), **settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EUCLIDEAN)
def test_in_metric_in_float32_is_close_over_six_decades(x64, name):
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simplex", "l2_ball", "group_lasso"])
def test_gradients_in_metric_end_at_those_of_the_direct_prox(x64, name):
    # However many iterations there may be.
    f = from_euclidean(name, tolerance=1e-12, max_iterations=10**9)
    arguments = cases.draw(np.random.default_rng(9), decades=2)
    weight = np.arange(1.0, 1 + cases.SIZE)
    ours, direct = (
        jax.jit(jax.grad(lambda *args, f=f: jnp.sum(weight * f(*args)), (0, 1)))
        for f in (f, cases.CONVEX[name].make(None))
    )
    for gradients in zip(ours(*arguments), direct(*arguments), strict=True):
        np.testing.assert_allclose(*gradients, rtol=1e-6, atol=1e-8)


def test_in_metric_scales_huge_leaders_exactly():
    f = jax.jit(prox.in_metric(lambda x, _: x - jnp.mean(x)))
    leader = np.float32(cases.NORMAL)
    step_size = np.geomspace(1e-3, 1, cases.SIZE, dtype=np.float32)
    np.testing.assert_array_equal(
        f(leader * np.float32(2**120), step_size),
        f(leader * np.float32(2**40), step_size) * np.float32(2**80),
    )


@pytest.mark.parametrize(
    "f",
    [
        prox.in_metric(lambda x, _: x),
        prox.intersection(prox.simplex(), prox.box(0.0, 0.6)),
    ],
    ids=["in_metric", "intersection"],
)
def test_empty_leaves_and_trees(f):
    empty = {"a": jnp.ones((0, 3))}
    assert f({}, {}) == {}
    assert f(empty, empty)["a"].shape == (0, 3)
