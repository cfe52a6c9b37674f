"""Projections in the metric onto bounds and sets with one equation per slice.

What has had no gradient yet moves first, with a step size of 1e8 of the largest
of the others in its slice.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics
from optax_ftml.prox import _checks, _search, _slices


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


def simplex(
    total: Any = 1.0, *, at_most: bool = False, axis: Any = None
) -> _numerics.Prox:
    r"""Projects onto :math:`\theta \ge 0,\ \sum_i \theta_i = \text{total}`.

    .. math::
        \theta = \max(\ell - \mu s, 0)

    with the multiplier :math:`\mu` at which the sum is right, or 0 where it
    may be less. Among shares, one that has had no gradient yet takes what the
    others leave.

    Args:
        total: The sum of each slice, at least 0.
        at_most: Whether the sum may also be less.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A total below 0 or NaN; from the prox, one of a wrong
            shape or structure.
        TypeError: A total that is not a number, an ``at_most`` that is not a
            bool; from the prox, complex leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.simplex()
        >>> print(f(jnp.array([0.75, 0.75, -1.0]), jnp.array([1.0, 1.0, 9.0])))
        [0.5 0.5 0. ]
        >>> leader, step_size = jnp.array([0.75, 0.75]), jnp.array([3.0, 1.0])
        >>> print(f(leader, step_size).round(4))
        [0.375 0.625]

    References:
        Duchi et al., `Efficient Projections onto the l1-Ball for Learning in
        High Dimensions <https://doi.org/10.1145/1390156.1390191>`_, ICML 2008
    """
    _checks.check_flag("at_most", at_most)

    def solve(slices, total):
        return _with_sum(slices, slices.x, total, at_most)

    return _slices.by_slice("simplex", solve, axis, {"total": total})


def l1_ball(radius: Any = 1.0, *, axis: Any = None) -> _numerics.Prox:
    r"""Projects onto :math:`\|\theta\|_1 \le \text{radius}`.

    .. math::
        \theta = \operatorname{sign}(\ell) \max(|\ell| - \mu s, 0)

    with the multiplier :math:`\mu` at which the norm is right, or 0.

    Args:
        radius: The largest norm of each slice, at least 0. For complex leaves
            it is the sum of the moduli.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A radius below 0 or NaN; from the prox, one of a wrong
            shape or structure.
        TypeError: A radius that is not a number.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.l1_ball(1.0)
        >>> leader, step_size = jnp.array([0.75, -0.75]), jnp.array([3.0, 1.0])
        >>> print(f(leader, step_size).round(4))
        [ 0.375 -0.625]

    References:
        Duchi et al., `Efficient Projections onto the l1-Ball for Learning in
        High Dimensions <https://doi.org/10.1145/1390156.1390191>`_, ICML 2008
    """

    def solve(slices, radius):
        radius = jnp.minimum(radius, _numerics.bound(slices.dtype))
        sizes = slices.map(jnp.abs, slices.x)
        shrunk = _with_sum(slices, sizes, radius, at_most=True)
        return slices.map(jnp.copysign, shrunk, slices.x)

    return _slices.by_slice(
        "l1_ball", solve, axis, {"radius": radius}, is_complex=True
    )


def _with_sum(slices, x, total, at_most):
    """Returns the theta = max(x - mu s, 0) with this sum, or at most it."""

    def start(x, s, normal, lower, upper, total):
        return (x - total) / s

    search = {"at_most": at_most, "start": start, "steps": 15}
    return _section(slices, x, total, lower=0.0, **search)


def l2_ball(radius: Any = 1.0, *, axis: Any = None) -> _numerics.Prox:
    r"""Projects onto :math:`\|\theta\|_2 \le \text{radius}`.

    .. math::
        \theta = \frac{\ell}{1 + \mu s}

    with the multiplier :math:`\mu` at which the norm is right, or 0. It is
    found as the radius of a trust region is, from the reciprocal of the norm.

    Args:
        radius: The largest norm of each slice, at least 0.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A radius below 0 or NaN; from the prox, one of a wrong
            shape or structure.
        TypeError: A radius that is not a number.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.l2_ball(1.0)
        >>> theta = f(jnp.array([3.0, 4.0]), jnp.ones(2))
        >>> print([f"{x:.2f}" for x in theta])
        ['0.60', '0.80']
        >>> theta = f(jnp.array([3.0, 4.0]), jnp.array([1.0, 0.01]))
        >>> print([f"{x:.2f}" for x in theta])
        ['0.01', '1.00']

    References:
        Moré and Sorensen, `Computing a Trust Region Step
        <https://doi.org/10.1137/0904038>`_, SIAM Journal on Scientific and
        Statistical Computing 4(3), 1983
    """

    def theta(mu, x, s, radius):
        return jnp.where(radius > 0, x / (1 + mu * s), 0)

    def square(mu, x, s, radius):
        x = x * _search.reciprocal(radius)
        return jnp.square(x) * _search.inverse_power(1 + mu * s, 2)

    def start(x, s, radius):
        return (jnp.abs(x) * _search.reciprocal(radius) - 1) / s

    def solve(slices, radius):
        radius = jnp.minimum(radius, _numerics.bound(slices.dtype))
        given = slices.x, slices.relative_step_sizes(), radius
        mu = _search.multiplier(slices, square, *given, start=start)
        return slices.map(theta, mu, *given)

    return _slices.by_slice(
        "l2_ball", solve, axis, {"radius": radius}, is_complex=True
    )


def hyperplane(normal: Any, offset: Any, *, axis: Any = None) -> _numerics.Prox:
    r"""Projects onto :math:`a \cdot \theta = b`, normal and offset.

    .. math::
        \theta = \ell - s a \frac{a \cdot \ell - b}{\sum_i s_i a_i^2}

    Args:
        normal: The normal :math:`a`, not 0 in all of a slice: an array that
            broadcasts against every leaf, or a tree.
        offset: The offset :math:`b` of each slice.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A NaN, an infinity, a normal of zeros; from the prox, one
            of a wrong shape or structure.
        TypeError: An argument that is not a number; from the prox, complex
            leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.hyperplane(jnp.array([1.0, 1.0]), 0.0)
        >>> print(f(jnp.array([1.0, 3.0]), jnp.array([3.0, 1.0])))
        [-2.  2.]
    """
    return _flat("hyperplane", normal, offset, axis, at_most=False)


def halfspace(normal: Any, offset: Any, *, axis: Any = None) -> _numerics.Prox:
    r"""Projects onto :math:`a \cdot \theta \le b`, normal and offset.

    .. math::
        \theta = \ell - s a \frac{\max(a \cdot \ell - b, 0)}{\sum_i s_i a_i^2}

    Args:
        normal: The normal :math:`a`, not 0 in all of a slice: an array that
            broadcasts against every leaf, or a tree.
        offset: The offset :math:`b` of each slice.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A NaN, an infinity, a normal of zeros; from the prox, one
            of a wrong shape or structure.
        TypeError: An argument that is not a number; from the prox, complex
            leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.halfspace(jnp.array([1.0, 1.0]), 0.0)
        >>> print(f(jnp.array([1.0, 3.0]), jnp.array([3.0, 1.0])))
        [-2.  2.]
        >>> print(f(jnp.array([-1.0, -3.0]), jnp.ones(2)))
        [-1. -3.]
    """
    return _flat("halfspace", normal, offset, axis, at_most=True)


def _flat(name, normal, offset, axis, at_most):
    def solve(slices, offset, normal):
        _checks.check_not_0(slices, normal)
        return _section(
            slices, slices.x, offset, normal, at_most=at_most, steps=1
        )

    return _slices.by_slice(
        name, solve, axis, {"offset": offset}, numbers={"normal": normal}
    )


def box_section(
    lower: Any,
    upper: Any,
    normal: Any,
    offset: Any,
    *,
    at_most: bool = False,
    axis: Any = None,
) -> _numerics.Prox:
    r"""Projects onto a box cut by the hyperplane :math:`a \cdot \theta = b`.

    .. math::
        \theta = \operatorname{clip}(\ell - \mu s a,\ \text{lower},\
        \text{upper})

    with the multiplier :math:`\mu` at which :math:`a \cdot \theta = b`.

    Args:
        lower: Lower bounds; -inf for none.
        upper: Upper bounds; inf for none.
        normal: The normal :math:`a`, not 0 in all of a slice: an array that
            broadcasts against every leaf, or a tree.
        offset: The offset :math:`b` of each slice.
        at_most: Whether :math:`a \cdot \theta \le b` is enough: the box is
            then cut by a halfspace.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A lower bound above its upper bound, a NaN, a normal of
            zeros; from the prox, a section that is empty, or an argument of a
            wrong shape or structure.
        TypeError: An argument that is not a number; from the prox, complex
            leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.box_section(0.0, 0.5, jnp.ones(3), 1.0)
        >>> print(f(jnp.array([5.0, 0.25, 0.0]), jnp.ones(3)).round(4))
        [0.5   0.375 0.125]

    References:
        Cominetti, Mascarenhas and Silva, `A Newton's Method for the Continuous
        Quadratic Knapsack Problem
        <https://doi.org/10.1007/s12532-014-0066-y>`_, Mathematical
        Programming Computation 6, 2014
    """
    _checks.check_flag("at_most", at_most)

    def solve(slices, offset, lower, upper, normal):
        _checks.check_section(slices, offset, lower, upper, normal, at_most)
        given = offset, normal, lower, upper
        search = {"at_most": at_most, "bisects": True}
        return _section(slices, slices.x, *given, **search)

    numbers = {"lower": lower, "upper": upper, "normal": normal}
    return _slices.by_slice(
        "box_section", solve, axis, {"offset": offset}, numbers=numbers
    )


def _section(
    slices, x, target, normal=1.0, lower=-np.inf, upper=np.inf, **search
):
    """Returns theta = clip(x - mu s a, lower, upper) with this a . theta."""

    def shift(mu, x, s, a):
        return x - mu * (s * a)

    def product(mu, x, s, a, lower, upper, _):
        return a * _clip(shift(mu, x, s, a), lower, upper)

    def residual(total):
        return total - target

    others = slices.relative_step_sizes(), normal, lower, upper, target
    mu = _search.multiplier(
        slices, product, x, *others, residual=residual, **search
    )
    y = slices.map(shift, mu, x, *others[:2])
    for _ in range(2):
        # What mu's rounding leaves of the residual goes to what is within.
        rest = _search.halley_step(
            slices, product, residual, jnp.zeros_like(mu), y, *others
        )
        rest = jax.lax.stop_gradient(jnp.where(mu == 0, 0, rest))
        y = slices.map(shift, rest, y, *others[:2])
    return slices.map(_clip, y, lower, upper)


def _clip(x, lower, upper):
    # At a bound the derivative is the bound's, as it is beyond.
    return jnp.where(x <= lower, lower, jnp.where(x >= upper, upper, x))
