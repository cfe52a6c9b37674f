"""Numbers per parameter, per slice, per leaf and per subtree."""

import jax.numpy as jnp
import numpy as np

from optax_ftml import prox


def test_numbers_per_slice_have_the_shape_that_is_left():
    ones = {
        "hidden": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
        "out": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    }
    axis = {"hidden/kernel": 0, "hidden/bias": (), "out/kernel": 1}
    strength = np.array([0.0, 1.0, 100.0])
    theta = prox.group_lasso(strength, axis=axis)(ones, ones)
    expected = np.array([1, 1 - 7**-0.5, 0])
    hidden, out = theta["hidden"], theta["out"]
    for actual in (*hidden["kernel"], hidden["bias"], *out["kernel"].T):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_array_equal(out["bias"], ones["out"]["bias"])


def test_numbers_per_slice_broadcast_against_sums_with_keepdims():
    totals = np.array([[1.0], [2.0], [4.0]])
    theta = prox.simplex(totals, axis=1)(jnp.zeros((3, 4)), 1.0)
    np.testing.assert_allclose(theta, np.tile(totals / 4, 4), rtol=1e-6)


def test_numbers_of_a_leaf_or_a_subtree():
    leader = {"a": jnp.array([-5.0, 5.0]), "b": [jnp.array([5.0])]}
    f = prox.box({"a": jnp.array([-1.0, 6.0]), "b": [-1.0]}, {"a": 9.0, "b": 2})
    theta = f(leader, leader)
    np.testing.assert_array_equal(theta["a"], [-1, 6])
    np.testing.assert_array_equal(theta["b"], [[2]])
