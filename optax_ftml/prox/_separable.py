"""Proxes of what is a sum over coordinates: bounds, L1, elastic net."""

from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml import _checks
from optax_ftml import _leader


def box(lower: Any, upper: Any) -> _leader.Prox:
    r"""Projects onto :math:`\text{lower} \le \theta \le \text{upper}`.

    Args:
        lower: Lower bounds; -inf for none.
        upper: Upper bounds; inf for none. Bounds are rounded to the parameters'
            dtype.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A lower bound above its upper bound, or a NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.box(-1.0, 1.0)
        >>> print(f(jnp.array([-3.0, 0.5, 2.0]), jnp.ones(3)))
        [-1.   0.5  1. ]
    """
    _checks.check_bounds(lower, upper)

    def f(leader, step_size):
        del step_size
        return jax.tree.map(
            lambda x, low, high: jnp.clip(x, low, high).astype(x.dtype),
            leader,
            _broadcast(lower, leader),
            _broadcast(upper, leader),
        )

    return f


def non_negative() -> _leader.Prox:
    r"""Projects onto :math:`\theta \ge 0`.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.non_negative()
        >>> print(f(jnp.array([-3.0, 0.5]), jnp.ones(2)))
        [0.  0.5]
    """
    return box(0.0, jnp.inf)


def l1(strength: Any) -> _leader.Prox:
    r"""Soft-thresholds, for :math:`R(\theta) = \text{strength} \|\theta\|_1`.

    Args:
        strength: At least 0, in units of the loss a unit of the parameter.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A strength below 0 or NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.l1(2.0)
        >>> print(f(jnp.array([-3.0, 0.5]), jnp.array([0.5, 0.5])))
        [-2.  0.]
    """
    _checks.check_strength("strength", strength)
    return _shrink(strength, 0.0)


def elastic_net(l1: Any, l2: Any) -> _leader.Prox:
    r"""Soft-thresholds and shrinks, for L1 and L2 penalties together.

    .. math::
        R(\theta) = l_1 \|\theta\|_1 + \tfrac{1}{2} l_2 \|\theta\|_2^2

    Args:
        l1: At least 0, in units of the loss a unit of the parameter.
        l2: At least 0, in units of the loss a squared unit of the parameter.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A strength below 0 or NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.elastic_net(2.0, 2.0)
        >>> print(f(jnp.array([-3.0, 0.5]), jnp.array([0.5, 0.5])))
        [-1.  0.]
    """
    _checks.check_strength("l1", l1)
    _checks.check_strength("l2", l2)
    return _shrink(l1, l2)


def _shrink(l1, l2):
    def shrink(x, s, l1, l2):
        kept = jnp.maximum(jnp.abs(x) - l1 * s, 0) / (1 + l2 * s)
        return (jnp.sign(x) * kept).astype(x.dtype)

    def f(leader, step_size):
        return jax.tree.map(
            shrink,
            leader,
            step_size,
            _broadcast(l1, leader),
            _broadcast(l2, leader),
        )

    return f


def _broadcast(prefix, tree):
    return jax.tree.map(
        lambda value, subtree: jax.tree.map(lambda _: value, subtree),
        prefix,
        tree,
    )
