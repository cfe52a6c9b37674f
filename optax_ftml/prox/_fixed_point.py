"""Proxes that iterate: Anderson's acceleration, guarded, and the derivative.

Proxes without a formula repeat z -> z + residual(z), which is nonexpansive,
until the residual vanishes. How it changed over the last few moves says
where it would be 0 if it were linear, and the iteration goes there. It stays
there if the residual still points along the move. If the residual points back,
the move went too far, and the plain step from the point before replaces it.
(The size of the residual would not do as a test: far from the solution it can
be small and all but constant.) While it hardly changes, the steps double.
"""

import functools
import numbers
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.sparse.linalg

from optax_ftml import _checks as _shared_checks
from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _slices

MEMORY = 3  # moves
BACK = 0.1  # how far back a residual may point, relative to the one before
CONSTANT = 0.03  # the relative change below which a residual is constant
FIRST = 100.0  # the relative step size where there has been no gradient yet


class _State(NamedTuple):
    """Where the iteration stands.

    Attributes:
        z: The last point that was good enough to stay.
        residual: Its residual.
        move: What is added to z next.
        stretch: How many residuals long a plain step is.
        moves: The last moves, one per row.
        changes: What they added to the residual.
        goes_on: Whether the solution is not yet good enough.
        number: How many residuals there have been.
    """

    z: jax.Array
    residual: jax.Array
    move: jax.Array
    stretch: jax.Array | float
    moves: jax.Array
    changes: jax.Array
    goes_on: jax.Array | bool
    number: jax.Array | int


def iterate(
    residual: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    start: jax.Array,
    max_steps: int | jax.Array,
) -> _State:
    """Iterates until the residual is good enough, or for so many steps.

    Args:
        residual: A function of z that returns the residual, and whether it is
            not yet good enough.
        start: The first z, a vector.
        max_steps: How many residuals to take at most.
    """

    def step(now):
        z = now.z + now.move
        r, goes_on = residual(z)
        change = jnp.where(now.number > 0, r - now.residual, 0)
        oldest = now.number % MEMORY
        moves = now.moves.at[oldest].set(now.move)
        changes = now.changes.at[oldest].set(change)

        was_plain = jnp.all(now.move == now.residual)
        is_along = dot(r, now.move) >= -BACK * dot(now.residual, now.move)
        stays = is_along | was_plain | ~goes_on
        z = jnp.where(stays, z, now.z)
        r = jnp.where(stays, r, now.residual)

        is_constant = stays & (norm(change) < CONSTANT * norm(now.residual))
        stretch = jnp.where(is_constant, 2 * now.stretch, 1)
        move = _anderson(r, moves, changes)
        is_plain = ~stays | is_constant | (dot(r, move) <= 0)
        move = jnp.where(is_plain, stretch * r, move)
        number = now.number + 1
        return _State(z, r, move, stretch, moves, changes, goes_on, number)

    zeros = jnp.zeros_like(start)
    none = jnp.zeros((MEMORY, start.size), start.dtype)
    return jax.lax.while_loop(
        lambda now: now.goes_on & (now.number < max_steps),
        step,
        _State(start, zeros, zeros, 1.0, none, none, True, 0),
    )


def _anderson(residual, moves, changes):
    """Returns the move to where a linear residual would be 0.

    That is residual - shares @ (moves + changes), with the shares for which
    shares @ changes is nearest to the residual.
    """
    sizes = norm(changes)
    sizes = jnp.where(sizes > 0, sizes, 1)
    units = changes / sizes[:, None]
    ridge = 10 * jnp.finfo(sizes.dtype).eps * jnp.eye(MEMORY, dtype=sizes.dtype)
    products = dot(units, units.T) + ridge
    shares = jnp.linalg.solve(products, dot(units, residual)) / sizes
    return residual - dot(shares, moves + changes)


# On accelerators the default multiplies in fewer digits.
dot = functools.partial(jnp.matmul, precision="highest")
norm = functools.partial(jnp.linalg.norm, axis=-1)


def root(
    residual: Callable, solve: Callable, start: jax.Array, tolerance: float
) -> tuple[jax.Array, Any]:
    """Returns the z where the residual is 0, with its derivative.

    Args:
        residual: A function of z. What it closes over may have derivatives.
        solve: A function of `start` that returns z, and what z does not depend
            on.
        start: The first z, a vector.
        tolerance: The relative error of the linear equation for the derivative.
    """

    def invert(matvec, y):
        return jax.scipy.sparse.linalg.gmres(
            matvec, y, tol=tolerance, maxiter=50, solve_method="incremental"
        )[0]

    return jax.lax.custom_root(
        residual,
        start,
        lambda _, start: solve(start),
        # GMRES alone has no transpose.
        lambda slope, y: jax.lax.custom_linear_solve(slope, y, invert, invert),
        has_aux=True,
    )


class Problem:
    """A leader and its step sizes as two real vectors, without units.

    Attributes:
        x: The leader over its length, in at least float32. Complex numbers are
            two.
        s: The relative step sizes. Those below rounding of the largest are
            raised to it. Where there has been no gradient yet the step size is
            that of the others many times, and these go first.
        largest: The largest step size where there has been a gradient, of shape
            (); 0 if there has been none at all.
    """

    def __init__(self, name: str, leader: Any, step_size: Any):
        _, self._leaves, steps = _checks.leaves_of(
            name, leader, step_size, is_complex=True
        )
        self._structure = jax.tree.structure(leader)
        parts = list(map(_parts, self._leaves))
        x, self._unravel = _ravel(parts)
        _, power = jnp.frexp(jax.lax.stop_gradient(jnp.max(jnp.abs(x))))
        self._length = jnp.ldexp(jnp.ones([], x.dtype), power)
        self.x = x / self._length

        steps = [jnp.where(_slices.is_unresisted(s), jnp.inf, s) for s in steps]
        s, _ = _ravel(map(jnp.broadcast_to, steps, map(jnp.shape, parts)))
        live = jnp.where(s < jnp.inf, s, 0)
        self.largest = jax.lax.stop_gradient(jnp.max(live))
        relative = s / jnp.where(self.largest > 0, self.largest, 1)
        self.s = jnp.clip(relative, jnp.finfo(s.dtype).eps, FIRST)

    def apply(self, prox: Callable, v: jax.Array, step_size: Any) -> jax.Array:
        """Returns what a function makes of a vector's tree."""
        tree = self.tree(v)
        theta = prox(tree, step_size)
        _shared_checks.check_like_leader(theta, tree)
        theta, _ = _ravel(map(_parts, jax.tree.leaves(theta)))
        return theta / self._length

    def tree(self, v: jax.Array) -> Any:
        """Returns a vector as a tree like the leader, in at least float32."""

        def leaf(x, part):
            part = jax.lax.complex(*part) if jnp.iscomplexobj(x) else part
            return part.astype(x.dtype)

        leaves = map(leaf, self._leaves, self._unravel(v * self._length))
        return jax.tree.unflatten(self._structure, leaves)


def _parts(x):
    """Returns complex numbers as two."""
    return jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x


def _ravel(arrays):
    """Returns arrays as one vector in the widest dtype, and the way back."""
    arrays = list(arrays)
    dtype = _numerics.at_least_float32(*arrays)
    return jax.flatten_util.ravel_pytree([x.astype(dtype) for x in arrays])


def check(tolerance: Any, max_iterations: Any) -> None:
    """Raises unless the arguments of a prox that iterates are possible."""
    is_number = isinstance(tolerance, numbers.Real)
    is_number &= not isinstance(tolerance, bool)
    got = repr(tolerance)
    _shared_checks.check(is_number, "tolerance", "a number", got, TypeError)
    _shared_checks.check(tolerance > 0, "tolerance", "above 0", got)
    _checks.check_integer("max_iterations", max_iterations, 1)
