"""The one unknown of a slice: a multiplier, by a safeguarded Newton method.

Most sets and penalties leave one number a slice to find, in which the equation
that is left is monotone. All that is needed of a slice are sums.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_ftml.prox import _slices

MAX_ITERATIONS = 100


class Equation(NamedTuple):
    """One equation for each slice, whose left side decreases.

    Attributes:
        total: Sums lists of arrays over each slice, several at a time.
        terms: A function of the multiplier and of `arrays`, with the derivative
            that JAX gives it; it returns a list of arrays.
        left: The left side: a function of the terms' sum and of `numbers`.
        arrays: What the terms depend on.
        numbers: What else the left side depends on.
    """

    total: Callable
    terms: Callable
    left: Callable
    arrays: Any = ()
    numbers: Any = ()

    def __call__(self, mu: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the left side and its derivative."""
        terms, slopes = jax.jvp(
            lambda mu: self.terms(mu, *self.arrays),
            (mu,),
            (jnp.ones_like(mu),),
        )
        total, slope = self.total(terms, slopes)
        return jax.jvp(
            lambda total: self.left(total, *self.numbers), (total,), (slope,)
        )


def root(
    equation: Equation,
    start: jax.Array,
    lowest: jax.typing.ArrayLike = -jnp.inf,
    highest: jax.typing.ArrayLike = jnp.inf,
    unit: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """Finds the multiplier at which the left side is 0.

    Newton's method where it stays between the points known to be on either
    side of the zero, else their middle. If the left side is convex and the
    start on the left of the zero, Newton's method alone, and from the left.

    Args:
        equation: The equation.
        start: Where to start, one for each slice.
        lowest: Below it the left side is linear; a step from above stops there.
        highest: Above it the left side is linear; a step from below stops
            there.
        unit: The size of a multiplier whose rounding does not matter.

    Returns:
        The multipliers, good to some roundings; without a gradient.
    """
    start, lowest, highest, unit, arrays, numbers = jax.lax.stop_gradient(
        (start, lowest, highest, unit, equation.arrays, equation.numbers)
    )
    equation = equation._replace(arrays=arrays, numbers=numbers)
    close = 2 * float(jnp.finfo(start.dtype).eps)

    def step(carry):
        mu, lower, upper, moves, count = carry
        value, slope = equation(mu)
        lower = jnp.where(value > 0, mu, lower)
        upper = jnp.where(value < 0, mu, upper)
        newton = mu - value / jnp.where(slope < 0, slope, -1)
        # Beyond the lowest and the highest it is exact, and so need not stop.
        newton = jnp.clip(
            newton, jnp.minimum(mu, lowest), jnp.maximum(mu, highest)
        )
        is_good = (slope < 0) & (newton > lower) & (newton < upper)
        is_between = (lower > -jnp.inf) & (upper < jnp.inf)
        middle = (
            jnp.where(is_between, lower, 0) / 2
            + jnp.where(is_between, upper, 0) / 2
        )
        far = jnp.where(value > 0, highest, lowest)
        far = jnp.where(jnp.isfinite(far), far, mu)
        after = jnp.where(is_between, middle, far)
        after = jnp.where(is_good, newton, after)
        after = jnp.where(moves & (value != 0), after, mu)
        size = jnp.maximum(jnp.maximum(jnp.abs(mu), jnp.abs(after)), unit)
        moves = moves & (jnp.abs(after - mu) > close * size)
        return after, lower, upper, moves, count + 1

    def goes_on(carry):
        *_, moves, count = carry
        return jnp.any(moves) & (count < MAX_ITERATIONS)

    mu, *_ = jax.lax.while_loop(
        goes_on,
        step,
        (
            start,
            jnp.full_like(start, -jnp.inf),
            jnp.full_like(start, jnp.inf),
            start == start,
            jnp.zeros([], jnp.int32),
        ),
    )
    return mu


def newton_step(equation: Equation, mu: jax.Array) -> jax.Array:
    """One more step of Newton's method, through which gradients flow.

    At the zero its derivative is the zero's own, by the implicit function
    theorem.
    """
    value, slope = equation(jax.lax.stop_gradient(mu))
    step = -value / jnp.where(slope < 0, slope, -1)
    return jnp.where(slope < 0, step, 0)


def clipped(
    own: _slices.Slice,
    direction: _slices.Arrays,
    weight: _slices.Arrays,
    target: jax.Array,
    lower: _slices.Arrays,
    upper: _slices.Arrays,
    start: jax.Array,
    *limits: jax.Array,
) -> _slices.Arrays:
    """Solves theta = clip(x - mu direction), sum(weight theta) = target.

    Args:
        own: The slice.
        direction: The step size times the weight.
        weight: The weights.
        target: The weighted sum of each slice.
        lower: The lower bounds.
        upper: The upper bounds.
        start: Where to start.
        *limits: The `lowest` and the `highest` of `root`.

    Returns:
        The solution, leaf by leaf.
    """

    def terms(mu, x, direction, weight, lower, upper):
        points = own.each(_clip, mu, x, direction, lower, upper)
        return _slices.each(jnp.multiply, weight, points)

    others = (direction, weight, lower, upper)
    equation = Equation(
        own.sums, terms, jnp.subtract, (own.x, *others), (target,)
    )
    mu = root(equation, start, *limits)
    # What is left of the leaders is as small as the solution: the last step
    # does not cancel.
    x = own.each(lambda mu, x, d: x - mu * d, mu, own.x, direction)
    equation = equation._replace(arrays=(x, *others))
    last = newton_step(equation, jnp.zeros_like(mu))
    return own.each(_clip, last, x, direction, lower, upper)


def _clip(mu, x, direction, lower, upper):
    # At a bound the derivative is that of the free side: the steeper one, with
    # which Newton's method cannot go too far.
    moved = x - mu * direction
    moved = jnp.where(moved < lower, lower, moved)
    return jnp.where(moved > upper, upper, moved)


def secular(
    own: _slices.Slice,
    a: _slices.Arrays,
    b: _slices.Arrays,
    radius: jax.Array,
) -> tuple[jax.Array, _slices.Arrays]:
    """Solves || x / (a + mu b) || = radius for mu >= 0.

    The reciprocal of the norm is concave in mu and close to linear, so that
    three or four steps of Newton's method find its zero, from the left.

    Args:
        own: The slice.
        a: At least 0.
        b: At least 0, and above it where a is 0.
        radius: Above 0.

    Returns:
        The solution, 0 where the norm is below the radius already there, and
        with it a + mu b, or 1 for 0.
    """
    size = _slices.each(jnp.abs, own.x)
    # No term alone exceeds the radius.
    start = own.max(
        own.each(lambda r, x, a, b: (x / r - a) / b, radius, size, a, b)
    )
    most = float(jnp.finfo(start.dtype).max) / 8
    start = jax.lax.stop_gradient(jnp.clip(start, 0, most))
    scale = jnp.where(start > 0, start, 1)
    # From there on, with mu = start + scale nu, all quotients are moderate.
    below = own.each(_positive, start, a, b)
    terms = own.each(lambda r, x, q: x / r / q, radius, size, below)
    rates = own.each(lambda c, b, q: c * b / q, scale, b, below)

    def squares(nu, terms, rates):
        return _slices.each(
            lambda y, c: jnp.square(y / (1 + nu.astype(y.dtype) * c)),
            terms,
            rates,
        )

    def left(squares):
        return 1 - jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))

    equation = Equation(own.sums, squares, left, (terms, rates))
    unit = (start > 0).astype(start.dtype)
    nu = _secant(own, equation, own.max(rates), unit)
    nu = _implicit(own.sums, squares, left, nu, (terms, rates))
    return start + scale * nu, own.each(
        lambda n, q, c: q * (1 + n * c), nu, below, rates
    )


def _secant(own, equation, fastest, unit):
    """The zero of a left side that is convex, from the left.

    A secant through two points on the left of the zero meets 0 before it. One
    sum a step, where Newton's method takes two, and hardly more steps.
    """
    arrays, fastest, unit = jax.lax.stop_gradient(
        (equation.arrays, fastest, unit)
    )
    close = 2 * float(jnp.finfo(fastest.dtype).eps)

    def value(nu):
        return equation.left(own.sum(equation.terms(nu, *arrays)))

    def step(carry):
        before, value_before, nu, moves, count = carry
        now = value(nu)
        rise, run = value_before - now, nu - before
        is_left = moves & (now > 0) & (rise > 0) & (run > 0)
        after = nu + jnp.where(
            is_left, now * run / jnp.where(rise > 0, rise, 1), 0
        )
        size = jnp.maximum(jnp.abs(after), unit)
        return nu, now, after, after - nu > close * size, count + 1

    def goes_on(carry):
        *_, moves, count = carry
        return jnp.any(moves) & (count < MAX_ITERATIONS)

    zeros = jnp.zeros_like(fastest)
    first = value(zeros)
    # No term shrinks faster than by the largest rate.
    norm = 1 / jnp.where(first < 1, 1 - first, 1)
    bound = jnp.maximum(norm - 1, 0) / jnp.where(fastest > 0, fastest, 1)
    *_, nu, _, _ = jax.lax.while_loop(
        goes_on,
        step,
        (zeros, first, bound, bound > 0, jnp.zeros([], jnp.int32)),
    )
    return nu


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _implicit(total, terms, left, mu, arrays):
    """Returns mu, with the derivative of the zero of the left side."""
    del total, terms, left, arrays
    return mu


@_implicit.defjvp
def _implicit_jvp(total, terms, left, primals, tangents):
    mu, arrays = primals
    equation = Equation(total, terms, left, arrays)
    _, slope = equation(mu)
    _, change = jax.jvp(
        lambda arrays: left(total(terms(mu, *arrays))[0]),
        (arrays,),
        (tangents[1],),
    )
    is_zero = (slope < 0) & (mu > 0)
    return mu, jnp.where(is_zero, -change / jnp.where(is_zero, slope, -1), 0)


def _positive(mu, a, b):
    denominator = a + mu * b
    return jnp.where(denominator > 0, denominator, 1)
