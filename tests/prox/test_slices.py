"""Numbers per parameter, per slice, per leaf and per subtree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox

AXES = {"hidden/kernel": 0, "hidden/bias": (), "out/kernel": 1}
SHAPES = {
    "hidden": {"kernel": (4, 3), "bias": (3,)},
    "out": {"kernel": (3, 2), "bias": (2,)},
}


@pytest.mark.parametrize(
    ("axis", "size"), [(AXES, 7), ({"hidden/kernel": 1}, 3)]
)
def test_numbers_per_slice_have_the_shape_that_is_left(axis, size):
    ones = jax.tree.map(
        jnp.ones, SHAPES, is_leaf=lambda x: isinstance(x, tuple)
    )
    kernel = ones["hidden"]["kernel"]
    left = np.moveaxis(kernel, axis["hidden/kernel"], -1).shape[0]
    strength = np.array([0.0, 1.0, 100.0, 0.0])[:left]
    theta = prox.group_lasso(strength, axis=axis)(ones, ones)
    expected = np.array([1, 1 - size**-0.5, 0, 1])[:left]
    expected = np.expand_dims(expected, axis["hidden/kernel"]) * kernel
    np.testing.assert_allclose(theta["hidden"]["kernel"], expected, rtol=1e-6)
    np.testing.assert_array_equal(theta["out"]["bias"], ones["out"]["bias"])


def test_numbers_per_slice_broadcast_against_sums_with_keepdims():
    totals = np.array([[1.0], [2.0], [4.0]])
    theta = prox.simplex(totals, axis=1)(jnp.zeros((3, 4)), 1.0)
    np.testing.assert_allclose(theta, np.tile(totals / 4, 4), rtol=1e-6)


def test_numbers_of_a_leaf_or_a_subtree():
    leader = {"a": jnp.array([-5.0, 5.0]), "b": {"c": jnp.array([5.0])}}
    f = prox.box({"a": jnp.array([-1.0, 6.0]), "b": -1.0}, {"a": 9.0, "b": 2.0})
    theta = f(leader, leader)
    np.testing.assert_array_equal(theta["a"], [-1, 6])
    np.testing.assert_array_equal(theta["b"]["c"], [2])
