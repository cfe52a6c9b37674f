"""The sets with one equation: rounding, ties, long slices, what moves first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import _numerics
from optax_ftml import prox
from tests.prox import cases


@pytest.mark.parametrize("excess", [1e-3, 1e-6, 1e-9, 1e-12])
def test_a_ball_takes_back_no_more_and_no_less_than_the_excess(x64, excess):
    _, step_size = cases.draw(np.random.default_rng(8), decades=2)
    edge = cases.NORMAL * 1.3 / np.linalg.norm(cases.NORMAL)
    leader = edge * (1 + excess * step_size / np.max(step_size))
    theta = prox.l2_ball(1.3)(leader, step_size)
    np.testing.assert_allclose(theta, edge, rtol=1e-14)


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l2_ball"])
def test_the_steps_of_the_search_are_enough_for_long_slices(name):
    f = getattr(prox, name)(np.array([[1.3], [30.0]]), axis=-1)
    shape = 2, 100_000
    leader, s = cases.draw(np.random.default_rng(0), decades=8, shape=shape)
    theta = np.float64(jax.jit(f)(np.float32(leader), np.float32(s)))
    order = 2 if name == "l2_ball" else 1
    norms = np.linalg.norm(theta, order, axis=-1)
    np.testing.assert_allclose(norms, [1.3, 30], rtol=3e-5)


def test_a_section_sums_to_its_offset_beside_a_huge_leader_and_step():
    rng = np.random.default_rng(0)
    leader = np.float32(rng.normal(size=(100, 6)))
    step_size = np.float32(10 ** rng.uniform(-3, 3, size=(100, 6)))
    leader[:, 5], step_size[:, 5] = -4.6e8, 1e9
    f = jax.jit(prox.box_section(0.0, 1.0, 1.0, 1.0, axis=1))
    theta = np.float64(f(leader, step_size))
    np.testing.assert_allclose(np.sum(theta, axis=1), 1, rtol=1e-5)


def test_ties_share():
    ones = jnp.ones(8)
    np.testing.assert_allclose(prox.simplex()(ones, ones), ones / 8)
    np.testing.assert_allclose(prox.l1_ball()(-ones, ones), -ones / 8)


@pytest.mark.parametrize(
    "f",
    [
        prox.simplex(axis=-1),
        prox.l2_ball(axis=-1),
        prox.l2_sphere(axis=-1),
        prox.box_section(0.0, 1.0, 1.0, 1.0, axis=-1),
    ],
)
def test_slices_of_one_number_and_of_none(f):
    one = f(jnp.full((3, 1), 7.0), jnp.ones((3, 1)))
    np.testing.assert_allclose(one, np.ones((3, 1)), rtol=1e-6)
    for shape in ((3, 0), (0, 3)):
        assert f(jnp.ones(shape), jnp.ones(shape)).shape == shape


def test_complex_leaves_where_they_have_a_meaning():
    leader, ones = jnp.array([3 + 4j, 0.0]), jnp.ones(2)
    group_lasso = prox.group_lasso(4.0, axis=None)
    for f in (prox.l1_ball(), prox.l2_ball(), prox.l2_sphere(), group_lasso):
        np.testing.assert_allclose(
            f(leader, ones), [0.6 + 0.8j, 0], rtol=1e-5, atol=1e-7
        )
    with pytest.raises(TypeError, match="simplex"):
        prox.simplex()(leader, ones)


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
    ],
)
def test_what_has_no_gradient_moves_first(f, expected):
    has_gradient = CURVATURE > 0
    rate = np.where(has_gradient, 0.3 / np.maximum(CURVATURE, 1), 0)
    never = _numerics.bound(jnp.float32)
    steps = np.float32(np.where(has_gradient, rate, never))

    def step(_, theta):
        return f(theta - rate * CURVATURE * (theta - 0.5), steps)

    theta = jax.lax.fori_loop(0, 500, step, jnp.full(4, 0.25))
    np.testing.assert_allclose(theta, expected, atol=2e-4)


@pytest.mark.parametrize(
    "f",
    [
        prox.hyperplane(1.0, 1.0),
        prox.simplex(),
        prox.box_section(0.0, 1.0, 1.0, 1.0),
        prox.affine_set(np.ones((1, 3)), 1.0),
    ],
    ids=["hyperplane", "simplex", "box_section", "affine_set"],
)
def test_an_equation_has_its_derivative_at_what_is_feasible(f):
    leader, s = jnp.array([0.2, 0.3, 0.5]), jnp.array([1.0, 0.5, 2.0])
    theta, slopes = f(leader, s), jax.jacobian(f)(leader, s)
    np.testing.assert_array_equal(theta, leader)
    expected = np.eye(3) - np.outer(s, np.ones(3)) / np.sum(s)
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["l1_ball", "l2_ball"])
def test_an_infinite_radius_leaves_leader_and_derivative(name):
    f = getattr(prox, name)(jnp.inf)
    leader, s = jnp.array([3.0, -4.0]), jnp.array([1.0, 0.5])
    np.testing.assert_array_equal(f(leader, s), leader)
    of_leader, of_s = jax.jacobian(f, (0, 1))(leader, s)
    np.testing.assert_array_equal(of_leader, np.eye(2))
    np.testing.assert_array_equal(of_s, np.zeros((2, 2)))


def test_complex_numbers_have_both_parts_of_their_derivative(x64):
    leader, s = np.array([0.6 + 0.8j, -0.9j]), np.ones(2)
    turn = 1e-6 * 1j * leader

    for f in (prox.l1(0.3), prox.l1_ball(1.0), prox.l2_ball(1.0)):
        _, slope = jax.jvp(lambda x, f=f: f(x, s), (leader,), (turn,))
        difference = (f(leader + turn, s) - f(leader - turn, s)) / 2
        np.testing.assert_allclose(slope, difference, atol=1e-12)


def test_slices_of_several_leaves_have_one_number():
    leaves = {"a": jnp.ones(2), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match="total must be a single array"):
        prox.simplex({"a": 1.0, "b": 2.0})(leaves, leaves)
