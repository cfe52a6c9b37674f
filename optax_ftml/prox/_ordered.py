"""Isotonic regression: projections onto sequences that do not decrease."""

import jax
import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _search
from optax_ftml.prox import _slices


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
    _checks.check_one_axis(axis)
    if not isinstance(decreasing, bool):
        raise TypeError(
            f"decreasing must be True or False, got {decreasing!r}."
        )

    def solve(own):
        (x,), scale = own.in_range()
        x, weight = (
            jnp.moveaxis(a, axis, -1)
            for a in (x, 1 / own.relative_step_sizes()[0])
        )
        x = -_in_order(-x, weight) if decreasing else _in_order(x, weight)
        return own.map(jnp.multiply, [jnp.moveaxis(x, -1, axis)], scale)

    return _slices.by_slice("monotone", solve, axis)


def _in_order(x, weight):
    size = x.shape[-1]
    blocks = 1 << (size - 1).bit_length()
    pad = [(0, 0, 0)] * (x.ndim - 1) + [(0, blocks - size, 0)]
    # Behind the end, numbers without weight that are in order.
    top = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    x = jax.lax.pad(x, jnp.zeros([], x.dtype), pad)
    x = jnp.where(_is_before(size, x), x, top)
    weight = jax.lax.pad(weight, jnp.zeros([], x.dtype), pad)
    shape, half = x.shape, 1
    while half < blocks:
        pairs = (*shape[:-1], blocks // (2 * half), 2, half)
        x = _merge(x.reshape(pairs), weight.reshape(pairs)).reshape(shape)
        half *= 2
    return x[..., :size]


def _is_before(size, x):
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return places < size


def _merge(x, weight):
    left, right = x[..., 0, :], x[..., 1, :]
    end, begin = left[..., -1:], right[..., :1]

    p, q = weight[..., 0, :], weight[..., 1, :]

    def total(x):
        return jnp.sum(x, axis=-1, keepdims=True)

    def moved(v, left, right, p, q):
        """What moves down to v, less what moves up."""
        down = jnp.where(left > v, left - v, 0) * p
        up = jnp.where(right < v, v - right, 0) * q
        return total(down - up)

    halves = jax.lax.stop_gradient((left, right, p, q))
    # In order they need no move, and v is the end of the left half.
    v = _search.bisect(
        lambda v: moved(v, *halves) >= 0, jnp.minimum(begin, end), end
    )
    mass = total(jnp.where(left > v, p, 0) + jnp.where(right < v, q, 0))
    v = v + moved(v, left, right, p, q) / jnp.where(mass > 0, mass, 1)
    return jnp.stack(
        [jnp.where(left > v, v, left), jnp.where(right < v, v, right)], axis=-2
    )
