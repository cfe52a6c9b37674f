"""What iterates, beside proxes that need not: derivatives, units, no leaves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases, test_in_metric


def of_leaves(f):
    """The prox of two leaves as that of one."""
    return lambda *arguments: jnp.concatenate(
        f(*([a[:2], a[2:]] for a in arguments))
    )


PAIRS = {
    "in_metric": (
        # However many iterations there may be.
        test_in_metric.from_euclidean("simplex", 1e-12, max_iterations=10**9),
        cases.CONVEX["simplex"].make(None),
    ),
    "intersection": (
        of_leaves(
            prox.intersection(
                prox.hyperplane(1.0, 1.0), prox.box(0.0, 0.4), tolerance=1e-12
            )
        ),
        prox.box_section(0.0, 0.4, 1.0, 1.0),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_derivatives_are_those_of_the_direct_prox(x64, name):
    rng = np.random.default_rng(9)
    arguments = cases.draw(rng, decades=2)
    tangents = tuple(a * rng.normal(size=a.shape) for a in arguments)

    def derivatives(f):
        theta, forward = jax.jvp(f, arguments, tangents)
        return theta, forward, jax.vjp(f, *arguments)[1](jnp.arange(1.0, 7))

    ours, direct = (jax.jit(lambda f=f: derivatives(f))() for f in PAIRS[name])
    chex.assert_trees_all_close(ours, direct, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "f", [prox.in_metric(lambda x, _: x), prox.intersection(prox.simplex())]
)
def test_empty_leaves_and_trees(f):
    empty = {"a": jnp.ones((0, 3))}
    assert f({}, {}) == {}
    assert f(empty, empty)["a"].shape == (0, 3)


def into_ball(x, _):
    return x / jnp.maximum(1, jnp.linalg.norm(x)).astype(x.dtype)


@pytest.mark.parametrize(
    "f",
    [
        prox.in_metric(into_ball),
        prox.intersection(prox.l2_ball(), prox.l1_ball(2.0)),
    ],
    ids=["in_metric", "intersection"],
)
def test_complex_leaves(strict, f):
    theta = jax.jit(f)(jnp.array([3 + 4j, 0.0]), jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(theta, [0.6 + 0.8j, 0], atol=1e-6)
