"""The one unknown of a slice, its multiplier: the search, and its derivative.

Most sets and penalties are of the form theta(mu), with one number mu per slice.
A set says how, by elementwise functions of mu, the leader x, the relative step
size s and what else it needs; the slices' sums are taken here.

    theta(mu, x, s, ...)   the solution, which is the leader where mu is 0
    term(mu, x, s, ...)    what is summed over the slice; it falls with mu
    left(sum)              the left side of the equation, 0 at the solution
    start(x, s, ...)       the mu at which this number alone reaches the target

The number of steps is fixed: if the last slice to converge ended the loop,
devices would ask each other after each step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _slices

# By the bytes of a number: enough for norms over eight decades of step sizes in
# float32, and over all decades that they have here in float64.
HALLEY_STEPS = {4: 6, 8: 14}


@jax.custom_jvp
def reciprocal(y: jax.Array) -> jax.Array:
    """Returns 1 / y for y >= 0, at most 2^63, with finite derivatives."""
    return 1 / jnp.maximum(y, 1 / _numerics.bound(y.dtype))


@reciprocal.defjvp
def _reciprocal_jvp(primals, tangents):
    (y,), (change,) = primals, tangents
    inverse = reciprocal(y)
    change = jnp.where(inverse < _numerics.bound(y.dtype), change, 0)
    return inverse, -inverse * (inverse * change)


def norm_is_1(squares: jax.Array) -> jax.Array:
    """The left side 1 - 1 / norm of a sum of squares, close to linear in mu.

    It is constant for norms below 1e-6, which are far inside.
    """
    return 1 - jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def multiplier(
    slices: _slices.Slices,
    term: Callable,
    *arguments: _slices.Arrays | jax.Array | float,
    start: Callable | None = None,
    left: Callable = norm_is_1,
    at_most: bool = True,
    is_inside: jax.Array | bool = True,
    steps: int | None = None,
    bisects: bool = False,
) -> jax.Array:
    """Returns the mu of each slice at which the left side is 0.

    It is 0 where the leader is feasible but for rounding: where the left side
    is 0 there, or less with `at_most`.

    Args:
        slices: The slices.
        term: What is summed.
        *arguments: What the functions are given after mu.
        start: Where Halley's method begins, from where it does not overshoot;
            None for 0.
        left: The left side. It grows with the sum.
        at_most: Whether the constraint is an inequality, and mu at least 0.
        is_inside: Per slice, whether theta(0) is the leader. For an equation,
            where theta clips as well.
        steps: How many of Halley's steps to take.
        bisects: Whether to bisect instead.
    """
    zero = jnp.zeros(slices.shape, slices.dtype)
    largest = float(jnp.finfo(slices.dtype).max)

    def left_of(mu):
        return left(slices.sum(slices.map(term, mu, *arguments)))

    at_0 = slices.map(term, zero, *arguments)
    found = slices.sum(at_0)
    slack = slices.rounding * slices.sum(slices.map(jnp.abs, at_0))
    is_feasible = left(found - slack) <= 0
    if not at_most:
        is_feasible &= (left(found + slack) >= 0) & is_inside

    def bisected(_, first):
        del first
        least = zero if at_most else zero - largest
        return bisect(lambda mu: left_of(mu) >= 0, least, zero + largest)

    def halley(_, first):
        limit = largest**0.75

        def step(_, mu):
            mu = _halley_step(slices, term, left, mu, arguments)
            return jnp.clip(mu, 0 if at_most else -limit, limit)

        number = steps or HALLEY_STEPS[slices.dtype.itemsize]
        return jax.lax.fori_loop(0, number, step, jnp.minimum(first, limit))

    first = zero
    if start is not None:
        first = slices.max(slices.map(start, *arguments))
        first = jnp.maximum(first, 0) if at_most else first
    mu = jax.lax.custom_root(
        left_of,
        jax.lax.stop_gradient(first),
        bisected if bisects else halley,
        _divide_by_slope,
    )
    # An equation's multiplier has its derivative where it is 0, too.
    at_rest = 0 if at_most else mu - jax.lax.stop_gradient(mu)
    return jnp.where(is_feasible, at_rest, mu)


def _divide_by_slope(linear, y):
    slope = linear(jnp.ones_like(y))
    return jnp.where(slope == 0, 0, y / jnp.where(slope == 0, 1, slope))


def _halley_step(slices, term, left, mu, arguments):
    # In units of mu: by a mu of 1e-18 or 1e18 derivatives overflow.
    unit = jnp.where(mu == 0, 1, jnp.abs(mu))

    def derivatives(mu, unit, *others):
        return _two_derivatives(lambda t: term(mu + unit * t, *others), mu)

    value, slope, bend = slices.sums(
        slices.map(derivatives, mu, unit, *arguments)
    )
    value, slope, bend = _two_derivatives(
        lambda t: left(value + t * (slope + t * bend / 2)), mu
    )
    slope = jnp.where(slope < 0, slope, -jnp.inf)
    newton = -value / slope
    # At most five times Newton's step.
    halley = newton / jnp.maximum(1 + newton * bend / (2 * slope), 0.2)
    return mu + unit * halley


def _two_derivatives(f, like):
    """Returns f and its first two derivatives at 0."""
    zero, one = jnp.zeros_like(like), jnp.ones_like(like)

    def first(t):
        return jax.jvp(f, (t,), (one,))

    (value, slope), (_, bend) = jax.jvp(first, (zero,), (one,))
    return value, slope, bend


def bisect(holds: Callable, low: jax.Array, high: jax.Array) -> jax.Array:
    """Finds the largest number at which a condition still holds.

    Each step halves the numbers of the dtype that lie between. As many steps as
    they have bits leave one.

    Args:
        holds: A function of an array of numbers that says of each whether the
            condition holds. From some number on it does not.
        low: The least numbers, which come back if it never holds: floats, or
            integers of at least 0.
        high: The largest.

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
    low, _ = jax.lax.fori_loop(0, 8 * dtype.itemsize, step, tuple(ends))
    return jax.lax.bitcast_convert_type(in_order(low), dtype)
