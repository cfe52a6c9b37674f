"""What has one unknown: rounding, equals, long slices, complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases

# These hold the sum of 1, for positive leaders the ball as well.
SUMS = {
    "simplex": prox.simplex(axis=-1),
    "l1_ball": prox.l1_ball(axis=-1),
    "box_section": prox.box_section(0.0, 1.0, 1.0, 1.0, axis=-1),
}
NORMS = {"l2_ball": prox.l2_ball(axis=-1), "l2_sphere": prox.l2_sphere(axis=-1)}


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
    theta = np.float64(jax.jit(SUMS["box_section"])(leader, step_size))
    np.testing.assert_allclose(np.sum(theta, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", SUMS | NORMS)
def test_equals_share_alike_and_slices_may_be_empty(name):
    f = (SUMS | NORMS)[name]
    for size in (1, 8):
        theta = f(jnp.full((3, size), 7.0), 1.0)
        share = 1 / size if name in SUMS else size**-0.5
        np.testing.assert_allclose(theta, np.full((3, size), share), rtol=1e-6)
    for shape in ((3, 0), (0, 3)):
        assert f(jnp.ones(shape), 1.0).shape == shape


def test_norms_have_no_unit():
    """Leaders, radii and strengths in another unit give the same in it."""
    leader, s = map(np.float32, cases.draw_rows(np.random.default_rng(0)))
    strengths = np.linalg.norm(leader / s, axis=-1, keepdims=True)
    strengths *= np.linspace(0, 1.2, cases.ROWS)[:, None]
    scales = np.float32([1, 1e-17, 1e-9, 1e9, 1e17])[:, None, None]
    for f, number in (
        (prox.l2_ball, 1.3),
        (prox.l2_sphere, 1.3),
        (prox.group_lasso, strengths),
    ):
        theta = f(scales * number, axis=-1)(scales * leader, s[None])
        theta /= scales
        expected = np.broadcast_to(theta[0], theta.shape)
        np.testing.assert_allclose(theta, expected, rtol=1e-4, atol=1e-5)


def test_a_leader_with_the_right_sum_may_be_outside():
    leader = jnp.array([1.5, 0.0, -0.5])
    for f in (SUMS["simplex"], SUMS["box_section"]):
        np.testing.assert_allclose(f(leader, 1.0), [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    "f",
    [
        *(prox.l1(4.0), prox.elastic_net(3.0, 1.0)),
        *(prox.l1_ball(), prox.l2_ball(), prox.l2_sphere()),
        prox.group_lasso(4.0, axis=None),
    ],
)
def test_a_complex_leader_that_turns_turns_the_solution(x64, f):
    leader = jnp.array([3 + 4j, 0])
    theta, slope = jax.jvp(lambda x: f(x, 1.0), (leader,), (1j * leader,))
    np.testing.assert_allclose(theta, [0.6 + 0.8j, 0], atol=1e-9)
    np.testing.assert_allclose(slope, 1j * theta, atol=1e-9)


@pytest.mark.parametrize(
    "f",
    [
        *(prox.hyperplane(1.0, 1.0), SUMS["simplex"], SUMS["box_section"]),
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


@pytest.mark.parametrize("name", ["simplex", "l2_ball"])
def test_nothing_alarms_outside_of_jit(name):
    with jax.debug_infs(True), jax.debug_nans(True):
        for x, s in ((0.0, 0.0), (0.0, 1.0), (9.0, 0.0), (9.0, 1.0)):
            (SUMS | NORMS)[name](jnp.full(4, x), jnp.full(4, s))
