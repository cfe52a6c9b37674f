"""The one unknown of a slice: a multiplier, by a safeguarded Newton method.

Most sets and penalties leave one number a slice to find, in which the equation
that is left is monotone. All that is needed of a slice are sums.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml.prox import _slices

MAX_ITERATIONS = 100


def root(
    f: Callable,
    start: jax.Array,
    arguments: Any = (),
    lowest: jax.typing.ArrayLike = -jnp.inf,
    highest: jax.typing.ArrayLike = jnp.inf,
) -> jax.Array:
    """Finds mu with f(mu, *arguments) = 0 for each slice, where f decreases.

    Newton's method where it stays between the points known to be on either
    side of the zero, else their middle. If the function is convex and the
    start on the left of the zero, Newton's method alone, and from the left.

    Args:
        f: The function; it has the derivative that JAX gives it.
        start: Where to start, one for each slice.
        arguments: What else it depends on.
        lowest: Below it the function is linear; a step from above stops there.
        highest: Above it the function is linear; a step from below stops there.

    Returns:
        The zeros, good to some roundings; without a gradient.
    """
    start, arguments, lowest, highest = jax.lax.stop_gradient(
        (start, arguments, lowest, highest)
    )
    close = 2 * float(jnp.finfo(start.dtype).eps)

    def step(carry):
        mu, lower, upper, moves, count = carry
        value, slope = _value_and_slope(f, mu, arguments)
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
        size = jnp.maximum(jnp.abs(mu), jnp.abs(after))
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


def newton_step(f: Callable, mu: jax.Array, arguments: Any) -> jax.Array:
    """One more step of Newton's method, through which gradients flow.

    At the zero its derivative is the zero's own, by the implicit function
    theorem.
    """
    value, slope = _value_and_slope(f, jax.lax.stop_gradient(mu), arguments)
    return (
        -value / jnp.where(slope < 0, slope, -1) * (slope < 0).astype(mu.dtype)
    )


def _value_and_slope(f, mu, arguments):
    return jax.jvp(lambda mu: f(mu, *arguments), (mu,), (jnp.ones_like(mu),))


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

    def value(mu, x, direction, weight, target, lower, upper):
        points = own.each(_clip, mu, x, direction, lower, upper)
        return own.sum(_slices.each(jnp.multiply, weight, points)) - target

    others = (direction, weight, target, lower, upper)
    mu = root(value, start, (own.x, *others), *limits)
    # What is left of the leaders is as small as the solution: the last step
    # does not cancel.
    x = own.each(lambda mu, x, d: x - mu * d, mu, own.x, direction)
    last = newton_step(value, jnp.zeros_like(mu), (x, *others))
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
) -> jax.Array:
    """Solves || x / (a + mu b) || = radius for mu >= 0.

    The reciprocal of the norm is concave in mu and close to linear, so that
    three or four steps of Newton's method find its zero, from the left.

    Args:
        own: The slice.
        a: At least 0.
        b: At least 0, and above it where a is 0.
        radius: Above 0.

    Returns:
        The solution; 0 where the norm is below the radius already there.
    """
    size = _slices.each(jnp.abs, own.x)
    # No term alone exceeds the radius.
    start = own.max(
        own.each(lambda r, x, a, b: (x / r - a) / b, radius, size, a, b)
    )
    start = jnp.maximum(start, 0)

    def value(mu, x, a, b, radius):
        ratios = own.each(
            lambda r, x, q: x / r / q,
            radius,
            x,
            own.each(_positive, mu, a, b),
        )
        squares = own.sum(_slices.each(jnp.square, ratios))
        return 1 - jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))

    arguments = (size, a, b, radius)
    mu = root(value, start, arguments, jnp.zeros_like(start))
    return jnp.maximum(mu + newton_step(value, mu, arguments), 0)


def _positive(mu, a, b):
    denominator = a + mu * b
    return jnp.where(denominator > 0, denominator, 1)
