"""The one unknown of a slice, its multiplier: the search, and its derivative.

Most sets and penalties are of the form theta(mu), with one number mu per slice.
A set says how: elementwise functions of mu, the leader x, the relative step
size s and what else it needs; the slices' sums are taken here.

    theta(mu, x, s, ...)   the solution; where mu is 0 the leader, if it is
                           feasible, bit for bit
    term(mu, x, s, ...)    what is summed over the slice; it falls with mu
    left(sum)              the left side of the equation, 0 at the solution
    start(x, s, ...)       the mu at which this number alone reaches the target

The number of steps is fixed: if the last slice to converge ended the loop,
devices would ask each other after each step.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from optax_ftml import _numerics
from optax_ftml.prox import _slices

# By the bytes of a number: enough for norms over eight decades of step sizes in
# float32, and over all of them in float64.
HALLEY_STEPS = {4: 6, 8: 14}
BISECTION = "bisection"


def multiplier(
    slices: _slices.Slices,
    theta: Callable,
    term: Callable,
    left: Callable,
    start: Callable | str | None,
    *arguments: _slices.Arrays | jax.Array,
    at_most: bool = False,
    steps: int | None = None,
) -> jax.Array:
    """Returns the mu of each slice at which the left side is 0.

    It is 0 where the leader satisfies the equation but for rounding and is
    theta(0), and with `at_most` where the left side is at most 0 there.

    Args:
        slices: The slices.
        theta: The solution.
        term: What is summed.
        left: The left side. It falls with the sum.
        start: Where Halley's method begins, from where it does not overshoot;
            None for 0, and BISECTION to bisect instead.
        *arguments: What the functions are given after mu.
        at_most: Whether mu is at least 0.
        steps: How many of Halley's steps to take.
    """
    zero = jnp.zeros(slices.shape, slices.dtype)

    def left_of(mu):
        return left(slices.sum(slices.map(term, mu, *arguments)))

    at_0 = slices.map(term, zero, *arguments)
    found = slices.sum(at_0)
    slack = slices.rounding * slices.sum(slices.map(jnp.abs, at_0))
    stays = left(found - slack) <= 0
    if not at_most:
        points = slices.map(theta, zero, *arguments)
        is_same = slices.map(jnp.equal, points, slices.x)
        stays &= (left(found + slack) >= 0) & slices.all(is_same)

    def solve(_, first):
        if start == BISECTION:
            most = jnp.full_like(zero, jnp.finfo(slices.dtype).max)
            least = first if at_most else -most
            return bisect(lambda mu: left_of(mu) >= 0, least, most)
        steps_ = steps or HALLEY_STEPS[slices.dtype.itemsize]
        return _halley(slices, term, left, first, arguments, steps_)

    if callable(start):
        first = slices.max(slices.map(start, *arguments))
        first = jnp.maximum(first, 0) if at_most else first
    else:
        first = zero
    mu = jax.lax.custom_root(
        left_of, jax.lax.stop_gradient(first), solve, _divide_by_slope
    )
    return jnp.where(stays, 0, mu)


def _divide_by_slope(linear, y):
    slope = linear(jnp.ones_like(y))
    return jnp.where(slope == 0, 0, y / jnp.where(slope == 0, 1, slope))


def _halley(slices, term, left, first, arguments, steps):
    most = float(jnp.finfo(slices.dtype).max) ** 0.75

    def step(_, carry):
        mu, least = carry
        # In units of mu, in which no derivative is huge.
        unit = jnp.where(mu == 0, 1, jnp.abs(mu))

        def derivatives(mu, unit, *others):
            return _two_derivatives(lambda t: term(mu + unit * t, *others), mu)

        value, slope, bend = slices.sums(
            slices.map(derivatives, mu, unit, *arguments)
        )
        value, slope, bend = _two_derivatives(
            lambda t: left(value + t * (slope + t * bend / 2)), mu
        )
        least = jnp.where(value >= 0, jnp.maximum(mu, least), least)
        slope = jnp.where(slope < 0, slope, -jnp.inf)
        newton = -value / slope
        rise = newton / jnp.maximum(1 + newton * bend / (2 * slope), 0.2)
        return jnp.clip(mu + unit * rise, least, most), least

    start = jnp.minimum(first, most), jnp.full_like(first, -most)
    return jax.lax.fori_loop(0, steps, step, start)[0]


def _two_derivatives(f, like):
    """Returns f and its first two derivatives at 0."""
    zero, one = jnp.zeros_like(like), jnp.ones_like(like)

    def first(t):
        return jax.jvp(f, (t,), (one,))

    (value, slope), (_, bend) = jax.jvp(first, (zero,), (one,))
    return value, slope, bend


@jax.custom_jvp
def squared_ratio(x: jax.Array, below: jax.Array) -> jax.Array:
    """Returns abs(x / below)^2 for below >= 0, the term of norms.

    Its derivatives are its multiples, which neither over- nor underflow.
    """
    return jnp.square(jnp.abs(x) * _reciprocal(below))


@functools.partial(squared_ratio.defjvp, symbolic_zeros=True)
def _squared_ratio_jvp(primals, tangents):
    (x, below), (dx, dbelow) = primals, tangents
    value, inverse = squared_ratio(x, below), _reciprocal(below)
    change = jnp.zeros_like(value)
    if not isinstance(dbelow, SymbolicZero):
        change = -2 * value * (inverse * dbelow)
    if not isinstance(dx, SymbolicZero):
        inverse = inverse.astype(x.dtype)
        product = jnp.real(x * inverse * jnp.conj(dx * inverse))
        change += 2 * product
    return value, change


@jax.custom_jvp
def _reciprocal(y):
    return 1 / jnp.maximum(y, 1 / _numerics.bound(y.dtype))


@_reciprocal.defjvp
def _reciprocal_jvp(primals, tangents):
    inverse = _reciprocal(*primals)
    return inverse, -inverse * (inverse * tangents[0])


def reciprocal_norm(squares: jax.Array) -> jax.Array:
    """The left side 1 - 1 / norm of a sum of squares, close to linear in mu.

    It is constant for norms below 1e-6, which are far inside.
    """
    is_small = squares < 1e-12
    norm = jax.lax.rsqrt(jnp.where(is_small, 1, squares))
    return jnp.where(is_small, -1e6, 1 - norm)


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
