"""Projections in the metric onto sets with one equation a slice."""

from typing import Any

import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _root
from optax_ftml.prox import _slices
from optax_ftml.prox._slices import each


def simplex(total: Any = 1.0, *, axis: Any = None) -> _numerics.Prox:
    r"""Projects onto :math:`\theta \ge 0,\ \sum_i \theta_i = \text{total}`.

    .. math::
        \theta = \max(\ell - \mu s, 0)

    with the multiplier :math:`\mu` at which the sum is right.

    Args:
        total: The sum of each slice, at least 0.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A total below 0 or NaN; from the prox, one of a wrong
            shape or structure.
        TypeError: A total that is not a number; from the prox, complex leaves.

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
    _checks.check_numbers("total", total, _checks.AT_LEAST_0, _checks.FINITE)
    _checks.check_axis(axis)

    def solve(own, total):
        return _with_sum(own, own.x, total)

    return _slices.by_slice(
        "simplex", solve, axis, slice_numbers={"total": total}
    )


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
    _checks.check_numbers("radius", radius, _checks.AT_LEAST_0)
    _checks.check_axis(axis)

    def solve(own, radius):
        size = each(jnp.abs, own.x)
        norm = own.sum(size)
        is_inside = norm <= radius * (1 + own.rounding)
        points = _with_sum(own, size, jnp.minimum(radius, norm))
        signed = each(lambda p, x: p * jnp.sign(x), points, own.x)
        return own.where(is_inside, own.x, signed)

    return _slices.by_slice(
        "l1_ball",
        solve,
        axis,
        slice_numbers={"radius": radius},
        is_complex=True,
    )


def _with_sum(own, x, total):
    """Projects onto what is at least 0 and has this sum."""
    own = _slices.Slice(x, own.s, own.axis)
    metric = own.metric()
    zeros, ones, infinities = (
        [jnp.asarray(value, leaf.dtype) for leaf in x]
        for value in (0, 1, jnp.inf)
    )
    points = _root.clipped(own, metric, ones, total, zeros, infinities)
    # Leaders far larger than the total leave a sum with their rounding, or 0:
    # then the last to become 0 have everything.
    found = own.sum(points)
    last = each(jnp.divide, x, metric)
    is_last = own.each(jnp.equal, own.max(last), last)
    share = total / jnp.maximum(own.count(is_last), 1).astype(own.dtype)
    points = own.where(
        ~(found <= 0),
        own.each(
            lambda c, p: p * c, total / jnp.where(found <= 0, 1, found), points
        ),
        own.each(lambda c, last: jnp.where(last, c, 0), share, is_last),
    )
    is_feasible = own.all(each(lambda x: x >= 0, x)) & (
        jnp.abs(own.sum(x) - total) <= own.rounding * total
    )
    return own.where(is_feasible, x, points)


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
    _checks.check_numbers("radius", radius, _checks.AT_LEAST_0)
    _checks.check_axis(axis)

    def solve(own, radius):
        safe = jnp.where((radius > 0) & (radius < jnp.inf), radius, 1)
        radii = own.each(jnp.asarray, safe)
        mu, below = _root.secular(own, radii, own.metric_times())
        scale = jnp.where(radius > 0, safe, 0)
        points = own.each(lambda r, x, q: x / q * r, scale, own.x, below)
        is_inside = (mu == 0) & (radius > 0) | (radius == jnp.inf)
        return own.where(is_inside, own.x, points)

    return _slices.by_slice(
        "l2_ball",
        solve,
        axis,
        slice_numbers={"radius": radius},
        is_complex=True,
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
        TypeError: What is not a number; from the prox, complex leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.hyperplane(jnp.array([1.0, 1.0]), 0.0)
        >>> print(f(jnp.array([1.0, 3.0]), jnp.array([3.0, 1.0])))
        [-2.  2.]
    """
    return _flat("hyperplane", normal, offset, axis)


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
        TypeError: What is not a number; from the prox, complex leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.halfspace(jnp.array([1.0, 1.0]), 0.0)
        >>> print(f(jnp.array([1.0, 3.0]), jnp.array([3.0, 1.0])))
        [-2.  2.]
        >>> print(f(jnp.array([-1.0, -3.0]), jnp.ones(2)))
        [-1. -3.]
    """
    return _flat("halfspace", normal, offset, axis)


def _flat(name, normal, offset, axis):
    _checks.check_normal(normal)
    _checks.check_numbers("offset", offset, _checks.FINITE)
    _checks.check_axis(axis)

    def solve(own, offset, normal):
        metric = own.metric()
        # Scaled, so that the square of a small normal is not 0.
        scale = 1 / own.max(each(jnp.abs, normal))
        a = own.each(jnp.multiply, scale, normal)
        offset = offset * scale
        direction = each(jnp.multiply, metric, a)
        length = own.sum(each(jnp.multiply, direction, a))
        products = each(jnp.multiply, a, own.x)
        found, size = own.sum(products), own.sum(each(jnp.abs, products))
        points = own.x
        for _ in range(3):  # The solution, and twice what its rounding left.
            excess = own.sum(each(jnp.multiply, a, points)) - offset
            points = own.each(
                lambda r, x, d: x - r * d, excess / length, points, direction
            )
        is_inside = _is_equal(found, offset, size, own)
        if name == "halfspace":
            is_inside |= found <= offset
        return own.where(is_inside, own.x, points)

    return _slices.by_slice(
        name,
        solve,
        axis,
        slice_numbers={"offset": offset},
        numbers={"normal": normal},
        check=_checks.check_not_0,
    )


def box_section(
    lower: Any, upper: Any, normal: Any, offset: Any, *, axis: Any = None
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
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A lower bound above its upper bound, a NaN, a normal of
            zeros; from the prox, a section that is empty, or an argument of a
            wrong shape or structure.
        TypeError: What is not a number; from the prox, complex leaves.

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
    _checks.check_bounds(lower, upper)
    _checks.check_normal(normal)
    _checks.check_numbers("offset", offset, _checks.FINITE)
    _checks.check_axis(axis)

    def solve(own, offset, lower, upper, normal):
        metric = own.metric()
        a, lower, upper = (
            _like(own.x, value) for value in (normal, lower, upper)
        )
        direction = each(jnp.multiply, metric, a)
        points, scale = own.in_range()
        low, high = (
            own.each(lambda c, p: p / c, scale, bound)
            for bound in (lower, upper)
        )
        points = _root.clipped(
            _slices.Slice(points, own.s, own.axis),
            direction,
            a,
            offset / scale,
            low,
            high,
        )
        points = own.each(
            lambda c, x, p, q: jnp.clip(x * c, p, q),
            scale,
            points,
            lower,
            upper,
        )
        products = each(jnp.multiply, a, own.x)
        size = own.sum(each(jnp.abs, products))
        is_inside = own.all(
            each(lambda x, p, q: (x >= p) & (x <= q), own.x, lower, upper)
        ) & _is_equal(own.sum(products), offset, size, own)
        return own.where(is_inside, own.x, points)

    return _slices.by_slice(
        "box_section",
        solve,
        axis,
        slice_numbers={"offset": offset},
        numbers={"lower": lower, "upper": upper, "normal": normal},
        check=_checks.check_section,
    )


def _is_equal(found, target, size, own):
    slack = own.rounding * jnp.maximum(size, jnp.abs(target))
    return jnp.abs(found - target) <= slack


def _like(x, values):
    return each(lambda x, v: jnp.broadcast_to(v, x.shape), x, values)
