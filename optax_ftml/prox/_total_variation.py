"""Total variation: penalties on jumps between neighbours.

For any number t, the places where the solution reaches t solve a problem with
two choices a place, and so without a curve in it: a message passed along the
chain solves it, in one associative scan. Cut there, the penalty of each jump is
linear, and each part can be asked of a number of its own. Bisection finds so
each place's value, to a rounding. Between values that differ are the jumps.
"""

from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _search
from optax_ftml.prox import _slices


def total_variation(strength: Any, *, axis: int = -1) -> _numerics.Prox:
    r"""Fuses neighbours along an axis, the fused lasso's penalty.

    .. math::
        R(\theta) = \text{strength} \sum_i |\theta_{i+1} - \theta_i|

    Args:
        strength: At least 0, one for each slice along the axis, in units of the
            loss a unit of the parameter.
        axis: The axis along which the parameters are neighbours.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A strength below 0, infinite or NaN; from the prox, one of a
            wrong shape or structure, or an axis that a leaf does not have.
        TypeError: A strength that is not a number, an ``axis`` that is not an
            int; from the prox, complex leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.total_variation(0.5)
        >>> print(f(jnp.array([0.0, 1.0, 5.0, 6.0]), jnp.ones(4)))
        [0.5 1.  5.  5.5]

    References:
        Condat, `A Direct Algorithm for 1D Total Variation Denoising
        <https://doi.org/10.1109/LSP.2013.2278339>`_, IEEE Signal Processing
        Letters 20(11), 2013; Hochbaum, `An Efficient Algorithm for Image
        Segmentation, Markov Random Fields and Related Problems
        <https://doi.org/10.1145/502090.502093>`_, Journal of the ACM 48(4),
        2001
    """
    _checks.check_numbers(
        "strength", strength, _checks.AT_LEAST_0, _checks.FINITE
    )
    _checks.check_one_axis(axis)

    def solve(own, strength):
        if own.size == 1:
            return own.x
        (x,), scale = own.in_range()
        largest = jax.lax.stop_gradient(own.max(own.s))
        (strength,) = own.spread(strength / scale * largest)
        # Any more leaves no jumps either.
        most = float(jnp.finfo(own.dtype).max) ** 0.75
        strength = jnp.minimum(strength, most)
        problem = [
            jnp.moveaxis(a, axis, -1)
            for a in (x, 1 / own.relative_step_sizes()[0], strength)
        ]
        tilt = _cuts(*jax.lax.stop_gradient(problem))
        theta = jnp.moveaxis(_means(*problem, tilt), -1, axis)
        return own.map(jnp.multiply, [theta], scale)

    return _slices.by_slice(
        "total_variation", solve, axis, slice_numbers={"strength": strength}
    )


def _cuts(x, weight, strength):
    """Returns the signs of the solution's jumps, 0 where there is none."""
    ends = [f(x, axis=-1, keepdims=True) for f in (jnp.min, jnp.max)]
    values = _search.bisect(
        lambda t: _reaches(t, x, weight, strength, jnp.sign(jnp.diff(t))),
        *(jnp.broadcast_to(end, x.shape) for end in ends),
    )
    close = (
        16
        * float(jnp.finfo(x.dtype).eps)
        * jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    )
    jumps = jnp.diff(values)
    return jnp.where(jnp.abs(jumps) > close, jnp.sign(jumps), 0)


def _pull(strength, tilt):
    """The derivative of the penalty of the jumps that are known."""
    none = jnp.zeros_like(tilt[..., :1])
    return strength * (
        jnp.concatenate([none, tilt], -1) - jnp.concatenate([tilt, none], -1)
    )


def _means(x, weight, strength, tilt):
    """The solution's value on each part, if it is constant there."""
    edge = jnp.ones_like(tilt[..., :1], bool)
    is_first = jnp.concatenate([edge, tilt != 0], -1)
    is_last = jnp.concatenate([tilt != 0, edge], -1)

    def add(before, after):
        begins, *sums = after
        return (
            before[0] | begins,
            *(
                b + jnp.where(begins, 0, a)
                for a, b in zip(before[1:], sums, strict=True)
            ),
        )

    def copy(after, before):
        return (
            before[0] | after[0],
            *(
                jnp.where(before[0], b, a)
                for a, b in zip(after[1:], before[1:], strict=True)
            ),
        )

    axis = x.ndim - 1
    moments = (weight * x - _pull(strength, tilt), weight)
    _, *sums = jax.lax.associative_scan(add, (is_first, *moments), axis=axis)
    _, total, mass = jax.lax.associative_scan(
        copy, (is_last, *sums), axis=axis, reverse=True
    )
    # One number alone, between a jump up to it and one up from it, stays.
    stays = is_first & is_last & (_pull(strength, tilt) == 0)
    return jnp.where(stays, x, total / mass)


def _reaches(threshold, x, weight, strength, tilt):
    """Where the solution reaches a threshold, which each part has its own of.

    The message is what it costs more to be above than not, for all up to a
    place; to the next place of its part goes no more of it than the strength.
    """
    cost = weight * (threshold - x) + _pull(strength, tilt)
    edge = jnp.ones_like(tilt[..., :1], bool)
    is_last = jnp.concatenate([tilt != 0, edge], -1)
    is_first = jnp.concatenate([edge, tilt != 0], -1)
    room = jnp.where(is_first, 0, strength)

    def compose(first, then):
        # clip(d + shift, low, high), one after the other.
        shift, low, high = then
        return (
            first[0] + shift,
            jnp.clip(first[1] + shift, low, high),
            jnp.clip(first[2] + shift, low, high),
        )

    axis = x.ndim - 1
    _, message, _ = jax.lax.associative_scan(
        compose, (cost, cost - room, cost + room), axis=axis
    )
    is_above = jnp.where(is_last, message < 0, message < -strength)
    is_decided = is_last | (message < -strength) | (message >= strength)

    def copy(after, before):
        return (
            before[0] | after[0],
            jnp.where(before[0], before[1], after[1]),
        )

    _, is_above = jax.lax.associative_scan(
        copy, (is_decided, is_above), axis=axis, reverse=True
    )
    return is_above
