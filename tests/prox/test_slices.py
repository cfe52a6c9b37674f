"""Numbers per slice, axes that do not fit, and penalties on groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox

AXES = {"hidden/kernel": 0, "hidden/bias": (), "out/kernel": 1}
ONES = {
    "hidden": {"kernel": np.ones((4, 3)), "bias": np.ones(3)},
    "out": {"kernel": np.ones((3, 2)), "bias": np.ones(2)},
}


@pytest.mark.parametrize(
    ("axis", "shape"), [(AXES, (3,)), ({"hidden/kernel": 1}, (4,))]
)
def test_numbers_per_slice_have_the_shape_that_is_left(axis, shape):
    strength = np.array([0.0, 1.0, 100.0, 0.0])[: shape[0]]
    ones = jax.tree.map(jnp.float32, ONES)
    theta = prox.group_lasso(strength, axis=axis)(ones, ones)
    kernel = theta["hidden"]["kernel"]
    kernel = kernel.T if axis is AXES else kernel
    norm = np.sqrt(7 if axis is AXES else 3)
    expected = np.array([1, 1 - 1 / norm, 0, 1])[: shape[0], None]
    np.testing.assert_allclose(kernel, expected + 0 * kernel, rtol=1e-6)


def test_numbers_per_slice_broadcast_against_sums_with_keepdims():
    totals = np.array([[1.0], [2.0], [4.0]])
    theta = prox.simplex(totals, axis=1)(jnp.zeros((3, 4)), jnp.ones((3, 4)))
    np.testing.assert_allclose(theta, totals / 4 + np.zeros((3, 4)), rtol=1e-6)


@pytest.mark.parametrize(
    ("axis", "error", "word"),
    [
        ({"hidden/*": 0}, ValueError, r"\(3,\).*kernel.*\(\).*bias|\(\).*bias"),
        ({"hidden/kernel": 2}, ValueError, "axis.*hidden/kernel"),
        ({"hiden/kernel": 0}, ValueError, "axis.*hiden"),
        ({1: 0}, TypeError, "axis"),
        ({"hidden/kernel": "0"}, TypeError, "axis"),
        ((), TypeError, "axis"),
    ],
)
def test_axes_that_do_not_fit_are_named(axis, error, word):
    tree = jax.tree.map(jnp.float32, ONES)
    with pytest.raises(error, match=word):
        prox.simplex(axis=axis)(tree, tree)


@pytest.mark.parametrize(
    "f", [prox.simplex(), prox.l2_ball(), prox.group_lasso(0.5, axis=None)]
)
def test_nothing_alarms_outside_of_jit(f):
    with jax.debug_infs(True), jax.debug_nans(True):
        for leader in (jnp.zeros(4), jnp.full(4, 9.0)):
            for step_size in (jnp.zeros(4), jnp.ones(4)):
                f(leader, step_size)
