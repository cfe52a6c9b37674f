"""Slices: what a set or a penalty holds for, of one leaf or across leaves.

Sums and maxima over a slice are all that most sets need. They are taken leaf by
leaf, and then over the leaves: nothing is flattened, concatenated or gathered,
so that where a slice is sharded nothing but its sums is sent.
"""

import functools
import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _checks as _shared_checks
from optax_ftml import _numerics
from optax_ftml.prox import _checks

Arrays = list[jax.Array]


class Slices:
    """The leaves that slices are of, with sums over each slice.

    Attributes:
        x: The leaders, leaf by leaf, in at least float32.
        s: Their step sizes, real, in the same shapes.
        axes: The axes of the slices, for each leaf; from 0 and in order.
        shape: The shape of an array with a number per slice: that of each leaf
            without its axes.
        dtype: The dtype of such an array.
        size: How many numbers a slice has.
    """

    def __init__(self, x: Arrays, s: Arrays, axes: Sequence[tuple[int, ...]]):
        self.x, self.s, self.axes = x, s, axes
        self.shape = _without(x[0].shape, axes[0])
        self.dtype = functools.reduce(
            np.promote_types, (_checks.real_dtype(leaf) for leaf in x)
        )
        self.size = sum(
            math.prod(leaf.shape[a] for a in own)
            for leaf, own in zip(x, axes, strict=True)
        )

    def map(self, function: Callable, *arguments: Arrays | jax.Array) -> list:
        """Maps an elementwise function over the leaves.

        Each argument is a list with an array for each leaf, or an array with a
        number per slice.
        """
        lists = [
            a if isinstance(a, list) else self.spread(a) for a in arguments
        ]
        return [function(*leaves) for leaves in zip(*lists, strict=True)]

    def spread(self, numbers: jax.Array) -> Arrays:
        """Gives a number per slice the rank of each leaf, to broadcast."""
        is_float = jnp.issubdtype(numbers.dtype, jnp.floating)
        return [
            jnp.expand_dims(
                numbers.astype(s.dtype) if is_float else numbers,
                axes if numbers.ndim else tuple(range(s.ndim)),
            )
            for s, axes in zip(self.s, self.axes, strict=True)
        ]

    def sum(self, leaves: Arrays) -> jax.Array:
        """Sums over each slice; integers as int32."""
        is_float = jnp.issubdtype(leaves[0].dtype, jnp.floating)
        within, dtype = None if is_float else jnp.int32, self.dtype
        return self._reduce(
            lambda x, axes: jnp.sum(x, axes, within).astype(within or dtype),
            jnp.add,
            leaves,
        )

    def sums(self, leaves: list[tuple[jax.Array, ...]]) -> list[jax.Array]:
        """Several sums, of tuples with an array for each of them."""

        def at_once(leaves):
            def add(a, b):
                return tuple(map(jnp.add, a, b))

            totals = [
                jax.lax.reduce(
                    x, tuple(jnp.zeros([], a.dtype) for a in x), add, axes
                )
                for x, axes in zip(leaves, self.axes, strict=True)
            ]
            return list(
                functools.reduce(
                    add,
                    [tuple(a.astype(self.dtype) for a in t) for t in totals],
                )
            )

        def apart(leaves):
            return [self.sum(list(x)) for x in zip(*leaves, strict=True)]

        return jax.lax.platform_dependent(leaves, cpu=at_once, default=apart)

    def max(self, leaves: Arrays) -> jax.Array:
        """The largest of each slice."""
        return self._reduce(
            lambda x, axes: jnp.max(x, axes).astype(self.dtype),
            jnp.maximum,
            leaves,
        )

    def all(self, leaves: Arrays) -> jax.Array:
        """Whether it is true in all of each slice."""
        return self._reduce(jnp.all, jnp.logical_and, leaves)

    def _reduce(self, within, between, leaves):
        return functools.reduce(between, map(within, leaves, self.axes))

    @property
    def rounding(self) -> float:
        """How far sums of equal slices may be apart, relatively."""
        return float(jnp.finfo(self.dtype).eps) * (4 + self.size**0.5)

    def relative_step_sizes(self) -> Arrays:
        """The step sizes over the largest of each slice, for a set.

        Only their ratios matter to a projection. Where there has been no
        gradient yet they count as 1e8 of the largest of the others, and these
        move first. Where the step size is 0 they are so small that these move
        last; where all are 0 they are all 1.
        """
        is_first = self.map(_numerics.is_unresisted, self.s)
        others = self.map(
            lambda s, first: jnp.where(first, 0, s), self.s, is_first
        )
        largest = self.max(others)
        largest = jax.lax.stop_gradient(largest)
        least = float(jnp.finfo(self.dtype).eps) ** 2

        def relative(largest, s, is_first):
            ratio = jnp.maximum(s / jnp.where(largest > 0, largest, 1), least)
            ratio = jnp.where(largest > 0, ratio, 1)
            return jnp.where(is_first, 1e8, ratio)

        return self.map(relative, largest, others, is_first)

    def penalty_step_sizes(self) -> Arrays:
        """The step sizes, 0 in slices where there has been no gradient yet."""
        is_first = self.map(_numerics.is_unresisted, self.s)
        return self.map(
            lambda s, leave: jnp.where(leave, 0, s), self.s, self.all(is_first)
        )

    def in_range(self) -> tuple[Arrays, jax.Array]:
        """The leaders, and powers of 2 by which no huge one overflows."""
        largest = jax.lax.stop_gradient(self.max(self.map(jnp.abs, self.x)))
        _, power = jnp.frexp(largest)
        limit = jnp.finfo(self.dtype).maxexp // 4
        scale = jnp.ldexp(jnp.ones_like(largest), jnp.maximum(power - limit, 0))
        return self.map(jnp.divide, self.x, scale), scale

    def where(self, condition: jax.Array, a: Arrays, b: Arrays) -> Arrays:
        """Chooses slice by slice."""
        return self.map(jnp.where, condition, a, b)


def by_slice(
    name: str,
    solve: Callable,
    axis: Any,
    *,
    slice_numbers: dict[str, Any] | None = None,
    numbers: dict[str, Any] | None = None,
    is_complex: bool = False,
    check: Callable | None = None,
) -> _numerics.Prox:
    """Returns the prox that solves slice by slice.

    Args:
        name: What the prox is called in an error.
        solve: A function of Slices, of an array with a number per slice for
            each of `slice_numbers` and of a list of arrays for each of
            `numbers`. It returns a list like the leaders.
        axis: The axes of the slices; None for all leaves together, or a mapping
            from patterns of paths to the axes of these leaves.
        slice_numbers: Arguments with one number per slice, by name.
        numbers: Arguments with a number per parameter, by name.
        is_complex: Whether complex leaders have a meaning.
        check: Called with the same as `solve`, for errors.
    """
    slice_numbers, numbers = slice_numbers or {}, numbers or {}

    @_checks.two_arguments
    # Jitted, so that what is infinite on the way alarms no one outside of jit.
    @functools.partial(jax.jit, inline=True)
    def f(leader, step_size):
        paths, x, s = _checks.leaves_of(
            name, leader, step_size, is_complex=is_complex
        )
        groups = _groups(name, axis, leader, paths, [leaf.shape for leaf in x])
        members = [i for group in groups for i in group]

        def given(arguments, shape_of):
            """The arguments' arrays, for each leaf that has slices."""
            columns = (
                _checks.spread(
                    key,
                    value,
                    [paths[i] for i in members],
                    [x[i] for i in members],
                    [shape_of(x[i].shape, axes_of[i]) for i in members],
                )
                for key, value in arguments.items()
            )
            return [
                dict(zip(members, column, strict=True)) for column in columns
            ]

        axes_of = {i: axes for group in groups for i, axes in group.items()}
        per_slice = given(slice_numbers, functools.partial(_kept, axis))
        per_number = given(numbers, lambda shape, _: shape)
        for group in groups:
            some = [i for i in group if x[i].size]
            if not some:
                continue
            slices = Slices(
                [x[i] for i in some],
                [s[i] for i in some],
                [group[i] for i in some],
            )
            arguments = (
                *(
                    _squeezed(column[some[0]], axis, group[some[0]]).astype(
                        slices.dtype
                    )
                    for column in per_slice
                ),
                *([column[i] for i in some] for column in per_number),
            )
            if check:
                check(slices, *arguments)
            solved = solve(slices, *jax.tree.map(jnp.asarray, arguments))
            for i, leaf in zip(some, solved, strict=True):
                x[i] = leaf
        return _checks.tree_of(x, leader)

    return f


def check_axis(axis: Any, *, is_optional: bool = True) -> None:
    """Raises unless it is axes, or a mapping from patterns of paths to axes."""
    if not isinstance(axis, Mapping):
        _checks.check_axis(axis, is_optional=is_optional)
        return
    for pattern, axes in axis.items():
        if not isinstance(pattern, str):
            raise TypeError(
                f"axis must have parameter paths as keys, got {pattern!r}."
            )
        if axes != ():
            _checks.check_axis(axes)


def check_flag(name: str, value: Any) -> None:
    """Raises unless it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")


def _groups(name, axis, leader, paths, shapes):
    """Returns groups of leaves with slices in common: the axes, by number."""
    if isinstance(axis, Mapping):
        patterns = _shared_checks.patterns_of("axis", axis, leader)
        given = {
            i: axis[pattern]
            for i, pattern in enumerate(patterns)
            if pattern is not None
        }
    else:
        given = dict.fromkeys(range(len(paths)), axis)
    axes = {i: _axes_of(name, a, paths[i], shapes[i]) for i, a in given.items()}
    if axis is not None and not isinstance(axis, Mapping):
        return [{i: a} for i, a in axes.items()]
    left = {i: _without(shapes[i], a) for i, a in axes.items()}
    for i, shape in left.items():
        first = next(iter(left))
        if shape != left[first]:
            raise ValueError(
                f"{name}'s axis must leave the same shape of every leaf, got "
                f"{left[first]} for leaf '{paths[first]}' and {shape} for leaf "
                f"'{paths[i]}'."
            )
    return [axes]


def _axes_of(name, axis, path, shape):
    """Returns the axes, from 0 and in order, or says that they do not exist."""
    if axis is None:
        return tuple(range(len(shape)))
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not all(-len(shape) <= a < len(shape) for a in axes) or len(
        {a % len(shape) for a in axes}
    ) != len(axes):
        raise ValueError(
            f"{name}'s axis must be axes of every leaf, got {axis} for leaf "
            f"'{path}' of shape {shape}."
        )
    return tuple(sorted(a % len(shape) for a in axes))


def _without(shape, axes):
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def _kept(axis, shape, axes):
    """The shape to which an argument with a number per slice broadcasts."""
    if axis is None or isinstance(axis, Mapping):
        return _without(shape, axes)
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _squeezed(number, axis, axes):
    if axis is None or isinstance(axis, Mapping):
        return number
    return number.reshape(_without(number.shape, axes))
