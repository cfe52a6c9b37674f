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
from optax_ftml.prox import _checks, _search, _slices


def total_variation(strength: Any, *, axis: int = -1) -> _numerics.Prox:
    r"""Fuses neighbours along an axis, the fused lasso's penalty.

    .. math::
        R(\theta) = \text{strength} \sum_i |\theta_{i+1} - \theta_i|

    Args:
        strength: At least 0, one for each slice along the axis, in units of the
            loss per unit of the parameter.
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
    _checks.check_integer("axis", axis)

    def solve(slices, strength):
        (x,), (s,) = slices.x, slices.penalty_step_sizes()
        # Steps of less do not move; a strength of more leaves no jumps either.
        weight = 1 / jnp.maximum(s, 1 / _numerics.bound(s.dtype))
        strength = jnp.minimum(strength, _largest(s.dtype) / 8)
        x, weight = (jnp.moveaxis(a, axis, -1) for a in (x, weight))
        fused = jnp.vectorize(_fused, signature="(n),(n),()->(n)")
        theta = jnp.moveaxis(fused(x, weight, strength), -1, axis)
        return slices.map(jnp.where, [s == 0], slices.x, [theta])

    return _slices.by_slice(
        "total_variation", solve, axis, {"strength": strength}
    )


def _largest(dtype):
    return float(jnp.finfo(dtype).max) ** 0.75


@jax.custom_jvp
def _fused(x, weight, strength):
    return _search.bisect(
        lambda t: _reaches(t, x, weight, strength),
        jnp.full_like(x, jnp.min(x)),
        jnp.full_like(x, jnp.max(x)),
    )


@_fused.defjvp
def _fused_jvp(primals, tangents):
    theta = _fused(*primals)
    jumps = jnp.sign(jnp.diff(theta))
    pull = jnp.pad(jumps, (1, 0)) - jnp.pad(jumps, (0, 1))
    part = jnp.pad(jnp.cumsum(jumps != 0), (1, 0))

    def of_part(x):
        return jax.ops.segment_sum(x, part, len(x))[part]

    def force(x, weight, strength):
        return of_part(weight * (x - theta) - strength * pull)

    _, change = jax.jvp(force, primals, tangents)
    return theta, change / of_part(primals[1])


def _reaches(t, x, weight, strength):
    """Returns where the solution reaches t, which each part has its own of."""
    jumps = jnp.sign(jnp.diff(t))
    before, after = jnp.pad(jumps, (1, 0)), jnp.pad(jumps, (0, 1))
    place = jnp.arange(len(x))
    is_first, is_last = before != 0, after != 0
    is_first, is_last = is_first.at[0].set(True), is_last.at[-1].set(True)

    largest = _largest(x.dtype)
    cost = jnp.clip(weight * (t - x), -largest, largest)
    cost = jnp.stack([cost, -cost])
    start = strength * (1 + jnp.stack([before, -before]))

    def compose(first, then):
        # clip(d + shift, low, high), one after the other.
        shift, low, high = then
        return (
            first[0] + shift,
            jnp.clip(first[1] + shift, low, high),
            jnp.clip(first[2] + shift, low, high),
        )

    known = jnp.clip(start + cost, 0, 2 * strength)
    low = jnp.where(is_first, known, 0)
    high = jnp.where(is_first, known, 2 * strength)
    _, message, _ = jax.lax.associative_scan(compose, (cost, low, high), axis=1)
    message = jnp.pad(message[:, :-1], ((0, 0), (1, 0)))
    up, down = jnp.where(is_first, start, message) + cost

    is_above = jnp.where(
        after > 0, down >= 0, up <= jnp.where(place == len(x) - 1, down, 0)
    )
    is_decided = is_last | is_above | (down < 0)
    # From the next place where it is decided.
    code = 2 * place + is_above.astype(place.dtype)
    code = jnp.where(is_decided, code, 2 * len(x))
    return jax.lax.cummin(code, reverse=True) % 2 == 1
