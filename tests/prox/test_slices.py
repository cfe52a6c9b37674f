"""Slices along axes and across leaves, and coordinates without gradients."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import _numerics
from optax_ftml import prox
from tests.prox import cases

AXES = {"hidden/kernel": 0, "hidden/bias": (), "out/kernel": 1}
SHAPES = {
    "hidden": {"kernel": (4, 3), "bias": (3,)},
    "out": {"kernel": (3, 2), "bias": (2,)},
}
SLICED = {
    name: case.make
    for name, case in cases.CONVEX.items()
    if case.takes_axis and not case.is_separable
}
# Their other arguments are single numbers, which fit slices of any size.
ACROSS = {
    "simplex": lambda axis: prox.simplex(1.3, axis=axis),
    "simplex_at_most": lambda axis: prox.simplex(1.3, at_most=True, axis=axis),
    "l1_ball": lambda axis: prox.l1_ball(0.7, axis=axis),
    "l2_ball": lambda axis: prox.l2_ball(0.7, axis=axis),
    "hyperplane": lambda axis: prox.hyperplane(0.5, 0.4, axis=axis),
    "halfspace": lambda axis: prox.halfspace(0.5, -0.4, axis=axis),
    "box_section": lambda axis: prox.box_section(0.0, 1.0, 1.0, 2.0, axis=axis),
    "group_lasso": lambda axis: prox.group_lasso(
        0.7, l1=0.1, non_negative=True, axis=axis
    ),
    "l2_sphere": lambda axis: prox.l2_sphere(0.7, axis=axis),
    "top_k": lambda axis: prox.top_k(2, axis=axis),
}


def random_tree(draw):
    return jax.tree.map(
        lambda shape: jnp.asarray(draw(shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def as_rows(tree):
    """A row for each hidden unit: what comes in, its bias, what goes out."""
    hidden, out = tree["hidden"], tree["out"]
    columns = hidden["kernel"].T, hidden["bias"][:, None], out["kernel"]
    return jnp.concatenate(columns, axis=1)


@pytest.mark.parametrize("name", ACROSS)
def test_slices_across_leaves_are_those_of_one_array(name):
    rng = np.random.default_rng(0)
    leader = random_tree(lambda shape: rng.normal(size=shape))
    steps = random_tree(lambda shape: 10 ** rng.uniform(-2, 0, size=shape))
    make = ACROSS[name]
    theta = jax.jit(make(AXES))(leader, steps)
    rows = jax.jit(make(1))(as_rows(leader), as_rows(steps))
    np.testing.assert_allclose(as_rows(theta), rows, rtol=2e-5, atol=2e-6)
    chex.assert_trees_all_equal(theta["out"]["bias"], leader["out"]["bias"])


def test_numbers_per_slice_have_the_shape_that_is_left():
    ones = random_tree(np.ones)
    f = prox.group_lasso(np.array([0.0, 1.0, 100.0]), axis=AXES)
    rows = as_rows(f(ones, ones))
    norm = np.sqrt(rows.shape[1])
    expected = np.array([1, 1 - 1 / norm, 0])
    np.testing.assert_allclose(rows.T, expected + 0 * rows.T, rtol=1e-6)


@pytest.mark.parametrize(
    ("axis", "error", "word"),
    [
        ({"hidden/*": 0}, ValueError, r"\(3,\).*kernel.*\(\).*bias|\(\).*bias"),
        ({"hidden/kernel": 2}, ValueError, "axis.*hidden/kernel"),
        ({"hiden/kernel": 0}, ValueError, "axis.*hiden"),
        ({1: 0}, TypeError, "axis"),
        ({"hidden/kernel": "0"}, TypeError, "axis"),
        ((), TypeError, "axis"),
    ],
)
def test_axes_that_do_not_fit_are_named(axis, error, word):
    tree = random_tree(np.ones)
    with pytest.raises(error, match=word):
        prox.simplex(axis=axis)(tree, tree)


# With a multiplier of 0.345, by which the radius is chosen.
CURVATURE = np.array([1.0, 10.0, 100.0, 0.0], np.float32)
BALL = 0.5 * CURVATURE / (CURVATURE + 0.345)


def untouched(shape=(cases.SIZE,)):
    return jnp.full(shape, _numerics.bound(jnp.float32))


@pytest.mark.parametrize(
    "make",
    [
        lambda: prox.l1(0.5),
        lambda: prox.l1(0.5, non_negative=True),
        lambda: prox.elastic_net(0.0, 0.5),
        lambda: prox.elastic_net(0.5, 0.5),
        lambda: prox.group_lasso(0.5, axis=-1),
        lambda: prox.group_lasso(0.5, axis=-1, l1=0.1),
        lambda: prox.group_lasso(0.5, axis=-1, non_negative=True),
    ],
)
def test_a_penalty_leaves_slices_without_gradients(make):
    leader = jnp.abs(jnp.asarray(cases.NORMAL, jnp.float32))[None] + jnp.ones(
        (2, 1)
    )
    steps = jnp.stack([untouched(), jnp.full(cases.SIZE, 0.1)])
    theta = jax.jit(make())(leader, steps)
    np.testing.assert_array_equal(theta[0], leader[0])
    assert np.all(theta[1] < leader[1])


def test_a_group_s_member_without_a_gradient_is_0_at_once():
    leader = jnp.array([[3.0, 4.0, 5.0]])
    steps = jnp.array([[0.1, 0.1, untouched(())]])
    theta = prox.group_lasso(1e-6, axis=1)(leader, steps)
    np.testing.assert_allclose(theta, [[3, 4, 0]], rtol=1e-5)
    assert theta[0, 2] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simplex", [0.0495, 0.4550, 0.4955, 0]),
        ("simplex_at_most", [0.0495, 0.4550, 0.4955, 0]),
        ("l1_ball", [0.0495, 0.4550, 0.4955, 0]),
        ("box_section", [0.0495, 0.4550, 0.4955, 0]),
        ("hyperplane", [0.5, 0.5, 0.5, -0.5]),
        ("halfspace", [0.5, 0.5, 0.5, -0.5]),
        ("l2_ball", BALL),
    ],
)
def test_sets_end_at_the_optimum_beside_what_has_no_gradient(name, expected):
    # Shares that want 0.5, with curvatures 1, 10, 100 and none at all.
    f = {
        "simplex": prox.simplex(),
        "simplex_at_most": prox.simplex(at_most=True),
        "l1_ball": prox.l1_ball(),
        "box_section": prox.box_section(0.0, 1.0, 1.0, 1.0),
        "hyperplane": prox.hyperplane(1.0, 1.0),
        "halfspace": prox.halfspace(1.0, 1.0),
        "l2_ball": prox.l2_ball(np.linalg.norm(BALL)),
    }[name]
    curvature = jnp.asarray(CURVATURE)
    has_gradient = curvature > 0
    rate = jnp.where(has_gradient, 0.3 / jnp.maximum(curvature, 1), 0)
    steps = jnp.where(has_gradient, rate, untouched(()))

    @jax.jit
    def train(theta):
        def step(_, theta):
            return f(theta - rate * curvature * (theta - 0.5), steps)

        return jax.lax.fori_loop(0, 500, step, theta)

    theta = train(jnp.full(4, 0.25))
    np.testing.assert_allclose(theta, expected, atol=2e-4)


@pytest.mark.parametrize("name", [*SLICED, *cases.NOT_CONVEX])
def test_derivatives_are_finite_at_zeros_and_nothing_alarms(name):
    make = SLICED.get(name) or cases.NOT_CONVEX[name]
    f = make(None)
    weight = jnp.arange(1.0, 1 + cases.SIZE)

    def loss(x, s):
        return jnp.sum(weight * f(x, s))

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    zeros, ones = jnp.zeros(cases.SIZE), jnp.ones(cases.SIZE)
    leader = jnp.asarray(cases.NORMAL, jnp.float32)
    with jax.debug_infs(True), jax.debug_nans(True):
        for x, s in itertools.product((zeros, leader), (zeros, ones)):
            f(x, s)
            for g in gradient(x, s):
                assert np.all(np.abs(g) < 1e6)
