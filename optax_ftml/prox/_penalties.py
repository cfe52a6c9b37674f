"""Penalties: L1, elastic net, and the group lasso, which is for slices."""

import functools
from typing import Any

import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _checks, _search, _slices


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

    shrink = functools.partial(_soft_threshold, non_negative=non_negative)
    return _elementwise(
        "l1", shrink, {"strength": strength}, is_complex=not non_negative
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
        return _soft_threshold(x, s, l1) / (1 + l2 * s)

    return _elementwise("elastic_net", shrink, {"l1": l1, "l2": l2})


def _elementwise(name, shrink, strengths, *, is_complex=True):
    def solve(slices, *strengths):
        s = slices.penalty_step_sizes()
        return slices.map(shrink, slices.x, s, *strengths)

    return _slices.by_slice(
        name, solve, _slices.EACH, strengths, is_complex=is_complex
    )


def _soft_threshold(x, s, strength, non_negative=False):
    if non_negative:
        return jnp.maximum(x - strength * s, 0)
    # A strength of 0 leaves every bit as it is.
    return x - jnp.clip(x, -strength * s, strength * s)


def group_lasso(
    strength: Any, *, axis: Any, l1: Any = 0.0, non_negative: bool = False
) -> _numerics.Prox:
    r"""Shrinks the norm of each slice, many of them to 0.

    .. math::
        R(\theta) &= \text{strength} \sum_\text{slices} \|\theta\|_2
            + l_1 \|\theta\|_1 \\
        u &= \operatorname{sign}(\ell) \max(|\ell| - l_1 s, 0) \\
        \theta &= 0 \text{ if } \|u / s\|_2 \le \text{strength, else }
            \frac{u\, \tau}{\tau + \text{strength}\, s}

    with :math:`\tau = \|\theta\|_2`. With ``l1`` it is the sparse group lasso.
    With ``non_negative`` it is :math:`u = \max(\ell - l_1 s, 0)`.

    A slice in which nothing has had a gradient yet stays as it is. In another,
    what has had none becomes 0 at once.

    Args:
        strength: At least 0, one for each slice, in units of the loss per unit
            of the parameter.
        axis: The axes of the slices: for a layer whose kernel has the shape
            (inputs, outputs), 0 makes the weights of each output a group. None
            for all leaves as one vector. A mapping from path patterns to axes
            makes one group of the slices at the same place of these leaves.
        l1: At least 0, per parameter, in the same units.
        non_negative: Whether the parameters must be at least 0 as well.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A strength below 0, infinite or NaN; from the prox, one of a
            wrong shape or structure.
        TypeError: A strength that is not a number, a ``non_negative`` that is
            not a bool; from the prox, complex leaves with it.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.group_lasso(2.5, axis=1)
        >>> leader = jnp.array([[3.0, 4.0], [1.0, 1.0]])
        >>> print(f(leader, jnp.ones((2, 2))).round(4))
        [[1.5 2. ]
         [0.  0. ]]

    References:
        Yuan and Lin, `Model Selection and Estimation in Regression with
        Grouped Variables <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_,
        Journal of the Royal Statistical Society B 68, 2006; Simon et al., `A
        Sparse-Group Lasso <https://doi.org/10.1080/10618600.2012.681250>`_,
        Journal of Computational and Graphical Statistics 22, 2013
    """
    _checks.check_flag("non_negative", non_negative)

    def theta(mu, x, s, strength):
        below = mu + strength * s
        factor = mu / jnp.where(below > 0, below, 1)
        return jnp.where(strength > 0, x * factor, x)

    def square(mu, x, s, strength):
        return jnp.square(x * _search.reciprocal(mu + strength * s))

    def start(x, s, strength):
        return jnp.abs(x) - strength * s

    def member(strength, x, s, l1):
        x = _soft_threshold(x, s, l1, non_negative)
        # Of a group that has had a gradient, what has had none is 0 at once.
        return jnp.where(_slices.is_unresisted(s) & (strength > 0), 0, x)

    def solve(slices, strength, l1):
        s = slices.penalty_step_sizes()
        x = slices.map(member, strength, slices.x, s, l1)
        given = x, s, strength
        mu = _search.multiplier(slices, square, *given, start=start)
        return slices.map(theta, mu, *given)

    return _slices.by_slice(
        "group_lasso",
        solve,
        axis,
        {"strength": strength},
        numbers={"l1": l1},
        is_complex=not non_negative,
    )
