"""Proxes that iterate: Anderson's acceleration, guarded, and the derivative.

Proxes without a formula repeat z -> z + residual(z), which is nonexpansive,
until the residual vanishes. How it changed over the last few moves says
where it would be 0 if it were linear, and the iteration goes there. It stays
there if the residual still points along the move and is not many times as large
as before. If not, the move went too far, and the plain step from the point
before replaces it. (The size of the residual alone would not do as a test: far
from the solution it can be small and all but constant.) While it hardly
changes, the plain steps double; then they become shorter again.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.sparse.linalg

from optax_ftml.prox import _checks, _slices

MEMORY = 3  # moves
BACK = 0.1  # how far back a residual may point, relative to the one before
GROWTH = 10  # how many times as large as the one before it may be
NOISE = 1e-4  # the relative change below which it is rounding
CONSTANT = 0.03  # the relative change below which a residual is constant
FIRST = 100.0  # the relative step size where there has been no gradient yet

each = jax.tree.map


class _State(NamedTuple):
    """Where the iteration stands.

    Attributes:
        z: The last point that was good enough to stay, a tree.
        residual: Its residual.
        move: What is added to z next.
        is_plain: Whether that is the residual, and the next point stays.
        stretch: How many residuals long a plain move is.
        history: The last moves, with an axis in front, and what they added to
            the residual.
        goes_on: Whether the solution is not yet good enough.
        number: How many residuals there have been.
    """

    z: Any
    residual: Any
    move: Any
    is_plain: jax.Array | bool
    stretch: jax.Array | float
    history: Any
    goes_on: jax.Array | bool
    number: jax.Array | int


def iterate(
    residual: Callable[[Any], tuple[Any, jax.Array]],
    start: Any,
    max_steps: int | jax.Array,
) -> _State:
    """Iterates until the residual is good enough, or for so many steps.

    Args:
        residual: A function of z that returns the residual, and whether it is
            not yet good enough.
        start: The first z, a tree.
        max_steps: How many residuals to take at most.
    """

    def step(now):
        z = each(jnp.add, now.z, now.move)
        r, goes_on = residual(z)
        is_first = now.number == 0
        change = each(
            lambda new, old: jnp.where(is_first, 0, new - old), r, now.residual
        )
        history = each(
            lambda rows, row: rows.at[now.number % MEMORY].set(row),
            now.history,
            (now.move, change),
        )

        is_along = dot(r, now.move) >= -BACK * dot(now.residual, now.move)
        is_near = norm(r) <= GROWTH * norm(now.residual)
        stays = (is_along & is_near) | now.is_plain | ~goes_on
        z, r = each(
            lambda new, old: jnp.where(stays, new, old),
            (z, r),
            (now.z, now.residual),
        )

        is_constant = stays & (norm(change) < CONSTANT * norm(now.residual))
        shorter = jnp.maximum(now.stretch / 4, 1)
        stretch = jnp.where(is_constant, 2 * now.stretch, shorter)
        move = _anderson(r, *history)
        is_plain = ~stays | is_constant | (dot(r, move) <= 0)
        move = each(lambda r, m: jnp.where(is_plain, stretch * r, m), r, move)
        is_plain &= stretch == 1
        number = now.number + 1
        return _State(z, r, move, is_plain, stretch, history, goes_on, number)

    zeros = each(jnp.zeros_like, start)
    none = each(lambda x: jnp.zeros((MEMORY, *x.shape), x.dtype), start)
    return jax.lax.while_loop(
        lambda now: now.goes_on & (now.number < max_steps),
        step,
        _State(start, zeros, zeros, True, 1.0, (none, none), True, 0),
    )


def _anderson(residual, moves, changes):
    """Returns the move to where a linear residual would be 0.

    That is residual - shares @ (moves + changes), with the shares for which
    shares @ changes is nearest to the residual. Changes that may be rounding
    have no share.
    """
    products = jax.vmap(jax.vmap(dot, (None, 0)), (0, None))(changes, changes)
    sizes = jnp.sqrt(jnp.diagonal(products))
    is_known = sizes > NOISE * norm(residual)
    scale = 1 / jnp.where(is_known, sizes, jnp.inf)
    ridge = 10 * jnp.finfo(scale.dtype).eps * jnp.eye(MEMORY, dtype=scale.dtype)
    shares = scale * jnp.linalg.solve(
        products * jnp.outer(scale, scale) + ridge,
        scale * jax.vmap(dot, (0, None))(changes, residual),
    )
    return each(
        lambda r, m, c: (
            r - jnp.tensordot(shares, m + c, 1, precision="highest")
        ),
        residual,
        moves,
        changes,
    )


def dot(a: Any, b: Any) -> jax.Array:
    """Returns the inner product of two trees."""
    sums = each(lambda x, y: jnp.sum(x * y), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(sums))


def norm(a: Any) -> jax.Array:
    """Returns the Euclidean norm of a tree."""
    return jnp.sqrt(dot(a, a))


def beyond_rounding(residual: jax.Array, *numbers: jax.Array) -> jax.Array:
    """Returns how much of it is not the rounding of these numbers."""
    size = functools.reduce(jnp.maximum, map(jnp.abs, numbers))
    rounding = 4 * jnp.finfo(size.dtype).eps * size
    return jnp.maximum(jnp.abs(residual) - rounding, 0)


def root(
    residual: Callable, solve: Callable, start: Any, tolerance: float
) -> tuple[Any, Any]:
    """Returns the z where the residual is 0, with its derivative.

    Args:
        residual: A function of z. What it closes over may have derivatives.
        solve: A function of `start` that returns z, and what z does not depend
            on.
        start: The first z, a tree.
        tolerance: The relative error of the linear equation for the derivative.
    """

    def invert(matvec, y):
        return jax.scipy.sparse.linalg.gmres(
            matvec, y, tol=tolerance, maxiter=50, solve_method="incremental"
        )[0]

    def tangent_solve(slope, y):
        # One vector, for JAX cannot transpose where some of several are known.
        y, as_tree = jax.flatten_util.ravel_pytree(y)

        def matvec(v):
            return jax.flatten_util.ravel_pytree(slope(as_tree(v)))[0]

        # GMRES alone has no transpose.
        return as_tree(jax.lax.custom_linear_solve(matvec, y, invert, invert))

    return jax.lax.custom_root(
        residual, start, lambda _, z: solve(z), tangent_solve, has_aux=True
    )


class Problem:
    """A leader and its step sizes as lists of real arrays, in units of `unit`.

    Attributes:
        x: The leader over `unit`, in one dtype of at least float32. Complex
            numbers are two.
        s: The relative step sizes. Those below rounding of the largest are
            raised to it. Where there has been no gradient yet the step size is
            FIRST times the largest of the others, and these go first. (All are
            1 where all step sizes are 0.)
        unit: Powers of two, so that nothing is rounded: at most twice the
            largest modulus of the leader times `scale(s)`. Where the scale is
            the root of s, norms are within a factor of two of those in the
            metric.
        middle: The geometric mean of the smallest and the largest of s.
        largest: The largest step size where there has been a gradient, of shape
            (); 0 if there has been none at all.
    """

    def __init__(self, name: str, leader: Any, step_size: Any, scale: Callable):
        _, self._leaves, steps = _checks.leaves_of(
            name, leader, step_size, is_complex=True
        )
        self._structure = jax.tree.structure(leader)
        axes = [tuple(range(-s.ndim, 0)) for s in steps]
        whole = _slices.Slices(each(jnp.abs, self._leaves), steps, axes)
        self.largest = whole.largest_step_size()
        eps = jnp.finfo(whole.dtype).eps
        s = [jnp.clip(s, eps, FIRST) for s in whole.relative_step_sizes()]
        middle = jnp.sqrt(whole.max(s) / whole.max(each(jnp.reciprocal, s)))
        self.middle = jax.lax.stop_gradient(middle)

        def power_of_2(s):
            size = whole.max(whole.x) * scale(s)
            _, exponent = jnp.frexp(size)
            return jnp.ldexp(jnp.ones_like(size), exponent)

        self.unit = jax.lax.stop_gradient(each(power_of_2, s))
        self.x = self._without_units(self._leaves)
        self.s = each(lambda s, x: jnp.broadcast_to(s, x.shape), s, self.x)

    def apply(self, prox: Callable, x: Any, step_size: Any) -> Any:
        """Calls a prox on the tree of x, and returns such a list."""
        tree = self.tree(x)
        theta = prox(tree, step_size)
        _checks.check_like_leader(theta, tree)
        return self._without_units(jax.tree.leaves(theta))

    def _without_units(self, leaves):
        def real(x, unit):
            if jnp.iscomplexobj(x):
                return jnp.stack([x.real / unit, x.imag / unit])
            return x / unit

        return each(real, leaves, self.unit)

    def tree(self, x: Any) -> Any:
        """Returns such a list as a tree like the leader, without units."""

        def leaf(x, unit, like):
            if jnp.iscomplexobj(like):
                return jax.lax.complex(*(part * unit for part in x))
            return x * unit

        leaves = each(leaf, x, self.unit, self._leaves)
        return jax.tree.unflatten(self._structure, leaves)
