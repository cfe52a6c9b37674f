"""Numbers in order along an axis: isotonic regression and total variation."""

from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _checks, _search, _slices


def monotone(*, axis: int = -1, decreasing: bool = False) -> _numerics.Prox:
    r"""Projects onto :math:`\theta_1 \le \theta_2 \le \ldots` along an axis.

    .. math::
        \theta = \arg\min_{\theta_1 \le \theta_2 \le \ldots}
            \sum_i (\theta_i - \ell_i)^2 / s_i

    Halves that are in order are merged to wholes that are: where the left half
    :math:`p` ends above the beginning of the right half :math:`q`, they become
    :math:`\min(p, v)` and :math:`\max(q, v)` with the value :math:`v` that
    leaves the weighted sum as it is.

    Args:
        axis: The axis along which the parameters are in order.
        decreasing: Whether the order is :math:`\theta_1 \ge \theta_2 \ge
            \ldots` instead.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        TypeError: An ``axis`` that is not an int, a ``decreasing`` that is not
            a bool; from the prox, complex leaves.
        ValueError: From the prox, an axis that a leaf does not have.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.monotone()
        >>> print(f(jnp.array([1.0, 3.0, 2.0, 4.0]), jnp.ones(4)))
        [1.  2.5 2.5 4. ]

    References:
        Barlow et al., Statistical Inference under Order Restrictions, Wiley,
        1972; Best and Chakravarti, `Active Set Algorithms for Isotonic
        Regression <https://doi.org/10.1007/BF01580873>`_, Mathematical
        Programming 47, 1990
    """
    _checks.check_integer("axis", axis)
    _checks.check_flag("decreasing", decreasing)

    def in_order(x, s):
        return -_in_order(-x, 1 / s) if decreasing else _in_order(x, 1 / s)

    def solve(slices):
        return slices.map_vectors(in_order, slices.relative_step_sizes())

    return _slices.by_slice("monotone", solve, axis)


def _in_order(x, weight):
    size = len(x)
    padded = 1 << (size - 1).bit_length()
    # Behind the end, numbers without weight that are in order.
    x = jnp.pad(x, (0, padded - size), mode="edge")
    weight = jnp.pad(weight, (0, padded - size))
    half = 1
    while half < padded:
        pairs = [a.reshape(-1, 2, half) for a in (x, weight)]
        x = jax.vmap(_merge)(*pairs).reshape(-1)
        half *= 2
    return x[:size]


def _merge(x, weight):
    """Brings two halves, each of them in order, into order: (2, half)."""
    sign = jnp.array([[1], [-1]], x.dtype)

    def excess(v, x, weight):
        # Differences from the common value: no large number meets a small one.
        is_pooled = sign * (x - v) >= 0
        return jnp.sum(jnp.where(is_pooled, weight * (x - v), 0))

    halves = jax.lax.stop_gradient((x, weight))
    end, begin = halves[0][0, -1], halves[0][1, 0]
    # In order they need no move, and v is the end of the left half.
    v = _search.bisect(
        lambda v: excess(v, *halves) >= 0, jnp.minimum(begin, end), end
    )
    mass = jnp.sum(jnp.where(sign * (x - v) >= 0, weight, 0))
    v = v + excess(v, x, weight) / jnp.where(mass > 0, mass, 1)
    return jnp.where(sign * (x - v) > 0, v, x)


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

    def fused(x, s, strength):
        # Smaller step sizes move nothing; more strength leaves no jumps either.
        weight = 1 / jnp.maximum(s, 1 / _numerics.bound(s.dtype))
        strength = jnp.minimum(strength, _largest(s.dtype) / 8)
        return jnp.where(s == 0, x, _fused(x, weight, strength))

    def solve(slices, strength):
        return slices.map_vectors(fused, slices.penalty_step_sizes(), strength)

    return _slices.by_slice(
        "total_variation", solve, axis, {"strength": strength}
    )


def _largest(dtype):
    return float(jnp.finfo(dtype).max) ** 0.75


# For any number t, the places where the solution reaches t solve a problem with
# two choices for each place, without a curve in it: a message passed along the
# chain solves it, in one associative scan. Cut there, the penalty of each jump
# is linear, and each part can have a t of its own. So bisection finds the value
# at each place, to a rounding. Between values that differ are the jumps.
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
    """Returns where the solution is at least t, which is constant in parts."""
    jumps = jnp.sign(jnp.diff(t))
    before, after = jnp.pad(jumps, (1, 0)), jnp.pad(jumps, (0, 1))
    place = jnp.arange(len(x))
    is_end = place == len(x) - 1
    is_first, is_last = (before != 0) | (place == 0), (after != 0) | is_end

    largest = _largest(x.dtype)
    cost = jnp.clip(weight * (t - x), -largest, largest)
    cost = jnp.stack([cost, -cost])
    start = strength * (1 + jnp.stack([before, -before]))

    def compose(first, then):
        # clip(d + shift, low, high), one after the other.
        shift, low, high = then
        low, high = (jnp.clip(end + shift, low, high) for end in first[1:])
        return first[0] + shift, low, high

    known = jnp.clip(start + cost, 0, 2 * strength)
    low, high = (jnp.where(is_first, known, d) for d in (0, 2 * strength))
    _, message, _ = jax.lax.associative_scan(compose, (cost, low, high), axis=1)
    message = jnp.pad(message[:, :-1], ((0, 0), (1, 0)))
    up, down = jnp.where(is_first, start, message) + cost

    is_above = jnp.where(after > 0, down >= 0, up <= jnp.where(is_end, down, 0))
    is_decided = is_last | is_above | (down < 0)
    # From the next place where it is decided.
    code = 2 * place + is_above.astype(place.dtype)
    code = jnp.where(is_decided, code, 2 * len(x))
    return jax.lax.cummin(code, reverse=True) % 2 == 1
