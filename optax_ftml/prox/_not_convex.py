"""Sets that are not convex: spheres, few numbers, few levels.

Each finds the nearest point of its set. Where training ends then depends on
where it starts.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _root
from optax_ftml.prox import _slices
from optax_ftml.prox._slices import each


def l2_sphere(radius: Any = 1.0, *, axis: Any = None) -> _numerics.Prox:
    r"""Projects onto :math:`\|\theta\|_2 = \text{radius}`.

    .. math::
        \theta = \frac{\ell}{1 + \mu s}, \qquad \mu \ge -1 / \max_i s_i

    with the multiplier :math:`\mu` at which the norm is right. Where there is
    none, because the leader is 0 wherever the step size is largest, those
    numbers get, in equal parts, what the norm lacks.

    Args:
        radius: The norm of each slice, at least 0.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A radius below 0, infinite or NaN; from the prox, one of a
            wrong shape or structure.
        TypeError: A radius that is not a number.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.l2_sphere(1.0)
        >>> theta = f(jnp.array([0.3, 0.4]), jnp.ones(2))
        >>> print([f"{x:.2f}" for x in theta])
        ['0.60', '0.80']

    References:
        Moré and Sorensen, `Computing a Trust Region Step
        <https://doi.org/10.1137/0904038>`_, SIAM Journal on Scientific and
        Statistical Computing 4(3), 1983
    """
    _checks.check_numbers("radius", radius, _checks.AT_LEAST_0, _checks.FINITE)
    _checks.check_axis(axis)

    def solve(own, radius):
        metric = own.metric()
        safe = jnp.where(radius > 0, radius, 1)
        # 1 + mu s is rest + nu s, where nu is at least 0.
        rest = each(lambda s: jnp.maximum(1 - s, 0), metric)
        scaled = own.each(jnp.multiply, safe, rest)
        nu, below = _root.secular(
            own, scaled, lambda factor: own.each(jnp.multiply, factor, metric)
        )
        points = own.each(lambda r, x, q: x / q * r, safe, own.x, below)
        ratios = own.each(lambda r, p: jnp.abs(p) / r, safe, points)
        found = own.sum(each(jnp.square, ratios))
        is_free = each(
            lambda a: (a < jnp.finfo(a.dtype).eps).astype(a.dtype), rest
        )
        is_short = (found < 1 - own.rounding) & (nu == 0)
        lack = jnp.where(is_short, 1 - found, 1) / own.sum(is_free)
        lack = jnp.where(is_short, safe * jnp.sqrt(lack), 0)
        points = own.each(
            lambda l, p, free: p + l * free, lack, points, is_free
        )
        points = own.each(
            lambda keep, p: p * keep, (radius > 0).astype(own.dtype), points
        )
        ratios = own.each(lambda r, x: jnp.abs(x) / r, safe, own.x)
        squares = own.sum(each(jnp.square, ratios))
        is_feasible = jnp.abs(squares - 1) <= own.rounding
        return own.where(is_feasible & (radius > 0), own.x, points)

    return _slices.by_slice(
        "l2_sphere",
        solve,
        axis,
        slice_numbers={"radius": radius},
        is_complex=True,
    )


def top_k(k: int, *, axis: Any = None) -> _numerics.Prox:
    r"""Keeps `k` numbers of each slice and makes the others 0.

    .. math::
        \theta_i = \ell_i \text{ for the } k \text{ largest }
        |\ell_i| / \sqrt{s_i} \text{, else } 0

    Among equals the first are kept.

    Args:
        k: How many, an integer, at least 0.
        axis: The axes of the slices; None for all leaves as one vector.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A `k` below 0.
        TypeError: A `k` that is not an integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.top_k(1)
        >>> print(f(jnp.array([2.0, -1.0]), jnp.array([9.0, 1.0])))
        [ 0. -1.]

    References:
        Blumensath and Davies, `Iterative Hard Thresholding for Compressed
        Sensing <https://doi.org/10.1016/j.acha.2009.04.002>`_, Applied and
        Computational Harmonic Analysis 27(3), 2009
    """
    _checks.check_integer("k", k, 0)
    _checks.check_axis(axis)

    def solve(own):
        # What leaving a number out costs.
        cost = each(
            lambda x, s: (jnp.abs(x) / jnp.sqrt(s)).astype(own.dtype),
            own.x,
            own.metric(),
        )
        room = min(int(k), own.size)
        edge = _edge(own, cost, room)
        ties = each(
            lambda c, place: jnp.where(c == edge, place, -1), cost, _places(own)
        )
        above = own.count(each(lambda c: c > edge, cost))
        last = _edge(own, ties, room - above)
        return each(
            lambda x, c, tie: jnp.where(
                (c < edge) | ((c == edge) & (tie < last)), 0, x
            ),
            own.x,
            cost,
            ties,
        )

    return _slices.by_slice("top_k", solve, axis, is_complex=True)


def _edge(own, keys, room):
    """The largest number, from 0, that at least so many keys reach."""
    dtype = keys[0].dtype
    info = jnp.finfo if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo
    return _root.bisect(
        lambda edge: own.count(each(lambda key: key >= edge, keys)) >= room,
        own.full(0, dtype),
        own.full(info(dtype).max, dtype),
    )


def _places(own):
    """Numbers those of each slice from its last, 0, to its first."""
    places, before = [], 0
    for x in own.x:
        place = jnp.zeros(x.shape, jnp.int32)
        for i in _slices.axes_of(x.shape, own.axis):
            iota = jax.lax.broadcasted_iota(jnp.int32, x.shape, i)
            place = place * x.shape[i] + iota
        places.append(own.size - 1 - before - place)
        before += x.size
    return places


def levels(values: Sequence[float]) -> _numerics.Prox:
    r"""Takes each number to the nearest of a few, as (-1, 0, 1).

    .. math::
        \theta_i = \arg\min_{v \in \text{values}} |\ell_i - v|

    Args:
        values: The levels: a sequence of numbers, at least one.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: No levels, or levels that are infinite or NaN.
        TypeError: Levels that are not numbers; from the prox, complex leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.levels([-1.0, 0.0, 1.0])
        >>> print(f(jnp.array([-3.0, 0.4, 0.6]), jnp.ones(3)))
        [-1.  0.  1.]

    References:
        Courbariaux et al., `BinaryConnect
        <https://arxiv.org/abs/1511.00363>`_, NeurIPS 2015; Bai et al.,
        `ProxQuant <https://arxiv.org/abs/1810.00861>`_, ICLR 2019
    """
    _checks.check_numbers("values", values, _checks.FINITE)
    known = np.sort(np.hstack([np.ravel(v) for v in jax.tree.leaves(values)]))
    if not known.size:
        raise ValueError(f"values must have at least one level, got {values}.")

    def solve(own):
        def nearest(x):
            steps = known.astype(x.dtype)
            result = jnp.full_like(x, steps[0])
            for low, high in itertools.pairwise(steps):
                result = jnp.where(x - low > high - x, high, result)
            return jnp.where(jnp.isnan(x), x, result)

        return each(nearest, own.x)

    return _slices.by_slice("levels", solve, ())
