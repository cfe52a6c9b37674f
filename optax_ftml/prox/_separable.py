"""Proxes of what is a sum over coordinates: bounds, L1, elastic net."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _checks, _slices


def box(lower: Any, upper: Any) -> _numerics.Prox:
    r"""Projects onto :math:`\text{lower} \le \theta \le \text{upper}`.

    .. math::
        \theta = \operatorname{clip}(\ell,\ \text{lower},\ \text{upper})

    Args:
        lower: Lower bounds; -inf for none.
        upper: Upper bounds; inf for none. Bounds are rounded to the parameters'
            dtype.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A lower bound above its upper bound, or a NaN; from the
            prox, one of a wrong shape or structure.
        TypeError: A bound that is not a number; from the prox, complex leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.box(-1.0, 1.0)
        >>> print(f(jnp.array([-3.0, 0.5, 2.0]), jnp.ones(3)))
        [-1.   0.5  1. ]
    """
    _checks.check_bounds(lower, upper)

    def solve(slices, lower, upper):
        return slices.map(jnp.clip, slices.x, lower, upper)

    return _slices.by_slice(
        "box", solve, _slices.EACH, {"lower": lower, "upper": upper}
    )


def non_negative() -> _numerics.Prox:
    r"""Projects onto :math:`\theta \ge 0`.

    .. math::
        \theta = \max(\ell, 0)

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        TypeError: From the prox, complex leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.non_negative()
        >>> print(f(jnp.array([-3.0, 0.5]), jnp.ones(2)))
        [0.  0.5]
    """
    return box(0.0, jnp.inf)


def l1(strength: Any, *, non_negative: bool = False) -> _numerics.Prox:
    r"""Soft-thresholds, for :math:`R(\theta) = \text{strength} \|\theta\|_1`.

    .. math::
        \theta = \operatorname{sign}(\ell) \max(|\ell| - \text{strength}\, s, 0)

    Parameters that have had no gradient yet stay as they are.

    Args:
        strength: At least 0, in units of the loss per unit of the parameter.
        non_negative: Whether the parameters must be at least 0 as well; then
            :math:`\theta = \max(\ell - \text{strength}\, s, 0)`.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A strength below 0, infinite or NaN; from the prox, one of a
            wrong shape or structure.
        TypeError: A strength that is not a number, a ``non_negative`` that is
            not a bool; from the prox, complex leaves if they are to be at
            least 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.l1(2.0)
        >>> print(f(jnp.array([-3.0, 0.5]), jnp.array([0.5, 0.5])))
        [-2.  0.]
    """
    _checks.check_flag("non_negative", non_negative)

    shrink = functools.partial(soft_threshold, non_negative=non_negative)

    def solve(slices, strength):
        s = slices.penalty_step_sizes()
        return slices.map(shrink, slices.x, s, strength)

    numbers = {"strength": strength}
    return _slices.by_slice(
        "l1", solve, _slices.EACH, numbers, is_complex=not non_negative
    )


def elastic_net(l1: Any, l2: Any) -> _numerics.Prox:
    r"""Soft-thresholds and shrinks, for L1 and L2 penalties together.

    .. math::
        R(\theta) &= l_1 \|\theta\|_1 + \tfrac{1}{2} l_2 \|\theta\|_2^2 \\
        \theta &= \operatorname{sign}(\ell) \max(|\ell| - l_1 s, 0)
            / (1 + l_2 s)

    Parameters that have had no gradient yet stay as they are.

    Args:
        l1: At least 0, in units of the loss per unit of the parameter.
        l2: At least 0, in units of the loss per squared unit of the parameter.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A strength below 0, infinite or NaN; from the prox, one of a
            wrong shape or structure.
        TypeError: A strength that is not a number.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.elastic_net(2.0, 2.0)
        >>> print(f(jnp.array([-3.0, 0.5]), jnp.array([0.5, 0.5])))
        [-1.  0.]
    """

    def shrink(x, s, l1, l2):
        return soft_threshold(x, s, l1) / (1 + l2 * s)

    def solve(slices, l1, l2):
        s = slices.penalty_step_sizes()
        return slices.map(shrink, slices.x, s, l1, l2)

    return _slices.by_slice(
        "elastic_net",
        solve,
        _slices.EACH,
        {"l1": l1, "l2": l2},
        is_complex=True,
    )


def soft_threshold(
    x: jax.Array, s: jax.Array, strength: jax.Array, non_negative: bool = False
) -> jax.Array:
    """Returns the prox of the L1 norm, elementwise."""
    if non_negative:
        return jnp.maximum(x - strength * s, 0)
    # A strength of 0 leaves every bit as it is.
    return x - jnp.clip(x, -strength * s, strength * s)
