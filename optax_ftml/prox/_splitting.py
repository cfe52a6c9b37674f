"""Douglas-Rachford splitting: a prox in a metric, by Euclidean ones.

With x the Euclidean prox of l + (s - a) q, of step size a, x solves and -q is
the force there, where the residual x - l - s q is 0, whatever a. The plain
step, to add the residual over s + a to q, makes no residual larger. Anderson's
acceleration goes from there to where the last steps say that it vanishes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_ftml.prox import _slices
from optax_ftml.prox._slices import Arrays

MEMORY = 5  # steps


def each(function: Callable, *lists: Arrays) -> Arrays:
    """Maps over the leaves."""
    return [function(*leaves) for leaves in zip(*lists, strict=True)]


class _State(NamedTuple):
    """Where the iteration stands.

    Attributes:
        x: The last solution.
        q: Where the residual comes next.
        alpha: The step size of the Euclidean prox.
        slack: How far, in the logarithm, alpha may be from the best.
        at: The q of the smallest residual since alpha changed.
        residual: That residual.
        size: Its norm; the largest number where there is none.
        best: The best alpha for it.
        is_plain: Whether q is a plain step from there.
        steps: For each of the last steps (an axis in front) what it adds to q
            beyond the plain step, and to the residual: orthogonal, of norm 1.
        goes_on: Whether the solution is not yet good enough.
        number: How many residuals there have been.
    """

    x: Arrays
    q: Arrays
    alpha: jax.Array  # ()
    slack: jax.Array  # ()
    at: Arrays
    residual: Arrays
    size: jax.Array  # ()
    best: jax.Array  # ()
    is_plain: jax.Array  # () bool
    steps: tuple[Arrays, Arrays]
    goes_on: jax.Array  # () bool
    number: jax.Array  # () int32


def solve(
    f: Callable[[Arrays, jax.Array], Arrays],
    leader: Arrays,
    s: Arrays,
    tolerance: float,
    max_iterations: int,
) -> tuple[Arrays, Arrays]:
    """Returns the solution, and the q there.

    Args:
        f: The Euclidean prox, of arrays and a step size.
        leader: The leaves.
        s: Their step sizes, above 0 and at most 1.
        tolerance: How far from the solution to end, relative to how far that is
            from the leader.
        max_iterations: The most residuals.
    """
    own = _slices.Slices(
        leader, s, [tuple(range(leaf.ndim)) for leaf in leader]
    )
    largest = own.max(each(jnp.abs, leader))
    none_yet = jnp.asarray(jnp.finfo(own.dtype).max, own.dtype)

    def dot(a, b):
        return own.sum(each(lambda a, b: jnp.real(a * jnp.conj(b)), a, b))

    def plain(alpha, q, residual):
        return own.map(
            lambda alpha, s, q, r: q + r / (s + alpha), alpha, s, q, residual
        )

    def remember(now, residual):
        """The steps, with the one to here from the smallest residual."""
        is_first = now.size == none_yet
        moved, change = (
            each(lambda a, b: jnp.where(is_first, 0, a - b), here, there)
            for here, there in ((now.q, now.at), (residual, now.residual))
        )
        new = plain(now.alpha, moved, change), change
        along = jax.vmap(dot, (0, None))(now.steps[1], change)
        new = jax.tree.map(jnp.subtract, new, _combine(along, now.steps))
        norm = jnp.sqrt(dot(new[1], new[1]))
        is_new = norm > jnp.sqrt(jnp.finfo(own.dtype).eps * dot(change, change))
        scale = jnp.where(is_new, 1 / jnp.where(is_new, norm, 1), 0)
        return jax.tree.map(
            lambda steps, a: steps.at[now.number % MEMORY].set(
                a * scale.astype(a.dtype)
            ),
            now.steps,
            new,
        )

    def step(now):
        x = f(point(leader, s, now.q, now.alpha), now.alpha)
        residual = each(lambda x, at, s, q: x - at - s * q, x, leader, s, now.q)
        size = jnp.sqrt(dot(residual, residual))
        # What is left after so long is more and more the rounding of f's.
        late = jnp.maximum(now.number - 40, 0).astype(own.dtype) / 20
        rounding = late * largest
        seen = own.map(_beyond_rounding, rounding, residual, x, leader)
        # Strong convexity bounds the distance by a subgradient's norm.
        bound = own.sum(
            own.map(
                lambda alpha, s, r: jnp.square(r * (1 - s / alpha)) / s,
                now.alpha,
                s,
                seen,
            )
        )
        moved = each(jnp.subtract, x, leader)
        goes_on = bound > jnp.square(tolerance) * dot(moved, moved)

        is_worse = size > now.size
        steps = remember(now, residual)
        gains = jax.vmap(dot, (0, None))(steps[1], residual)
        ahead = each(
            jnp.subtract,
            plain(now.alpha, now.q, residual),
            _combine(gains, steps[0]),
        )
        back = plain(now.alpha, now.at, now.residual)

        # Where the bound is least, for these residuals.
        least = dot(seen, seen)
        best = own.sum(each(lambda s, r: s * r * r, s, seen)) / jnp.where(
            least > 0, least, 1
        )
        best = jnp.where(is_worse, now.best, best)
        is_stuck = is_worse & now.is_plain
        is_full = now.number % (MEMORY + 1) == MEMORY
        off = jnp.abs(jnp.log(jnp.where(best > 0, best / now.alpha, 1)))
        changes = (is_stuck | is_full) & (off > now.slack)
        return _State(
            x=x,
            q=own.where(is_worse, back, ahead),
            alpha=jnp.where(changes, best, now.alpha),
            slack=jnp.where(changes, 1.1 * now.slack, now.slack),
            at=own.where(is_worse, now.at, now.q),
            residual=own.where(is_worse, now.residual, residual),
            size=jnp.where(changes, none_yet, jnp.minimum(size, now.size)),
            best=best,
            is_plain=is_worse | (now.size == none_yet),
            steps=jax.tree.map(
                lambda a: jnp.where(changes | is_full, 0, a), steps
            ),
            goes_on=goes_on & (changes | ~is_stuck),
            number=now.number + 1,
        )

    zeros = each(jnp.zeros_like, leader)
    none = each(lambda x: jnp.zeros((MEMORY, *x.shape), x.dtype), leader)
    end = jax.lax.while_loop(
        lambda now: now.goes_on & (now.number < max_iterations),
        step,
        _State(
            x=leader,
            q=zeros,
            alpha=jnp.sqrt(-own.max(each(jnp.negative, s))),
            slack=jnp.ones([], own.dtype),
            at=zeros,
            residual=zeros,
            size=none_yet,
            best=jnp.zeros([], own.dtype),
            is_plain=jnp.zeros([], bool),
            steps=(none, none),
            goes_on=jnp.ones([], bool),
            number=jnp.zeros([], jnp.int32),
        ),
    )
    return end.x, end.q


def point(leader: Arrays, s: Arrays, q: Arrays, alpha: jax.Array) -> Arrays:
    """Where the Euclidean prox of step size alpha is taken."""
    return each(
        lambda x, s, q: x + (s - alpha.astype(s.dtype)) * q, leader, s, q
    )


def _combine(numbers, steps):
    """The sum of the steps times their numbers."""
    return jax.tree.map(
        lambda a: jnp.sum(
            jax.vmap(jnp.multiply)(numbers.astype(a.dtype), a), axis=0
        ),
        steps,
    )


def _beyond_rounding(rounding, residual, x, leader):
    """The modulus of a residual, less what may be rounding of its terms."""
    eps = jnp.finfo(x.dtype).eps
    terms = rounding + jnp.maximum(jnp.abs(x), jnp.abs(leader))
    return jnp.maximum(jnp.abs(residual) - eps * terms, 0)
