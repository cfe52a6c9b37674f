"""The one unknown of a slice, its multiplier: the search, and its derivative.

Most sets and penalties are of the form theta(mu), with one number mu per slice.
A set says how, by elementwise functions of mu, the leader x, the relative step
size s and what else it needs; the slices' sums are taken here.

    theta(mu, x, s, ...)   the solution, which is the leader where mu is 0
    term(mu, x, s, ...)    what is summed over the slice; it falls with mu
    residual(sum)          how far the sum is from what it must be; 0 at the mu
    start(x, s, ...)       the mu at which this number alone reaches the target

The number of steps is fixed: if the last slice to converge ended the loop,
devices would ask each other after each step.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _slices

# By the bytes of a number: enough for norms over eight decades of step sizes in
# float32, and over all decades that they have here in float64.
HALLEY_STEPS = {4: 6, 8: 14}


def norm_is_1(squares: jax.Array) -> jax.Array:
    """The residual 1 - 1 / norm of a sum of squares, close to linear in mu.

    It is constant for norms below 1e-6, which are far inside.
    """
    return 1 - jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def multiplier(
    slices: _slices.Slices,
    term: Callable,
    *arguments: _slices.Arrays | jax.Array | float,
    residual: Callable = norm_is_1,
    start: Callable | None = None,
    at_most: bool = True,
    steps: int | None = None,
    bisects: bool = False,
) -> jax.Array:
    """Returns the mu of each slice at which the residual is 0.

    It is 0 where the leader is feasible but for rounding: where the residual is
    0 there, or less with `at_most`.

    Args:
        slices: The slices.
        term: What is summed.
        *arguments: What term and start are given after mu.
        residual: A function of the sums. It grows with them.
        start: Where Halley's method begins, from where it does not overshoot;
            None for 0.
        at_most: Whether the constraint is an inequality, and mu at least 0.
        steps: How many of Halley's steps to take.
        bisects: Whether to bisect instead.
    """
    largest = jnp.full(slices.shape, jnp.finfo(slices.dtype).max, slices.dtype)
    zero = jnp.zeros_like(largest)
    least = zero if at_most else -largest

    def residual_at(mu):
        return residual(slices.sum(slices.map(term, mu, *arguments)))

    def solve(_, first):
        if bisects:
            return bisect(lambda mu: residual_at(mu) >= 0, least, largest)

        def step(_, mu):
            mu = mu + halley_step(slices, term, residual, mu, *arguments)
            return jnp.clip(mu, least, largest)

        number = steps or HALLEY_STEPS[slices.dtype.itemsize]
        return jax.lax.fori_loop(0, number, step, first)

    first = zero
    if start is not None:
        first = slices.max(slices.map(start, *arguments))
        first = jnp.clip(first, least, largest)
    first = jax.lax.stop_gradient(first)
    mu = jax.lax.custom_root(residual_at, first, solve, _divide_by_slope)

    def term_and_size(*arguments):
        at_0 = term(*arguments)
        return at_0, jnp.abs(at_0)

    total, size = slices.sums(slices.map(term_and_size, 0.0, *arguments))
    slack = slices.rounding * size
    is_feasible = residual(total - slack) <= 0
    if at_most:
        return jnp.where(is_feasible, 0, mu)
    is_feasible &= residual(total + slack) >= 0
    # An equation's multiplier has its derivative where it is 0, too.
    return jnp.where(is_feasible, mu - jax.lax.stop_gradient(mu), mu)


def _divide_by_slope(linear, y):
    slope = linear(jnp.ones_like(y))
    return jnp.where(slope == 0, 0, y / jnp.where(slope == 0, 1, slope))


def halley_step(
    slices: _slices.Slices, term: Callable, residual: Callable, mu, *arguments
) -> jax.Array:
    """Returns what Halley's method adds to mu; Newton's, of linear terms."""
    # In units of mu: by a mu of 1e-18 or 1e18 derivatives overflow.
    unit = jnp.where(mu == 0, 1, jnp.abs(mu))

    def derivatives(mu, unit, *others):
        return _two_derivatives(lambda t: term(mu + unit * t, *others), mu)

    total, slope, curvature = slices.sums(
        slices.map(derivatives, mu, unit, *arguments)
    )
    # From mu = 0 it may overflow. Then this is a step of Newton's.
    curvature = jnp.where(jnp.isfinite(curvature), curvature, 0)
    value, slope, curvature = _two_derivatives(
        lambda t: residual(total + t * (slope + t * curvature / 2)), mu
    )
    slope = jnp.where(slope < 0, slope, -jnp.inf)
    newton = -value / slope
    # At most five times Newton's step.
    return unit * newton / jnp.maximum(1 + newton * curvature / slope / 2, 0.2)


def _two_derivatives(f, like):
    """Returns f and its first two derivatives at 0."""
    zero, one = jnp.zeros_like(like), jnp.ones_like(like)

    def first(t):
        return jax.jvp(f, (t,), (one,))

    (value, slope), (_, curvature) = jax.jvp(first, (zero,), (one,))
    return value, slope, curvature


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


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def inverse_power(y: jax.Array, n: int) -> jax.Array:
    """Returns y^-n for y away from 0.

    Its derivatives share one division. On CPUs l2_ball takes a third less time
    than with those of a quotient.
    """
    return (1 / y) ** n


@inverse_power.defjvp
def _inverse_power_jvp(n, primals, tangents):
    (y,), (change,) = primals, tangents
    return inverse_power(y, n), -n * change * inverse_power(y, n + 1)


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
