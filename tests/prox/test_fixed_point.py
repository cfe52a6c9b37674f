"""What iterates, beside proxes that need not: derivatives, units, no leaves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases, test_in_metric

SHARES = prox.intersection(prox.simplex(), prox.box(0.0, 0.6))


def of_leaves(f):
    """The prox of two leaves as that of one."""
    return lambda *arguments: jnp.concatenate(
        f(*([a[:2], a[2:]] for a in arguments))
    )


PAIRS = {
    name: (
        # However many iterations there may be.
        test_in_metric.from_euclidean(name, 1e-12, max_iterations=10**9),
        cases.CONVEX[name].make(None),
    )
    for name in ("simplex", "l2_ball", "group_lasso")
}
PAIRS["intersection"] = (
    of_leaves(
        prox.intersection(
            prox.hyperplane(1.0, 1.0), prox.box(0.0, 0.4), tolerance=1e-12
        )
    ),
    prox.box_section(0.0, 0.4, 1.0, 1.0),
)
QUICK = "simplex", "intersection"


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in PAIRS
    ],
)
def test_derivatives_are_those_of_the_direct_prox(x64, name):
    rng = np.random.default_rng(9)
    arguments = cases.draw(rng, decades=2)
    tangents = tuple(a * rng.normal(size=a.shape) for a in arguments)

    def derivatives(f):
        theta, forward = jax.jvp(f, arguments, tangents)
        return theta, forward, jax.vjp(f, *arguments)[1](jnp.arange(1.0, 7))

    ours, direct = (jax.jit(lambda f=f: derivatives(f))() for f in PAIRS[name])
    chex.assert_trees_all_close(ours, direct, rtol=1e-6, atol=1e-8)


def test_huge_leaders_are_scaled_exactly():
    f = jax.jit(prox.in_metric(lambda x, _: x - jnp.mean(x)))
    leader = np.float32(cases.NORMAL)
    step_size = np.geomspace(1e-3, 1, cases.SIZE, dtype=np.float32)
    np.testing.assert_array_equal(
        f(leader * np.float32(2**120), step_size),
        f(leader * np.float32(2**40), step_size) * np.float32(2**80),
    )


@pytest.mark.parametrize(
    "f", [prox.in_metric(lambda x, _: x), SHARES], ids=["in_metric", "shares"]
)
def test_empty_leaves_and_trees(f):
    empty = {"a": jnp.ones((0, 3))}
    assert f({}, {}) == {}
    assert f(empty, empty)["a"].shape == (0, 3)
