"""Isotonic regression: projections onto sequences that do not decrease."""

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

    def solve(slices):
        (x,), (s,) = slices.x, slices.relative_step_sizes()
        x, weight = (jnp.moveaxis(a, axis, -1) for a in (x, 1 / s))
        in_order = jnp.vectorize(_in_order, signature="(n),(n)->(n)")
        x = -in_order(-x, weight) if decreasing else in_order(x, weight)
        return [jnp.moveaxis(x, -1, axis)]

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
