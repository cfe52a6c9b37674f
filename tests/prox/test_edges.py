"""Step sizes of 0, NaN, empty slices, huge numbers, impossible arguments."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases

ALL = {name: case.make for name, case in cases.CONVEX.items()}
ALL |= cases.NOT_CONVEX
NAN, INF = float("nan"), float("inf")
# Where arguments are at an end of what they may be.
LIMITS = {
    "simplex of 0": prox.simplex(0.0),
    "huge simplex": prox.simplex(1e18),
    "tiny simplex": prox.simplex(1e-18),
    "l1_ball of 0": prox.l1_ball(0.0),
    "l1_ball of all": prox.l1_ball(INF),
    "huge l1_ball": prox.l1_ball(1e18),
    "l2_ball of 0": prox.l2_ball(0.0),
    "l2_ball of all": prox.l2_ball(INF),
    "tiny l2_ball": prox.l2_ball(1e-18),
    "l2_sphere of 0": prox.l2_sphere(0.0),
    "huge l2_sphere": prox.l2_sphere(1e18),
    "hyperplane of huge normal": prox.hyperplane(1e9, 1.0),
    "hyperplane of tiny normal": prox.hyperplane(1e-9, 1e-9),
    "section without bounds": prox.box_section(-INF, INF, cases.NORMAL, 0.4),
    "section without an upper bound": prox.box_section(
        0.0, INF, np.array([1.0, 0, 1, 0, 1, 0]), 1.0
    ),
    "section of one point": prox.box_section(0.0, 1.0, 1.0, 6.0),
    "box of one point": prox.box(0.5, 0.5),
    "group_lasso of 0": prox.group_lasso(0.0, axis=None),
    "huge group_lasso": prox.group_lasso(1e18, axis=None),
    "total_variation of 0": prox.total_variation(0.0),
    "huge total_variation": prox.total_variation(1e18),
    "top_k of 0": prox.top_k(0),
    "top_k of all": prox.top_k(10**20),
}
ENDS = {name: make(None) for name, make in ALL.items()} | LIMITS


@pytest.mark.parametrize("name", ENDS)
def test_no_leader_and_no_step_size_makes_a_nan(name):
    f = jax.jit(ENDS[name])
    ones = np.ones(cases.SIZE, np.float32)
    some = np.array([0, 1, 0, 1, 1, 0], np.float32)
    spread = 10.0 ** np.array([18, -18, 0, 12, -12, 5])
    leaders = [0 * ones, ones, cases.NORMAL, 1e18 * some, 1e-18 * ones]
    leaders += [cases.NORMAL * spread]
    steps = [0 * ones, some, 1e-18 * ones, 2.0**63 * ones, 2.0**63 * some]
    steps += [10.0 ** np.array([18, -18, 0, -16, 16, 5])]
    for leader, s in itertools.product(leaders, steps):
        assert np.all(np.isfinite(f(np.float32(leader), np.float32(s))))
    feasible = cases.CONVEX[name].feasible if name in cases.CONVEX else None
    if feasible is not None:
        point = feasible.astype(np.float32)
        for s in (0 * ones, some):
            np.testing.assert_array_equal(f(point, s), point)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ALL)
def test_narrow_leaders_are_solved_in_float32(name, dtype):
    f = jax.jit(ALL[name](None))
    leader = jnp.asarray(cases.NORMAL, dtype)
    step_size = jnp.asarray([0, 1, 0.1, 0.01, 1e-3, 1e-4], dtype)
    theta = f(leader, step_size)
    assert theta.dtype == dtype
    wide = f(leader.astype(jnp.float32), step_size.astype(jnp.float32))
    np.testing.assert_array_equal(theta, wide.astype(dtype))


@pytest.mark.parametrize("name", [n for n in ALL if n != "in_metric"])
def test_a_nan_stays_in_its_slice(name):
    f = jax.jit(ALL[name](-1))
    leader = np.random.default_rng(0).normal(size=(3, cases.SIZE))
    leader = leader.astype(np.float32)
    clean = f(leader, np.ones_like(leader))
    leader[1, 2] = NAN
    after = f(leader, np.ones_like(leader))
    np.testing.assert_array_equal(after[::2], clean[::2])
    assert np.any(np.isnan(after[1]))


@pytest.mark.parametrize(
    "f",
    [
        prox.simplex(axis=-1),
        prox.l1_ball(axis=-1),
        prox.l2_ball(axis=-1),
        prox.l2_sphere(axis=-1),
        prox.hyperplane(1.0, 1.0, axis=-1),
        prox.box_section(0.0, 1.0, 1.0, 1.0, axis=-1),
    ],
)
def test_slices_of_one_number_and_of_none(f):
    one = f(jnp.full((3, 1), 7.0), jnp.ones((3, 1)))
    np.testing.assert_allclose(one, np.ones((3, 1)), rtol=1e-6)
    for shape in ((3, 0), (0, 3)):
        assert f(jnp.ones(shape), jnp.ones(shape)).shape == shape


def test_in_metric_scales_huge_leaders_exactly():
    f = jax.jit(prox.in_metric(lambda x, _: x - jnp.mean(x)))
    leader = np.float32(cases.NORMAL)
    step_size = np.geomspace(1e-3, 1, cases.SIZE, dtype=np.float32)
    np.testing.assert_array_equal(
        f(leader * np.float32(2**120), step_size),
        f(leader * np.float32(2**40), step_size) * np.float32(2**80),
    )


def test_a_group_shrinks_beside_what_does_not_move():
    f = jax.jit(prox.group_lasso(0.5, axis=None))
    theta = f(jnp.array([0.4, 0.4, 0.4, 0]), jnp.array([1.0, 1.0, 1.0, 0]))
    each = (0.4 * 3**0.5 - 0.5) / 3**0.5
    np.testing.assert_allclose(theta, [each, each, each, 0], rtol=1e-6)


def test_ties_share():
    ones = jnp.ones(8)
    np.testing.assert_allclose(prox.simplex()(ones, ones), ones / 8)
    np.testing.assert_allclose(prox.l1_ball()(-ones, ones), -ones / 8)


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda: prox.simplex(-1.0), ValueError, "total"),
        (lambda: prox.simplex(NAN), ValueError, "total"),
        (lambda: prox.simplex(None), TypeError, "total"),
        (lambda: prox.simplex(axis="0"), TypeError, "axis"),
        (lambda: prox.l1_ball(-1.0), ValueError, "radius"),
        (lambda: prox.l2_ball(NAN), ValueError, "radius"),
        (lambda: prox.l2_sphere(-1.0), ValueError, "radius"),
        (lambda: prox.hyperplane(np.zeros(3), 1.0), ValueError, "normal"),
        (lambda: prox.halfspace(1.0, NAN), ValueError, "offset"),
        (lambda: prox.affine_set(np.zeros((1, 3)), 1.0), ValueError, "matrix"),
        (lambda: prox.affine_set(np.ones(3), 1.0), ValueError, "matrix"),
        (
            lambda: prox.affine_set(np.ones((2, 3)), np.array([0.0, 1.0])),
            ValueError,
            "solution",
        ),
        (lambda: prox.box_section(1.0, 0.0, 1.0, 0.0), ValueError, "lower"),
        (lambda: prox.monotone(axis=None), TypeError, "axis"),
        (lambda: prox.monotone(decreasing=1), TypeError, "decreasing"),
        (lambda: prox.group_lasso(-1.0, axis=0), ValueError, "strength"),
        (lambda: prox.group_lasso(1.0, axis=0, l1=-1), ValueError, "l1"),
        (lambda: prox.total_variation(-1.0), ValueError, "strength"),
        (lambda: prox.l1(INF), ValueError, "strength must be finite"),
        (lambda: prox.elastic_net(1.0, INF), ValueError, "l2 must be finite"),
        (lambda: prox.l1(1.0, non_negative=2), TypeError, "non_negative"),
        (lambda: prox.simplex(at_most=1), TypeError, "at_most"),
        (
            lambda: prox.group_lasso(1.0, axis=0, non_negative=0),
            TypeError,
            "non_negative",
        ),
        (lambda: prox.top_k(-1), ValueError, "k must"),
        (lambda: prox.top_k(1.5), TypeError, "k must"),
        (lambda: prox.levels([]), TypeError, "values"),
        (lambda: prox.levels(np.zeros(0)), ValueError, "values"),
        (lambda: prox.simplex(np.array(["1"])), TypeError, "total"),
        (lambda: prox.simplex(axis=(0, 0)), ValueError, r"axis.*\(0, 0\)"),
        (lambda: prox.levels([0.0, NAN]), ValueError, "values"),
        (lambda: prox.in_metric(3), TypeError, "f must"),
        (lambda: prox.in_metric(lambda x: x), TypeError, "f must.*step_size"),
        (lambda: prox.in_metric(lambda x, scale=1: x), TypeError, "defaults"),
        (lambda: prox.in_metric(min, tolerance=0.0), ValueError, "tolerance"),
        (lambda: prox.in_metric(min, tolerance="1"), TypeError, "tolerance"),
        (lambda: prox.in_metric(min, max_iterations=0), ValueError, "max_it"),
        (lambda: prox.in_metric(min, max_iterations=1.5), TypeError, "max_it"),
        (lambda: prox.by_path({"a": 1}), TypeError, "proxes"),
        (lambda: prox.by_path({1: prox.l1(1.0)}), TypeError, "proxes"),
    ],
)
def test_impossible_arguments_are_named(make, error, word):
    with pytest.raises(error, match=word):
        make()


@pytest.mark.parametrize(
    ("f", "word"),
    [
        (prox.box({"b": 0.0}, 1.0), "lower.*missing a.*unexpected b"),
        (prox.l1(np.ones(3)), "strength.*'a'.*(3,)"),
        (prox.simplex(np.ones(3), axis=0), "total.*'a'"),
        (prox.simplex(axis=2), "axis.*'a'"),
        (prox.box_section(0.0, 1.0, 1.0, 9.0), "empty"),
        (prox.box_section(0.0, 1.0, 1.0, -1.0, at_most=True), "empty"),
        (prox.hyperplane(np.array([0.0, 1.0]), 1.0, axis=0), "normal"),
        (prox.affine_set(np.ones((1, 3)), 1.0), "matrix"),
        (prox.by_path({"c*": prox.l1(1.0)}), r"'c\*'.*a"),
    ],
)
def test_what_does_not_fit_the_parameters_is_named(f, word):
    tree = {"a": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=word):
        jax.eval_shape(f, tree, tree)


@pytest.mark.parametrize("name", ALL)
def test_integers_are_refused(name):
    ones = jnp.ones(cases.SIZE, jnp.int32)
    with pytest.raises(TypeError, match=re.compile("floating")):
        ALL[name](None)(ones, jnp.ones(cases.SIZE))


def test_complex_leaves_where_they_have_a_meaning():
    leader = jnp.array([3 + 4j, 0.0])
    ones = jnp.ones(2)
    for f in (
        prox.l1_ball(),
        prox.l2_ball(),
        prox.l2_sphere(),
        prox.group_lasso(4.0, axis=None),
    ):
        np.testing.assert_allclose(
            f(leader, ones), [0.6 + 0.8j, 0], rtol=1e-5, atol=1e-7
        )
    with pytest.raises(TypeError, match="simplex"):
        prox.simplex()(leader, ones)


def test_by_path_prefers_a_path_and_leaves_the_rest_free():
    tree = {"a": {"w": -jnp.ones(2), "b": -jnp.ones(2)}, "c": -jnp.ones(2)}
    f = prox.by_path({"a/*": prox.non_negative(), "a/b": prox.box(-0.5, 0.5)})
    after = f(tree, tree)
    np.testing.assert_array_equal(after["a"]["w"], np.zeros(2))
    np.testing.assert_array_equal(after["a"]["b"], np.full(2, -0.5))
    np.testing.assert_array_equal(after["c"], -np.ones(2))
