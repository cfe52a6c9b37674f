"""The one unknown of a slice, a multiplier: by bisection, or Halley's method.

Most sets and penalties leave one number a slice to find, in an equation whose
left side is monotone. All that is needed of a slice are sums. The number of
steps is fixed: if the last slice to converge ended the loop, devices would ask
each other after each step, even where every slice lies whole on one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml.prox import _slices
from optax_ftml.prox._slices import each

# By the bytes of a number: enough for step sizes over eight decades in float32,
# and over all of them in float64.
HALLEY_STEPS = {4: 6, 8: 14}


def bisect(
    holds: Callable, low: jax.Array, high: jax.Array, steps: int | None = None
) -> jax.Array:
    """Finds the largest number at which a condition still holds.

    Each step halves the numbers of the dtype that lie between. As many steps as
    they have bits leave one.

    Args:
        holds: A function of an array of numbers that says of each whether the
            condition holds. From some number on it does not.
        low: The least numbers, which come back if it never holds: floats, or
            integers of at least 0.
        high: The largest.
        steps: How many; as many as the numbers have bits by default.

    Returns:
        The numbers, without a gradient.
    """
    dtype = low.dtype
    integer = jnp.dtype(f"int{8 * dtype.itemsize}")

    def in_order(bits):
        return jnp.where(bits < 0, bits ^ jnp.iinfo(integer).max, bits)

    def step(_, ends):
        low, high = ends
        middle = (low | high) - ((low ^ high) >> 1)
        number = jax.lax.bitcast_convert_type(in_order(middle), dtype)
        is_low = holds(number)
        return (
            jnp.where(is_low, middle, low),
            jnp.where(is_low, high, middle - 1),
        )

    ends = (
        in_order(jax.lax.bitcast_convert_type(end, integer))
        for end in jax.lax.stop_gradient((low, high))
    )
    low, _ = jax.lax.fori_loop(
        0, steps or 8 * dtype.itemsize, step, tuple(ends)
    )
    return jax.lax.bitcast_convert_type(in_order(low), dtype)


def clipped(
    own: _slices.Slice,
    direction: _slices.Arrays,
    weight: _slices.Arrays,
    target: jax.Array,
    lower: _slices.Arrays,
    upper: _slices.Arrays,
) -> _slices.Arrays:
    """Solves theta = clip(x - mu direction), sum(weight theta) = target.

    Args:
        own: The slice.
        direction: The step size times the weight.
        weight: The weights.
        target: The weighted sum of each slice.
        lower: The lower bounds.
        upper: The upper bounds.

    Returns:
        The solution, leaf by leaf.
    """

    def excess(x, weight, target, lower, upper):
        points = each(jnp.clip, x, lower, upper)
        return own.sum(each(jnp.multiply, weight, points)) - target, points

    def move(mu, x, direction):
        return own.each(lambda mu, x, d: x - mu * d, mu, x, direction)

    others = (weight, target, lower, upper)
    x, d, *rest = jax.lax.stop_gradient((own.x, direction, *others))
    most = own.full(jnp.finfo(own.dtype).max, own.dtype)
    mu = bisect(lambda mu: excess(move(mu, x, d), *rest)[0] >= 0, -most, most)
    x = move(mu, own.x, direction)
    for _ in range(2):  # The solution, and what its rounding has left.
        value, points = excess(x, *others)
        # What is at a bound counts as free, so that no step goes too far.
        free = each(
            lambda x, p, d: jnp.where(x == p, d, 0), x, points, direction
        )
        slope = own.sum(each(jnp.multiply, weight, free))
        step = jnp.where(slope > 0, value / jnp.where(slope > 0, slope, 1), 0)
        x = move(step, x, direction)
    return each(jnp.clip, x, lower, upper)


def secular(
    own: _slices.Slice,
    a: _slices.Arrays,
    b: Callable,
    norm: jax.typing.ArrayLike = 1.0,
) -> tuple[jax.Array, _slices.Arrays]:
    """Solves || x / (a + mu b) || = norm for mu >= 0.

    The reciprocal of the left side is close to linear in mu, and Halley's
    method finds its zero in a few steps, none of them above five of Newton's:
    from where no number alone makes the norm too large, if that is not at 0,
    and else from 0.

    Args:
        own: The slice.
        a: At least 0.
        b: A function of a factor of each slice, leaf by leaf linear in it; its
            values at least 0, and above it where a is 0. XLA writes out what
            does not change from step to step, but not this.
        norm: The norm of each slice, above 0.

    Returns:
        The solution, 0 where but for rounding the norm is not larger already
        there, and with it a + mu b, above 0.
    """
    norm = jnp.asarray(norm, own.dtype)
    left = functools.partial(_left, own.sum)
    mu = _halley(own, *jax.lax.stop_gradient((own.x, a)), b, norm)
    values = b(jnp.ones_like(mu))
    mu = _implicit(left, mu, (own.x, a, values, norm))
    return mu, own.each(_positive, mu, a, values)


def _positive(mu, a, b):
    return jnp.maximum(a + mu * b, jnp.finfo(a.dtype).tiny)


def _left(total, mu, x, a, b, norm):
    def square(x, a, b):
        m, n = mu.astype(a.dtype), norm.astype(a.dtype)
        return jnp.square(jnp.abs(x / (n * _positive(m, a, b))))

    squares = total(each(square, x, a, b))
    return 1 - jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))


def _halley(own, x, a, b, norm):
    most = float(jnp.finfo(own.dtype).max) / 8

    def terms(norm, x, below, b):
        info = jnp.finfo(b.dtype)
        inverse = 1 / jnp.maximum(norm * below, info.tiny)
        square = jnp.square(jnp.abs(x * inverse))
        # Not infinite, for 0 times it would be NaN.
        rate = jnp.minimum(norm * b * inverse, float(info.max) ** 0.5)
        return square, square * rate, square * rate * rate

    def at_0(norm, x, a, b):
        alone = (jnp.abs(x) / norm - (1 + own.rounding) * a) / b
        return alone, *terms(norm, x, a, b)

    def rises(moves, s0, s1, s2):
        s0, s1, s2 = (jnp.where(moves, s, 1) for s in (s0, s1, s2))
        newton = jnp.minimum((jnp.sqrt(s0) - 1) * (s0 / s1), most)
        bend = 1.5 * newton * (s2 / s1 - s1 / s0)
        halley = newton / jnp.maximum(1 - bend, 0.2)
        return (jnp.where(moves, rise, 0) for rise in (newton, halley))

    def step(_, mu):
        # In units of mu, which stays 0 where nothing has to move.
        unit = jnp.where(mu > 0, mu, 1)
        lists = own.each(
            lambda norm, x, a, b: terms(norm, x, a + b, b), norm, x, a, b(unit)
        )
        sums = own.reduce(lists, (jnp.add,) * 3)
        _, rise = rises((mu > 0) & (sums[1] > 0), *sums)
        return jnp.clip(mu + unit * rise, least, most)

    lists = own.each(at_0, norm, x, a, b(jnp.ones_like(norm)))
    alone, *sums = own.reduce(lists, (jnp.maximum, *(jnp.add,) * 3))
    # What is in the set but for rounding stays.
    is_outside = (sums[0] > 1 + own.rounding) & (sums[1] > 0)
    newton, halley = rises((alone <= 0) & is_outside, *sums)
    # Newton's method never leads beyond the zero.
    least = jnp.clip(alone, newton, most)
    mu = jnp.clip(halley, least, most)
    return jax.lax.fori_loop(0, HALLEY_STEPS[own.dtype.itemsize], step, mu)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit(left: Callable, mu: jax.Array, arrays: Any) -> jax.Array:
    """Returns mu, with the derivative of the zero of the left side."""
    del left, arrays
    return mu


@_implicit.defjvp
def _implicit_jvp(left, primals, tangents):
    mu, arrays = primals
    _, slope = jax.jvp(
        lambda mu: left(mu, *arrays), (mu,), (jnp.ones_like(mu),)
    )
    _, change = jax.jvp(
        lambda arrays: left(mu, *arrays), (arrays,), (tangents[1],)
    )
    is_zero = (slope < 0) & (mu > 0)
    return mu, jnp.where(is_zero, -change / jnp.where(is_zero, slope, -1), 0)
