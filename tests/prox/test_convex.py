"""The convex sets and penalties against an independent solver."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.prox import cases

NAMES = list(cases.CONVEX)
DIRECT = [name for name in NAMES if name != "in_metric"]
SLICED = [
    name
    for name, case in cases.CONVEX.items()
    if case.takes_axis and not case.is_separable
]


@functools.cache
def jitted(name, axis=None):
    return jax.jit(cases.CONVEX[name].make(axis))


@pytest.mark.parametrize("name", NAMES)
def test_no_solver_finds_less(x64, name):
    case = cases.CONVEX[name]
    rng = np.random.default_rng(0)
    for _ in range(5):
        leader, step_size = cases.draw(rng)
        theta = jitted(name)(leader, step_size)
        least, evaluate = cases.solve(case, leader, step_size)
        found, violation = evaluate(theta)
        assert found - least <= 1e-7 * abs(least) + 1e-12
        assert violation <= 1e-9


def test_zeros_bounds_and_equalities_are_exact(x64):
    rng = np.random.default_rng(1)
    for _ in range(20):
        arguments = cases.draw(rng)
        for name in (
            *("simplex", "non_negative_l1", "non_negative"),
            *("simplex_at_most", "non_negative_group_lasso"),
        ):
            assert np.min(jitted(name)(*arguments)) == 0
        for name in ("l1", "l1_ball", "sparse_group_lasso"):
            theta = jitted(name)(*arguments)
            assert np.all((theta == 0) | (np.abs(theta) > 1e-12))
        for name in ("box", "box_section", "box_section_at_most"):
            theta = jitted(name)(*arguments)
            assert np.all((theta >= cases.LOWER) & (theta <= cases.UPPER))
            at_bound = (theta == cases.LOWER) | (theta == cases.UPPER)
            assert np.sum(at_bound) >= 1
        for name in ("total_variation", "monotone", "decreasing"):
            jumps = np.diff(jitted(name)(*arguments))
            assert np.all((jumps == 0) | (np.abs(jumps) > 1e-12))


@pytest.mark.parametrize(
    "name", [n for n in NAMES if cases.CONVEX[n].feasible is not None]
)
def test_what_is_feasible_comes_back_bit_for_bit(x64, name):
    rng = np.random.default_rng(2)
    for dtype in (np.float64, np.float32):
        point = cases.CONVEX[name].feasible.astype(dtype)
        for _ in range(3):
            _, step_size = cases.draw(rng, decades=6)
            after = jitted(name)(point, step_size.astype(dtype))
            np.testing.assert_array_equal(after, point)
        # And so does what it has returned itself.
        leader, step_size = (a.astype(dtype) for a in cases.draw(rng))
        once = jitted(name)(leader, step_size)
        np.testing.assert_array_equal(jitted(name)(once, step_size), once)


@pytest.mark.parametrize("excess", [1e-3, 1e-6, 1e-9, 1e-12])
def test_a_ball_takes_back_no_more_and_no_less_than_the_excess(x64, excess):
    _, step_size = cases.draw(np.random.default_rng(8), decades=2)
    edge = cases.NORMAL * 1.3 / np.linalg.norm(cases.NORMAL)
    leader = edge * (1 + excess * step_size / np.max(step_size))
    theta = jitted("l2_ball")(leader, step_size)
    np.testing.assert_allclose(theta, edge, rtol=1e-14)


@pytest.mark.parametrize("name", DIRECT)
def test_float32_is_close_to_float64_over_six_decades(x64, name):
    rng = np.random.default_rng(3)
    for _ in range(50):
        arguments = [a.astype(np.float32) for a in cases.draw(rng, decades=6)]
        theta = jitted(name)(*arguments)
        assert theta.dtype == jnp.float32
        exact = jitted(name)(*(a.astype(np.float64) for a in arguments))
        np.testing.assert_allclose(theta, exact, rtol=3e-5, atol=3e-5)


EUCLIDEAN = [
    *("simplex", "l1_ball", "l2_ball", "hyperplane", "halfspace"),
    *("group_lasso", "total_variation"),
]


def from_euclidean(name, **settings):
    """The prox with one step size for all, made one in the metric."""
    f = cases.CONVEX[name].make(None)
    return cases.prox.in_metric(
        lambda x, step_size: f(x, jnp.full(x.shape, step_size)), **settings
    )


@pytest.mark.parametrize("name", EUCLIDEAN)
def test_in_metric_in_float32_is_close_over_six_decades(x64, name):
    rng = np.random.default_rng(3)
    leaders, step_sizes = zip(
        *(cases.draw(rng, decades=6) for _ in range(50)), strict=True
    )
    arguments = [np.float32(leaders), np.float32(step_sizes)]
    theta = jax.jit(jax.vmap(from_euclidean(name)))(*arguments)
    exact = jax.jit(jax.vmap(cases.CONVEX[name].make(None)))(
        *(a.astype(np.float64) for a in arguments)
    )
    errors = np.max(np.abs(theta - exact) / (1 + np.abs(exact)), axis=-1)
    # Of a thousand draws rounding leaves one or two further off.
    assert np.sum(errors > 3e-5) <= 2
    assert np.max(errors) < 5e-3


@pytest.mark.parametrize("name", ["simplex", "l2_ball", "group_lasso"])
def test_gradients_in_metric_end_at_those_of_the_direct_prox(x64, name):
    # However many iterations there may be.
    f = from_euclidean(name, tolerance=1e-12, max_iterations=10**9)
    arguments = cases.draw(np.random.default_rng(9), decades=2)
    weight = np.arange(1.0, 1 + cases.SIZE)
    gradients = [
        jax.jit(jax.grad(lambda *args, f=f: jnp.sum(weight * f(*args)), (0, 1)))
        for f in (f, cases.CONVEX[name].make(None))
    ]
    for ours, direct in zip(
        *(gradient(*arguments) for gradient in gradients), strict=True
    ):
        np.testing.assert_allclose(ours, direct, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", DIRECT)
def test_slices_alone_batched_and_under_vmap_agree(x64, name):
    rng = np.random.default_rng(4)
    x, s = cases.draw(rng, shape=(5, cases.SIZE))
    alone = [jitted(name)(*row) for row in zip(x, s, strict=True)]
    batched = jitted(name, -1)(x, s)
    mapped = jax.jit(jax.vmap(cases.CONVEX[name].make(None)))(x, s)
    if not name.startswith("box_section"):
        np.testing.assert_allclose(batched, alone, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(batched, mapped, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mapped, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SLICED)
def test_a_tree_is_one_vector(x64, name):
    rng = np.random.default_rng(5)
    x, s = cases.draw(rng)
    # Only the numbers' own arguments are different from leaf to leaf.
    if name in (
        *("hyperplane", "halfspace", "ellipsoid"),
        *("box_section", "box_section_at_most"),
    ):
        split = {"a": cases.NORMAL[:2], "b": {"c": cases.NORMAL[2:]}}
        low = {"a": cases.LOWER[:2], "b": {"c": cases.LOWER[2:]}}
        high = {"a": cases.UPPER[:2], "b": {"c": cases.UPPER[2:]}}
        f = {
            "hyperplane": lambda: cases.prox.hyperplane(split, 0.4),
            "halfspace": lambda: cases.prox.halfspace(split, -2.4),
            "box_section": lambda: cases.prox.box_section(
                low, high, split, cases.SECTION
            ),
            "box_section_at_most": lambda: cases.prox.box_section(
                low, high, split, cases.SECTION - 0.2, at_most=True
            ),
            "ellipsoid": lambda: cases.ellipsoid(
                {"a": cases.WEIGHT[:2], "b": {"c": cases.WEIGHT[2:]}}
            ),
        }[name]()
    else:
        f = cases.CONVEX[name].make(None)
    tree = jax.jit(f)(
        {"a": x[:2], "b": {"c": x[2:]}}, {"a": s[:2], "b": {"c": s[2:]}}
    )
    whole = jitted(name)(x, s)
    chex.assert_trees_all_close(
        tree, {"a": whole[:2], "b": {"c": whole[2:]}}, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("name", ["l2_ball", "group_lasso"])
@pytest.mark.parametrize("axis", [0, 1, (0, 1), None])
def test_zeros_change_nothing_of_a_long_slice(x64, name, axis):
    shape = 512, 512
    x, s = cases.draw(np.random.default_rng(10), decades=6, shape=shape)
    f = jax.jit(cases.CONVEX[name].make(axis))
    longer = f(np.pad(x, (0, 1)), np.pad(s, (0, 1), mode="edge"))
    np.testing.assert_allclose(f(x, s), longer[:-1, :-1], rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(x64, name):
    rng = np.random.default_rng(6)
    f = cases.CONVEX[name].make(None)
    if name == "in_metric":
        f = cases.prox.in_metric(
            lambda t, _: t - (jnp.sum(t) - 1) / cases.SIZE, tolerance=1e-13
        )
    weight = rng.normal(size=cases.SIZE)

    @jax.jit
    def loss(leader, step_size):
        return jnp.sum(weight * f(leader, step_size))

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    for _ in range(1):
        leader, step_size = cases.draw(rng, decades=1)
        h = 1e-6
        for argument, computed in enumerate(gradient(leader, step_size)):
            for i in range(cases.SIZE):
                ends = []
                for sign in (1, -1):
                    moved = [leader.copy(), step_size.copy()]
                    moved[argument][i] *= 1 + sign * h
                    ends.append(loss(*moved))
                size = (leader, step_size)[argument][i] * 2 * h
                np.testing.assert_allclose(
                    computed[i],
                    (ends[0] - ends[1]) / size,
                    rtol=1e-4,
                    atol=1e-6,
                )
