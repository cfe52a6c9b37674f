"""Sets that are not convex: spheres, few numbers, few of each run, few levels.

Each finds the nearest point of its set. Where training ends then depends on
where it starts.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics
from optax_ftml.prox import _checks, _search, _slices


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
    _checks.check_numbers("radius", radius, _checks.FINITE)

    # With s over the largest, 1 + mu s is rest + nu s: rest = 1 - s is exactly
    # 0 for the largest, and nu at least 0.
    def theta(nu, x, s, rest, radius):
        below = rest + nu * s
        theta = x / jnp.where(below > 0, below, 1)
        return jnp.where(radius > 0, theta, 0)

    def square(nu, x, s, rest, radius):
        return jnp.square(x * _search.reciprocal(radius * (rest + nu * s)))

    def start(x, s, rest, radius):
        return (jnp.abs(x) * _search.reciprocal(radius) - rest) / s

    def solve(slices, radius):
        s = slices.relative_step_sizes()
        largest = jax.lax.stop_gradient(slices.max(s))
        rest = slices.map(lambda top, s: (top - s) / top, largest, s)
        s = slices.map(jnp.divide, s, largest)
        is_top = [r == 0 for r in rest]
        is_zero = slices.all(
            slices.map(lambda x, is_top: (x == 0) | ~is_top, slices.x, is_top)
        )
        is_free = slices.map(jnp.logical_and, is_zero, is_top)
        # Tiny and equal they grow alike, to what the norm lacks.
        tiny = radius / _numerics.bound(radius.dtype)
        x = slices.map(jnp.where, is_free, tiny, slices.x)
        rest = slices.map(jnp.where, is_free, 0.0, rest)
        given = x, s, rest, radius
        nu = _search.multiplier(slices, square, *given, start=start, steps=14)
        points = slices.map(theta, nu, *given)
        squares = slices.sum(slices.map(square, jnp.ones_like(nu), *given))
        is_feasible = jnp.abs(squares - 1) <= slices.rounding
        return slices.map(jnp.where, is_feasible, slices.x, points)

    return _slices.by_slice(
        "l2_sphere", solve, axis, {"radius": radius}, is_complex=True
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

    def rank(cost, edge, place):
        # Of the numbers that cost as much as the edge the first are kept.
        above = jnp.iinfo(place.dtype).max
        return jnp.where(cost < edge, -1, jnp.where(cost == edge, place, above))

    def solve(slices):
        cost = slices.map(_cost, slices.x, slices.relative_step_sizes())
        room = min(int(k), slices.size)
        edge = _edge(slices, cost, room)
        ranks = slices.map(rank, cost, edge, _places(slices))
        is_out = slices.map(jnp.less, ranks, _edge(slices, ranks, room))
        return slices.map(jnp.where, is_out, 0.0, slices.x)

    return _slices.by_slice("top_k", solve, axis, is_complex=True)


def _cost(x, s):
    """Returns what it costs to leave a number out."""
    return jnp.abs(x) / jnp.sqrt(s)


def _edge(slices, keys, room):
    """Returns the largest number that `room` or more keys reach; 0 if none."""
    dtype = keys[0].dtype
    info = jnp.finfo if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo

    def is_reached(edge):
        return slices.sum(slices.map(jnp.greater_equal, keys, edge)) >= room

    zeros = jnp.zeros(slices.shape, dtype)
    return _search.bisect(is_reached, zeros, zeros + info(dtype).max)


def _places(slices):
    """Counts down to 0 in each slice, from its first number to its last."""
    places, before = [], 0
    for x, axes in zip(slices.x, slices.axes, strict=True):
        shape = [n if i - x.ndim in axes else 1 for i, n in enumerate(x.shape)]
        place = jnp.arange(math.prod(shape), dtype=jnp.int32).reshape(shape)
        places.append(slices.size - 1 - before - place)
        before += place.size
    return places


def n_of_m(n: int, m: int, *, axis: int = -1) -> _numerics.Prox:
    r"""Keeps `n` of each run of `m` numbers along an axis, the others are 0.

    .. math::
        \theta_i = \ell_i \text{ for the } n \text{ largest }
        |\ell_i| / \sqrt{s_i} \text{ of its run, else } 0

    These cost most to drop. Among equals the first are kept. With 2 of 4 it is
    the sparsity of NVIDIA's sparse tensor cores. The set is not convex.

    Args:
        n: How many of each run may differ from 0, from 0 to `m`.
        m: The length of a run, at least 1.
        axis: The axis along which runs lie, the inputs of a layer for sparse
            tensor cores.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        TypeError: An `n` or `m` that is not an integer, an ``axis`` that is not
            an int.
        ValueError: An `n` or `m` out of its range; from the prox, an axis that
            a leaf does not have, or with a length that is no multiple of `m`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.n_of_m(1, 2)
        >>> print(f(jnp.array([2.0, -1.0, 3.0, 4.0]), jnp.ones(4)))
        [2. 0. 0. 4.]

    References:
        Mishra et al., `Accelerating Sparse Deep Neural Networks
        <https://arxiv.org/abs/2104.08378>`_, 2021; Zhou et al., `Learning N:M
        Fine-Grained Structured Sparse Neural Networks from Scratch
        <https://arxiv.org/abs/2102.04010>`_, ICLR 2021
    """
    _checks.check_integer("m", m, 1)
    _checks.check_integer("n", n, 0)
    if n > m:
        raise ValueError(f"n must be at most m, got n={n} and m={m}.")
    _checks.check_integer("axis", axis)

    def kept(x, s):
        runs = _cost(x, s).reshape(-1, m)
        one, other = runs[:, :, None], runs[:, None, :]
        is_earlier = jnp.tri(m, k=-1, dtype=bool)[None]
        is_before = (other > one) | ((other == one) & is_earlier)
        is_kept = jnp.sum(is_before, axis=-1, dtype=jnp.int32) < n
        return jnp.where(is_kept.reshape(-1), x, 0)

    def solve(slices):
        got = f"m={m} for a leaf of shape {slices.x[0].shape}"
        right = f"a divisor of the length along axis {axis}"
        _checks.check(slices.size % m == 0, "n_of_m's m", right, got)
        return slices.map_vectors(kept, slices.relative_step_sizes())

    return _slices.by_slice("n_of_m", solve, axis, is_complex=True)


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
    _checks.check_arguments(values=values)
    known = np.sort(np.hstack([np.ravel(v) for v in jax.tree.leaves(values)]))
    _checks.check(known.size, "values", "at least one level", values)

    def nearest(x):
        steps = known.astype(x.dtype)
        theta = jnp.where(jnp.isnan(x), x, steps[0])
        for low, high in itertools.pairwise(steps):
            theta = jnp.where(x - low > high - x, high, theta)
        return theta

    def solve(slices):
        return slices.map(nearest, slices.x)

    return _slices.by_slice("levels", solve, _slices.EACH)
