"""Proxes that iterate: Anderson's acceleration, guarded, and the derivative.

Proxes without a formula repeat z -> z + residual(z) until the residual
vanishes. From one z to the next it tells how it changes, and the iteration goes
to where the last few changes say that it is 0. Where the residual turns out
larger than before, it goes back to the best z and takes the plain step.
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

MEMORY = 5  # steps
FIRST = 100.0  # the relative step size where there has been no gradient yet


class _State(NamedTuple):
    """Where the iteration stands.

    Attributes:
        z: Where the residual comes next.
        best: The z of the smallest residual so far.
        residual: That residual.
        size: Its norm; the largest number where there is none.
        is_plain: Whether z is a plain step from there.
        steps: For each of the last steps (an axis in front) what it adds to z
            and its residual, and to the residual: orthogonal, of norm 1.
        goes_on: Whether the solution is not yet good enough.
        number: How many residuals there have been.
    """

    z: Any
    best: Any
    residual: Any
    size: jax.Array  # ()
    is_plain: jax.Array  # () bool
    steps: tuple[Any, Any]
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
    none_yet = jnp.asarray(jnp.finfo(dtype).max, dtype)

    def step(now):
        residual_, goes_on = residual(now.z, now.number)
        size = jnp.sqrt(dot(residual_, residual_))
        is_first = now.size == none_yet
        is_worse = (size > now.size) & ~now.is_plain & goes_on

        moved, change = (
            jax.tree.map(lambda a, b: jnp.where(is_first, 0, a - b), *pair)
            for pair in ((now.z, now.best), (residual_, now.residual))
        )
        new = jax.tree.map(jnp.add, moved, change), change
        along = jax.vmap(dot, (0, None))(now.steps[1], change)
        new = jax.tree.map(jnp.subtract, new, _combine(along, now.steps))
        norm = jnp.sqrt(dot(new[1], new[1]))
        is_new = norm > jnp.sqrt(jnp.finfo(dtype).eps * dot(change, change))
        scale = jnp.where(is_new, 1 / jnp.where(is_new, norm, 1), 0)
        steps = jax.tree.map(
            lambda steps, a: steps.at[now.number % MEMORY].set(
                a * scale.astype(a.dtype)
            ),
            now.steps,
            new,
        )

        best, residual_ = jax.tree.map(
            lambda old, new: jnp.where(is_worse, old, new),
            (now.best, now.residual),
            (now.z, residual_),
        )
        gains = jax.vmap(dot, (0, None))(steps[1], residual_)
        gains = jnp.where(is_worse, 0, gains)
        z = jax.tree.map(
            lambda z, r, c: z + r - c,
            best,
            residual_,
            _combine(gains, steps[0]),
        )
        # From time to time it starts afresh, for the step is not linear.
        is_full = now.number % (MEMORY + 1) == MEMORY
        return _State(
            z=z,
            best=best,
            residual=residual_,
            size=jnp.where(is_worse, now.size, size),
            is_plain=is_worse | is_first,
            steps=jax.tree.map(lambda a: jnp.where(is_full, 0, a), steps),
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
            best=zeros,
            residual=zeros,
            size=none_yet,
            is_plain=jnp.zeros([], bool),
            steps=(none, none),
            goes_on=jnp.ones([], bool),
            number=jnp.zeros([], jnp.int32),
        ),
    )


def dot(a: Any, b: Any) -> jax.Array:
    """The inner product of two trees."""
    products = jax.tree.leaves(jax.tree.map(jnp.multiply, a, b))
    dtype = _numerics.at_least_float32(*products)
    sums = [jnp.sum(x).astype(dtype) for x in products]
    return functools.reduce(jnp.add, sums)


def _combine(factors, steps):
    return jax.tree.map(
        lambda a: jnp.tensordot(factors.astype(a.dtype), a, 1), steps
    )


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
        s: Their relative step sizes. Steps of less than rounding of the largest
            do not move. Where there has been no gradient yet the step size is
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
        live = [jnp.where(_numerics.is_unresisted(s), 0, s) for s in steps]
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
