"""What holds for all proxes, on rows of six numbers.

The convex ones are compared with an independent solver.
"""

import functools
import itertools

import chex
import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import _numerics
from optax_ftml import prox
from tests.prox import cases

NAMES = [*cases.CONVEX, *cases.NOT_CONVEX]
DIRECT = [name for name in NAMES if name != "in_metric"]
SLICED = [name for name, case in cases.CONVEX.items() if case.is_sliced]
SLICED += ["l2_sphere", "top_k"]
# Tests of the same prox follow each other, so that one worker compiles it.
by_name = functools.partial(pytest.mark.parametrize, "name", scope="module")
WEIGHT = np.arange(1.0, 1 + cases.SIZE)


def make(name, axis, **kwargs):
    if name in cases.NOT_CONVEX:
        return cases.NOT_CONVEX[name](axis)
    return cases.CONVEX[name].make(axis, **kwargs)


@functools.cache
def rows(name):
    """The prox of each row, jitted once for all tests."""
    if name == "in_metric":
        return jax.jit(jax.vmap(make(name, None)))
    return jax.jit(make(name, -1))


@functools.cache
def gradients(name):
    def loss(leader, step_size):
        return jnp.sum(WEIGHT * rows(name)(leader, step_size))

    return cases.jit(jax.grad(loss, (0, 1)))


@by_name(cases.CONVEX)
def test_no_solver_finds_less(x64, name):
    leaders, steps = cases.draw_rows(np.random.default_rng(0))
    thetas = np.asarray(rows(name)(leaders, steps))
    for leader, s, found in zip(leaders[:5], steps, thetas, strict=False):
        theta = cp.Variable(cases.SIZE)
        penalty, constraints = cases.CONVEX[name].problem(theta)
        # In units in which no term is tiny.
        unit = np.max(s)
        distance = cp.multiply(np.sqrt(unit / s), theta - leader)
        objective = unit * penalty + cp.sum_squares(distance) / 2
        least = cases.minimise(objective, constraints)
        theta.value = found
        assert objective.value - least <= 1e-7 * abs(least) + 1e-12
        assert cases.violation(constraints) <= 1e-9


def distances_to_bounds(theta):
    return np.stack([theta - cases.LOWER, cases.UPPER - theta])


# What is exactly 0 or well away from it.
EXACT = {
    **dict.fromkeys(
        ["box", "box_section", "box_section_at_most"], distances_to_bounds
    ),
    **dict.fromkeys(
        [
            *("non_negative", "non_negative_l1", "non_negative_group_lasso"),
            *("simplex", "simplex_at_most", "l1", "l1_ball"),
            *("elastic_net", "sparse_group_lasso"),
        ],
        lambda theta: theta,
    ),
    **dict.fromkeys(["monotone", "decreasing", "total_variation"], np.diff),
}
MAY_BE_NEGATIVE = "l1", "l1_ball", "elastic_net", "sparse_group_lasso"


@by_name(EXACT)
def test_zeros_bounds_and_equalities_are_exact(x64, name):
    theta = rows(name)(*cases.draw_rows(np.random.default_rng(1)))
    exact = EXACT[name](np.asarray(theta))
    assert np.any(exact == 0)
    assert np.all((exact == 0) | (np.abs(exact) > 1e-12))
    if name not in (*MAY_BE_NEGATIVE, "decreasing", "total_variation"):
        assert np.all(exact >= 0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@by_name(NAMES)
def test_what_is_feasible_comes_back_bit_for_bit(request, name, dtype):
    if dtype == "float64":
        request.getfixturevalue("x64")
    rng, f = np.random.default_rng(2), rows(name)
    leader, step_size = (a.astype(dtype) for a in cases.draw_rows(rng))
    _, other = (a.astype(dtype) for a in cases.draw_rows(rng, decades=6))
    other[0], other[1, ::2] = 0, 0
    case = cases.CONVEX.get(name)
    if case is None or case.feasible is not None:
        once = f(leader, step_size)
        np.testing.assert_array_equal(f(once, step_size), once)
    if case and case.feasible is not None:
        point = np.tile(case.feasible, (cases.ROWS, 1)).astype(dtype)
        np.testing.assert_array_equal(f(point, other), point)


@by_name([n for n in DIRECT if n in cases.CONVEX])
def test_float32_is_close_to_float64_over_six_decades(request, name):
    arguments = map(np.float32, cases.draw_rows(np.random.default_rng(3), 6))
    leader, step_size = arguments
    theta = rows(name)(leader, step_size)
    assert theta.dtype == jnp.float32
    request.getfixturevalue("x64")
    exact = rows(name)(np.float64(leader), np.float64(step_size))
    np.testing.assert_allclose(theta, exact, rtol=3e-5, atol=3e-5)


WIDTHS = [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]


@pytest.mark.parametrize("dtype", WIDTHS)
@by_name(cases.typical(NAMES))
def test_narrow_leaders_are_solved_in_float32(name, dtype):
    narrow = [
        jnp.asarray(a, dtype)
        for a in cases.draw_rows(np.random.default_rng(4), decades=2)
    ]
    theta = rows(name)(*narrow)
    assert theta.dtype == dtype
    wide = rows(name)(*(a.astype(jnp.float32) for a in narrow))
    np.testing.assert_array_equal(theta, wide.astype(dtype))


@by_name(NAMES)
def test_a_nan_stays_in_its_slice(name):
    arguments = map(np.float32, cases.draw_rows(np.random.default_rng(5)))
    leader, step_size = arguments
    clean = rows(name)(leader, step_size)
    leader[1, 2] = np.nan
    after = rows(name)(leader, step_size)
    np.testing.assert_array_equal(after[::2], clean[::2])
    assert np.any(np.isnan(after[1]))


NEVER = _numerics.bound(jnp.float32)  # The step size without a gradient.


def extremes():
    """Returns leaders and step sizes, 0 and from 1e-18 to 1e18, in pairs."""
    ones, some = np.ones(cases.SIZE), np.array([0, 1, 0, 1, 1, 0])
    leaders = [0 * ones, ones, cases.NORMAL, 1e-18 * ones, 1e18 * some]
    leaders += [cases.NORMAL * 10.0 ** np.array([18, -18, 0, 12, -12, 5])]
    steps = [0 * ones, some, 1e-18 * ones, NEVER * ones, NEVER * some]
    steps += [10.0 ** np.array([18, -18, 0, -16, 16, 5])]
    pairs = np.float32([*itertools.product(leaders, steps)])
    return np.resize(pairs, (cases.ROWS, *pairs.shape[1:])).swapaxes(0, 1)


@by_name(NAMES)
def test_no_leader_and_no_step_size_makes_a_nan(name):
    leader, s = extremes()
    theta = rows(name)(leader, s)
    assert np.all(np.isfinite(theta))
    if name in PENALTIES:
        # What must not move, and slices that have had no gradient yet.
        stays = (s == 0) | np.all(s == NEVER, axis=-1, keepdims=True)
        stays &= (leader >= 0) | (not name.startswith("non_negative"))
        np.testing.assert_array_equal(theta[stays], leader[stays])


PENALTIES = [
    name
    for name, case in cases.CONVEX.items()
    if case.feasible is None and name != "in_metric"
]
INF = float("inf")


def at(*values):
    """An argument with another value for each of the leaf's parts."""
    return np.array(values)[:, None, None]


LIMITS = {
    "simplex": (prox.simplex(at(0, 1e-18, 1e18), axis=-1), 3),
    "l1_ball": (prox.l1_ball(at(0, 1e18, INF), axis=-1), 3),
    "l2_ball": (prox.l2_ball(at(0, 1e-18, INF), axis=-1), 3),
    "l2_sphere": (prox.l2_sphere(at(0, 1e18), axis=-1), 2),
    "hyperplane": (prox.hyperplane(at(1e9, 1e-9), at(1, 1e-9), axis=-1), 2),
    "box_section": (
        prox.box_section(
            at(-INF, 0, 0),
            at(INF, INF, 1),
            np.array([cases.NORMAL, [1, 0, 1, 0, 1, 0], [1] * 6])[:, None],
            at(0.4, 1, 6),
            axis=-1,
        ),
        3,
    ),
    "group_lasso": (prox.group_lasso(at(0, 1e18), axis=-1), 2),
    "total_variation": (prox.total_variation(at(0, 1e18)), 2),
}


@by_name(LIMITS)
def test_no_argument_at_an_end_of_its_range_makes_a_nan(name):
    leader, s = extremes()
    if name == "l2_ball":  # A leader of 1e18 would be 36 decades away.
        leader, s = leader[:24], s[:24]
    f, parts = LIMITS[name]
    theta = jax.jit(f)(*(np.stack([a] * parts) for a in (leader, s)))
    assert np.all(np.isfinite(theta))


@by_name(cases.typical(cases.CONVEX))
def test_gradients_are_those_of_finite_differences(x64, name):
    x, s = cases.draw(np.random.default_rng(6), decades=1)
    point, h = np.concatenate([x, s]), 1e-6
    # A row for each number that moves, up and then down.
    move = h * np.eye(2 * cases.SIZE)
    moved = np.resize(
        np.concatenate([1 + move, 1 - move]) * point, (cases.ROWS, len(point))
    )
    up, down, *_ = np.split(rows(name)(*np.split(moved, 2, axis=1)) @ WEIGHT, 5)
    computed = gradients(name)(*(np.tile(a, (cases.ROWS, 1)) for a in (x, s)))
    np.testing.assert_allclose(
        np.concatenate([g[0] for g in computed]),
        (up - down) / (2 * h * point),
        rtol=1e-4,
        atol=1e-6,
    )


@by_name(SLICED)
def test_derivatives_are_finite_at_zeros(x64, name):
    x = np.zeros((cases.ROWS, cases.SIZE))
    s = np.zeros_like(x)
    x[1::2] = cases.NORMAL
    s[2:] = 1
    for g in gradients(name)(x, s):
        assert np.all(np.abs(g) < 1e6)


def assert_same(theta, expected):
    np.testing.assert_allclose(theta, expected, rtol=1e-9, atol=1e-9)


@by_name(cases.typical(DIRECT))
def test_other_axes_and_vmap_are_the_same(x64, name):
    x, s = cases.draw_rows(np.random.default_rng(7), 2)
    expected = rows(name)(x, s)
    if name not in SLICED:
        assert_same(cases.jit(jax.vmap(make(name, None)))(x, s), expected)
        return
    f = make(name, 0, of=lambda a: a[:, None])
    columns = (a.reshape(2, -1, cases.SIZE).swapaxes(1, 2) for a in (x, s))
    theta = cases.jit(jax.vmap(f))(*columns)
    assert_same(theta.swapaxes(1, 2).reshape(expected.shape), expected)


@by_name(cases.typical(SLICED))
def test_a_tree_is_one_vector(x64, name):
    def tree(a):
        return {"a": a[:2], "b": {"c": a[2:]}}

    x, s = cases.draw_rows(np.random.default_rng(8), 2)
    theta = cases.jit(make(name, None, of=tree))(tree(x[0]), tree(s[0]))
    chex.assert_trees_all_close(
        theta, tree(rows(name)(x, s)[0]), rtol=1e-9, atol=1e-9
    )


AXES = {"hidden/kernel": 0, "hidden/bias": (), "out/kernel": 1}


@by_name(cases.typical(SLICED))
def test_slices_across_leaves_are_those_of_one_array(x64, name):
    """A row is a hidden unit: what comes in, its bias, what goes out."""

    def tree(a):
        hidden = {"kernel": a[..., :4].T, "bias": a[..., 4].T}
        return {"hidden": hidden, "out": {"kernel": a[..., 5:], "bias": 1.0}}

    def argument(a):
        hidden = {"kernel": a[:4, None], "bias": a[4]}
        return {"hidden": hidden, "out": {"kernel": a[5:]}}

    x, s = cases.draw_rows(np.random.default_rng(9), 2)
    leader, steps = tree(x), tree(s)
    theta = cases.jit(make(name, AXES, of=argument))(leader, steps)
    expected = tree(rows(name)(x, s))
    chex.assert_trees_all_close(theta, expected, rtol=1e-9, atol=1e-9)
