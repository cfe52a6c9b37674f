"""Errors for arguments that are impossible or do not fit the parameters."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases

NUMBER = [(np.nan, ValueError), (None, TypeError), ([], TypeError)]
NUMBER += [(np.array(["1"]), TypeError)]
FINITE = [*NUMBER, (np.inf, ValueError)]
AT_LEAST_0 = [*FINITE, (-1.0, ValueError)]
FLAG, INTEGER = [(1, TypeError)], [(-1, ValueError), (1.5, TypeError)]
# What is wrong for each argument of the name, and what else for that of a prox.
WRONG = {
    **dict.fromkeys(["lower", "upper"], NUMBER),
    **dict.fromkeys(["offset", "matrix", "values"], FINITE),
    **dict.fromkeys(["strength", "l1", "l2", "total"], AT_LEAST_0),
    **dict.fromkeys(["at_most", "non_negative", "decreasing"], FLAG),
    **dict.fromkeys(["k", "n", "m"], INTEGER),
    "radius": [*NUMBER, (-1.0, ValueError)],
    "normal": [*FINITE, (np.zeros(3), ValueError)],
    "axis": [(x, TypeError) for x in ("0", (), {1: 0}, {"a": "0"})],
    "f": [(f, TypeError) for f in (3, lambda x: x, lambda x, scale=1: x)],
    "tolerance": [(0.0, ValueError), ("1", TypeError)],
    "max_iterations": [(0, ValueError), (1.5, TypeError)],
    "simplex's axis": [((0, 0), ValueError)],
    "monotone's axis": [(None, TypeError)],
    "l2_sphere's radius": [(np.inf, ValueError)],
    "box_section's lower": [(2.0, ValueError)],
    "levels's values": [(np.zeros(0), ValueError)],
    "n_of_m's n": [(5, ValueError)],
    # Zeros, a single row, and two of which one has no solution.
    "affine_set's matrix": [
        (x, ValueError) for x in (np.zeros((1, 3)), np.ones(3), np.eye(2, 1))
    ],
}
RIGHT = {"k": 1, "n": 1, "m": 1, "axis": 0, "f": min, "matrix": np.ones((1, 3))}


@pytest.mark.parametrize(
    "name", [n for n in prox.__all__ if n not in ("by_path", "intersection")]
)
def test_impossible_arguments_are_named(name):
    make = getattr(prox, name)
    parameters = inspect.signature(make).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty]
    right = {key: RIGHT.get(key, 1.0) for key in required}
    make(**right)
    for key in [p.name for p in parameters]:
        for value, error in WRONG[key] + WRONG.get(f"{name}'s {key}", []):
            with pytest.raises(error, match=f"^{key} must be"):
                make(**right | {key: value})


@pytest.mark.parametrize(
    ("f", "word"),
    [
        (
            lambda *args: prox.simplex({"a": 1.0, "b": 2.0})(*args),
            "total must be a single array",
        ),
        (prox.box({"c": 0.0}, 1.0), "lower.*missing a.*unexpected c"),
        (prox.box([0, 0], 1.0), "lower.*a list is a tree.*jnp.array"),
        (prox.l2_ball([1.0, 2.0], axis=0), "radius.*a list is a tree"),
        (prox.hyperplane([1.0, 2.0], 1.0), "normal.*a list is a tree"),
        (prox.l1(np.ones(3)), "strength.*'a'.*(3,)"),
        (prox.simplex(np.ones(3), axis=0), "total.*'a'"),
        (prox.simplex(axis=2), "axis.*'a'"),
        (prox.simplex(axis={"a": 2}), "axis.*'a'"),
        (prox.simplex(axis={"c": 0}), "axis.*'c'"),
        (prox.simplex(axis={"*": 0}), r"axis.*\(2,\).*'a'.*\(\).*'b'"),
        (prox.box_section(0.0, 1.0, 1.0, 9.0), "empty"),
        (prox.box_section(0.0, 1.0, 1.0, -1.0, at_most=True), "empty"),
        (prox.hyperplane(np.array([0.0, 1.0]), 1.0, axis=0), "normal"),
        (prox.affine_set(np.ones((1, 3)), 1.0), "matrix"),
        (prox.n_of_m(2, 4), r"n_of_m.*m.*4.*\(2, 2\)"),
    ],
)
def test_what_does_not_fit_the_parameters_is_named(f, word):
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match=word):
        jax.eval_shape(f, params, params)


COMPLEX = "l1", "elastic_net", "l1_ball", "l2_ball", "in_metric"
COMPLEX += "group_lasso", "sparse_group_lasso"


@pytest.mark.parametrize("name", cases.CONVEX)
def test_integers_and_complex_numbers_without_a_meaning_are_refused(name):
    f, ones = cases.CONVEX[name].make(None), jnp.ones(cases.SIZE)
    for dtype in ["int32"] + ["complex64"] * (name not in COMPLEX):
        with pytest.raises(TypeError, match=f"floating.*{dtype}"):
            f(ones.astype(dtype), ones)
