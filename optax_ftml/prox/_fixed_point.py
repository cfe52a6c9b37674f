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

from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _slices

Arrays = list[jax.Array]

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
        is_plain: Whether the next point stays in any case.
        stretch: How many residuals long a move is where these are constant.
        moves: The last moves, with an axis in front.
        changes: What they added to the residual.
        goes_on: Whether the solution is not yet good enough.
        number: How many residuals there have been.
    """

    z: Any
    residual: Any
    move: Any
    is_plain: jax.Array  # () bool
    stretch: jax.Array  # ()
    moves: Any
    changes: Any
    goes_on: jax.Array  # () bool
    number: jax.Array  # () int32


def iterate(
    residual: Callable[[Any, jax.Array], tuple[Any, jax.Array]],
    start: Any,
    max_steps: int | jax.Array,
) -> _State:
    """Iterates until the residual is good enough, or for so many steps.

    Args:
        residual: A function of z and the number of residuals before. It returns
            the residual and whether that is not yet good enough.
        start: The first z.
        max_steps: How many residuals to take at most.
    """
    dtype = _numerics.at_least_float32(*jax.tree.leaves(start))

    def step(now):
        z = jax.tree.map(jnp.add, now.z, now.move)
        there, goes_on = residual(z, now.number)
        change = jax.tree.map(
            lambda new, old: jnp.where(now.number == 0, 0, new - old),
            there,
            now.residual,
        )
        moves, changes = jax.tree.map(
            lambda last, new: last.at[now.number % MEMORY].set(new),
            (now.moves, now.changes),
            (now.move, change),
        )
        along = dot(there, now.move) >= -BACK * dot(now.residual, now.move)
        stays = along | now.is_plain | ~goes_on
        z, r = jax.tree.map(
            functools.partial(jnp.where, stays),
            (z, there),
            (now.z, now.residual),
        )
        is_constant = stays & (
            dot(change, change) < CONSTANT**2 * dot(now.residual, now.residual)
        )
        stretch = jnp.where(is_constant, 2 * now.stretch, 1)
        plain = jax.tree.map(lambda r: r * stretch.astype(r.dtype), r)
        move = _anderson(r, moves, changes)
        is_plain = ~stays | is_constant | (dot(r, move) <= 0)
        return _State(
            z=z,
            residual=r,
            move=jax.tree.map(
                functools.partial(jnp.where, is_plain), plain, move
            ),
            is_plain=is_plain & ~is_constant,
            stretch=stretch,
            moves=moves,
            changes=changes,
            goes_on=goes_on,
            number=now.number + 1,
        )

    zeros = jax.tree.map(jnp.zeros_like, start)
    none = jax.tree.map(lambda x: jnp.zeros((MEMORY, *x.shape), x.dtype), start)
    return jax.lax.while_loop(
        lambda now: now.goes_on & (now.number < max_steps),
        step,
        _State(
            z=start,
            residual=zeros,
            move=zeros,
            is_plain=jnp.ones([], bool),
            stretch=jnp.ones([], dtype),
            moves=none,
            changes=none,
            goes_on=jnp.ones([], bool),
            number=jnp.zeros([], jnp.int32),
        ),
    )


def _anderson(residual, moves, changes):
    """Returns the move to where a linear residual would be 0.

    That is residual - (moves + changes) @ shares, with the shares for which
    changes @ shares is nearest to the residual.
    """
    products = jax.vmap(jax.vmap(dot, (None, 0)), (0, None))(changes, changes)
    sizes = jnp.sqrt(jnp.diagonal(products))
    scale = 1 / jnp.where(sizes > 0, sizes, 1)
    ridge = 10 * jnp.finfo(scale.dtype).eps * jnp.eye(MEMORY, dtype=scale.dtype)
    shares = scale * jnp.linalg.solve(
        products * jnp.outer(scale, scale) + ridge,
        scale * jax.vmap(dot, (0, None))(changes, residual),
    )
    return jax.tree.map(
        lambda r, m, c: r - jnp.tensordot(shares.astype(r.dtype), m + c, 1),
        residual,
        moves,
        changes,
    )


def dot(a: Any, b: Any) -> jax.Array:
    """The inner product of two trees."""
    products = jax.tree.leaves(jax.tree.map(jnp.multiply, a, b))
    dtype = _numerics.at_least_float32(*products)
    sums = [jnp.sum(x).astype(dtype) for x in products]
    return functools.reduce(jnp.add, sums)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def root(
    residual: Callable, solve: Callable, tolerance: float, *arguments: Any
) -> tuple[Any, Any]:
    """Returns the z where the residual is 0, and its derivative.

    Args:
        residual: A function of z, of what more `solve` returns, and of the
            arguments. It closes over nothing that has a derivative.
        solve: A function of the arguments that returns z, and what z does not
            depend on.
        tolerance: The relative error of the linear equation for the derivative.
        *arguments: What z depends on.
    """
    del residual, tolerance
    return solve(*arguments)


@root.defjvp
def _root_jvp(residual, solve, tolerance, arguments, tangents):
    z, more = root(residual, solve, tolerance, *arguments)
    _, change = jax.jvp(lambda *a: residual(z, more, *a), arguments, tangents)
    _, slope = jax.linearize(lambda z: residual(z, more, *arguments), z)
    # One vector, for JAX cannot transpose where some of several are known.
    change, as_tree = jax.flatten_util.ravel_pytree(change)

    def matvec(v):
        return jax.flatten_util.ravel_pytree(slope(as_tree(v)))[0]

    def invert(matvec, v):
        return jax.scipy.sparse.linalg.gmres(
            matvec, v, tol=tolerance, maxiter=50, solve_method="incremental"
        )[0]

    # GMRES alone has no transpose.
    tangent = jax.lax.custom_linear_solve(matvec, -change, invert, invert)
    zeros = jax.tree.map(jnp.zeros_like, more)
    return (z, more), (as_tree(tangent), zeros)


class Problem:
    """A leader and its step sizes as lists of real arrays, without units.

    Attributes:
        leaves: The leader's leaves, in at least float32.
        x: The same over their length, the two parts of a complex one apart.
        s: Their relative step sizes. Those below rounding of the largest are
            raised to it. Where there has been no gradient yet the step size is
            that of the others many times, and these go first.
        length: The power of 2 next to the largest leader, of shape ().
        largest: The largest step size where there has been a gradient, of shape
            (); 0 if there has been none at all.
    """

    def __init__(self, name: str, leader: Any, step_size: Any):
        _, self.leaves, steps = _checks.leaves_of(
            name, leader, step_size, is_complex=True
        )
        self._structure = jax.tree.structure(leader)
        axes = [tuple(range(x.ndim)) for x in self.leaves]
        slices = _slices.Slices(self.leaves, steps, axes)
        live = [jnp.where(_slices.is_unresisted(s), 0, s) for s in steps]
        sizes = slices.map(jnp.abs, self.leaves)
        self.largest = jax.lax.stop_gradient(slices.max(live))
        _, power = jnp.frexp(jax.lax.stop_gradient(slices.max(sizes)))
        self.length = jnp.ldexp(jnp.ones_like(self.largest), power)
        relative = [
            jnp.clip(s, jnp.finfo(s.dtype).eps, FIRST)
            for s in slices.relative_step_sizes()
        ]
        self.x = self.parts(self.leaves, self.length)
        self.s = [
            s
            for x, s in zip(self.leaves, relative, strict=True)
            for _ in _parts(x)
        ]

    def parts(self, leaves: list[jax.Array], length: jax.Array) -> Arrays:
        """Returns leaves as `x` is."""
        parts = [part for x in leaves for part in _parts(x)]
        return [x / length.astype(x.dtype) for x in parts]

    def tree(self, parts: Arrays, length: jax.Array) -> Any:
        """Returns such a list as a tree like the leader."""
        rest = iter([x * length.astype(x.dtype) for x in parts])
        leaves = [
            jax.lax.complex(next(rest), next(rest))
            if jnp.iscomplexobj(x)
            else next(rest)
            for x in self.leaves
        ]
        return jax.tree.unflatten(self._structure, leaves)


def _parts(x):
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def each(function: Callable, *lists: Arrays) -> Arrays:
    """Maps over the arrays of lists."""
    return [function(*arrays) for arrays in zip(*lists, strict=True)]


def check(tolerance: Any, max_iterations: Any) -> None:
    """Raises unless the arguments of a prox that iterates are possible."""
    if not isinstance(tolerance, numbers.Real) or isinstance(tolerance, bool):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}.")
    if not float(tolerance) > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance!r}.")
    _checks.check_integer("max_iterations", max_iterations, 1)
