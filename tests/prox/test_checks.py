"""Errors for arguments that are impossible or do not fit the parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases

NAN, INF = float("nan"), float("inf")
UNEQUAL = np.array([0.0, 1.0])
GROUP_LASSO = functools.partial(prox.group_lasso, 1.0, axis=0)


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda: prox.simplex(-1.0), ValueError, "total"),
        (lambda: prox.simplex(NAN), ValueError, "total"),
        (lambda: prox.simplex(None), TypeError, "total"),
        (lambda: prox.simplex(axis="0"), TypeError, "axis"),
        (lambda: prox.simplex(axis=()), TypeError, r"axis.*int.*\(\)"),
        (lambda: prox.simplex(axis={0: 1}), TypeError, "axis.*path"),
        (lambda: prox.simplex(axis={"a": (1, 1)}), ValueError, "distinct"),
        (lambda: prox.box(1.0, 0.0), ValueError, r"lower.*1\.0.*0\.0"),
        (lambda: prox.box(NAN, 1.0), ValueError, "lower.*nan"),
        (lambda: prox.box(0.0, np.array([1.0, NAN])), ValueError, "upper"),
        (lambda: prox.box(0.0, {"a": -1.0}), ValueError, "lower.*-1"),
        (lambda: prox.box([0, 0], [1, 2, 3]), ValueError, "structure of upper"),
        (lambda: prox.box(0.0, "1"), TypeError, "upper.*'1'"),
        (lambda: prox.l1_ball(-1.0), ValueError, "radius"),
        (lambda: prox.l2_ball(NAN), ValueError, "radius"),
        (lambda: prox.l2_sphere(-1.0), ValueError, "radius"),
        (lambda: prox.hyperplane(np.zeros(3), 1.0), ValueError, "normal"),
        (lambda: prox.halfspace(1.0, NAN), ValueError, "offset"),
        (lambda: prox.affine_set(np.zeros((1, 3)), 1.0), ValueError, "matrix"),
        (lambda: prox.affine_set(np.ones(3), 1.0), ValueError, "matrix"),
        (lambda: prox.affine_set(np.ones((2, 3)), UNEQUAL), ValueError, "sol"),
        (lambda: prox.box_section(1.0, 0.0, 1.0, 0.0), ValueError, "lower"),
        (lambda: prox.monotone(axis=None), TypeError, "axis"),
        (lambda: prox.monotone(decreasing=1), TypeError, "decreasing"),
        (lambda: prox.group_lasso(-1.0, axis=0), ValueError, "strength"),
        (lambda: GROUP_LASSO(l1=-1), ValueError, "l1"),
        (lambda: prox.total_variation(-1.0), ValueError, "strength"),
        (lambda: prox.l1(INF), ValueError, "strength must be finite"),
        (lambda: prox.elastic_net(1.0, INF), ValueError, "l2 must be finite"),
        (lambda: prox.l1(1.0, non_negative=2), TypeError, "non_negative"),
        (lambda: prox.simplex(at_most=1), TypeError, "at_most"),
        (lambda: GROUP_LASSO(non_negative=0), TypeError, "non_negative"),
        (lambda: prox.top_k(-1), ValueError, "k must"),
        (lambda: prox.top_k(1.5), TypeError, "k must"),
        (lambda: prox.levels([]), TypeError, "values"),
        (lambda: prox.levels(np.zeros(0)), ValueError, "values"),
        (lambda: prox.n_of_m(5, 4), ValueError, "n must be at most m"),
        (lambda: prox.n_of_m(-1, 4), ValueError, "n must"),
        (lambda: prox.n_of_m(0, 0), ValueError, "m must"),
        (lambda: prox.n_of_m(2.0, 4), TypeError, "n must"),
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
    ],
)
def test_impossible_arguments_are_named(make, error, word):
    with pytest.raises(error, match=word):
        make()


@pytest.mark.parametrize(
    ("f", "word"),
    [
        (prox.box({"b": 0.0}, 1.0), "lower.*missing a.*unexpected b"),
        (prox.box([0, 0], 1.0), "lower.*a list is a tree.*jnp.array"),
        (prox.l2_ball([1.0, 2.0], axis=0), "radius.*a list is a tree"),
        (prox.hyperplane([1.0, 2.0], 1.0), "normal.*a list is a tree"),
        (prox.l1(np.ones(3)), "strength.*'a'.*(3,)"),
        (prox.simplex(np.ones(3), axis=0), "total.*'a'"),
        (prox.simplex(axis=2), "axis.*'a'"),
        (prox.box_section(0.0, 1.0, 1.0, 9.0), "empty"),
        (prox.box_section(0.0, 1.0, 1.0, -1.0, at_most=True), "empty"),
        (prox.hyperplane(np.array([0.0, 1.0]), 1.0, axis=0), "normal"),
        (prox.affine_set(np.ones((1, 3)), 1.0), "matrix"),
        (prox.n_of_m(2, 4), r"n_of_m.*m.*4.*\(2, 2\)"),
    ],
)
def test_what_does_not_fit_the_parameters_is_named(f, word):
    tree = {"a": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=word):
        jax.eval_shape(f, tree, tree)


def test_a_list_of_numbers_fits_a_list_of_parameters():
    f = prox.box([0.0, -0.5], 1.0)
    after = f([-jnp.ones(2), -jnp.ones(2)], [jnp.ones(2), jnp.ones(2)])
    np.testing.assert_array_equal(after, [[0, 0], [-0.5, -0.5]])


@pytest.mark.parametrize("make", [c.make for c in cases.CONVEX.values()])
def test_integers_are_refused(make):
    ones = jnp.ones(cases.SIZE, jnp.int32)
    with pytest.raises(TypeError, match="floating"):
        make(None)(ones, jnp.ones(cases.SIZE))
