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

from optax_ftml import prox
from tests.prox import cases

NAMES = [*cases.CONVEX, *cases.NOT_CONVEX]
DIRECT = [name for name in NAMES if name != "in_metric"]
SLICED = [*cases.SLICED, "l2_sphere", "top_k"]
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


# In these draws nothing of theirs is exact.
SMOOTH = "l2_ball", "ellipsoid", "hyperplane", "halfspace", "affine_set"
SMOOTH += ("group_lasso",)


@by_name([n for n in DIRECT if n in cases.CONVEX])
def test_zeros_bounds_and_equalities_are_exact(x64, name):
    theta = rows(name)(*cases.draw_rows(np.random.default_rng(1)))
    bounds = [theta - cases.LOWER, cases.UPPER - theta]
    kinks = np.concatenate([theta, np.diff(theta), *bounds], axis=1)
    assert np.any(kinks == 0) == (name not in SMOOTH)
    assert np.all((kinks == 0) | (np.abs(kinks) > 1e-12))


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


@by_name(cases.typical(NAMES))
def test_narrow_leaders_are_solved_in_float32(name):
    draws = cases.draw_rows(np.random.default_rng(4), decades=2)
    narrow = [jnp.bfloat16(a) for a in draws]
    theta = rows(name)(*narrow)
    wide = rows(name)(*map(jnp.float32, narrow))
    np.testing.assert_array_equal(theta, wide.astype(jnp.bfloat16))
    assert theta.dtype == jnp.bfloat16


@by_name(NAMES)
def test_a_nan_stays_in_its_slice(name):
    arguments = map(np.float32, cases.draw_rows(np.random.default_rng(5)))
    leader, step_size = arguments
    clean = rows(name)(leader, step_size)
    leader[1, 2] = np.nan
    after = rows(name)(leader, step_size)
    np.testing.assert_array_equal(after[::2], clean[::2])
    assert np.any(np.isnan(after[1]))


def extremes():
    """Returns leaders and step sizes, 0 and from 1e-18 to 1e18, in pairs."""
    ones, some = np.ones(cases.SIZE), np.array([0, 1, 0, 1, 1, 0])
    leaders = [0 * ones, ones, cases.NORMAL, 1e-18 * ones, 1e18 * some]
    leaders += [cases.NORMAL * 10.0 ** np.array([18, -18, 0, 12, -12, 5])]
    never = cases.NEVER
    steps = [0 * ones, some, 1e-18 * ones, never * ones, never * some]
    steps += [10.0 ** np.array([18, -18, 0, -16, 16, 5])]
    pairs = np.float32([*itertools.product(leaders, steps)])
    return np.resize(pairs, (cases.ROWS, *pairs.shape[1:])).swapaxes(0, 1)


@pytest.mark.usefixtures("strict")
@by_name(NAMES)
def test_no_leader_and_no_step_size_makes_a_nan(name):
    leader, s = extremes()
    theta = rows(name)(leader, s)
    assert np.all(np.isfinite(theta))
    if name in PENALTIES:
        # What must not move, and slices that have had no gradient yet.
        stays = (s == 0) | np.all(s == cases.NEVER, axis=-1, keepdims=True)
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


NORMALS = np.array([cases.NORMAL, [1, 0, 1, 0, 1, 0], [1] * 6])[:, None]
# Three parts each.
LIMITS = {
    "simplex": prox.simplex(at(0, 1e-18, 1e18), axis=-1),
    "l1_ball": prox.l1_ball(at(0, 1e18, INF), axis=-1),
    "l2_ball": prox.l2_ball(at(0, 1e-18, INF), axis=-1),
    "l2_sphere": prox.l2_sphere(at(0, 1, 1e18), axis=-1),
    "hyperplane": prox.hyperplane(at(1e9, 1, 1e-9), at(1, 0, 1e-9), axis=-1),
    "box_section": prox.box_section(
        *(at(-INF, 0, 0), at(INF, INF, 1), NORMALS, at(0.4, 1, 6)),
        axis=-1,
    ),
    "group_lasso": prox.group_lasso(at(0, 1e-18, 1e18), axis=-1),
    "total_variation": prox.total_variation(at(0, 1e-18, 1e18)),
}


@by_name(LIMITS)
def test_no_argument_at_an_end_of_its_range_makes_a_nan(name):
    leader, s = extremes()
    if name == "l2_ball":  # A leader of 1e18 would be 36 decades away.
        leader, s = leader[:24], s[:24]
    theta = jax.jit(LIMITS[name])(*(np.stack([a] * 3) for a in (leader, s)))
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


def columns(a):
    return a.reshape(-1, cases.SIZE).T


def tree(a):
    return {"a": a[..., :2], "b": {"c": a[..., 2:]}}


def network(a):
    """A row is a hidden unit: what comes in, its bias, what goes out."""
    a = a.reshape(-1, cases.SIZE)
    hidden = {"kernel": a[:, :4].T, "bias": a[:, 4]}
    return {"hidden": hidden, "out": {"kernel": a[:, 5:]}}


AXES = {"hidden/kernel": 0, "hidden/bias": (), "out/kernel": 1}
LAYOUTS = {  # The axis of the slices, and where the numbers are.
    "columns": (0, columns),
    "one vector under vmap": (None, np.asarray),
    "a tree under vmap": (None, tree),
    "across leaves": (AXES, network),
}


def layouts(name):
    if name in SLICED:
        return ["columns", "a tree under vmap", "across leaves"]
    has_axis = name in ("monotone", "decreasing", "total_variation", "n_of_m")
    return ["one vector under vmap", *["columns"] * has_axis]


@by_name(cases.typical(DIRECT))
def test_slices_are_the_same_wherever_they_are(x64, name):
    x, s = cases.draw_rows(np.random.default_rng(7), 2)
    expected = np.asarray(rows(name)(x, s))
    for layout in layouts(name):
        axis, put = LAYOUTS[layout]
        f = make(name, axis, of=put)
        theta = cases.jit(f if axis is not None else jax.vmap(f))(
            put(x), put(s)
        )
        chex.assert_trees_all_close(theta, put(expected), rtol=1e-9, atol=1e-9)
