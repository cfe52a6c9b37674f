"""group_lasso: members that do not move, or have had no gradient yet."""

import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics
from optax_ftml import prox


def test_a_group_shrinks_beside_what_does_not_move():
    leader, s = jnp.array([0.4, 0.4, 0.4, 0]), jnp.array([1.0, 1.0, 1.0, 0])
    theta = prox.group_lasso(0.5, axis=None)(leader, s)
    member = (0.4 * 3**0.5 - 0.5) / 3**0.5
    np.testing.assert_allclose(theta, [*[member] * 3, 0], rtol=1e-6)


def test_a_member_without_a_gradient_is_0_at_once():
    leader = jnp.array([[3.0, 4.0, 5.0]])
    steps = jnp.array([[0.1, 0.1, _numerics.bound(jnp.float32)]])
    theta = prox.group_lasso(1e-6, axis=1)(leader, steps)
    np.testing.assert_allclose(theta, [[3, 4, 0]], rtol=1e-5)
    assert theta[0, 2] == 0
