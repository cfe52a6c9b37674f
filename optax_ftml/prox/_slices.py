"""What holds for slices: each leaf along axes, or all leaves as one vector.

A set or penalty is written once, for lists of arrays, and with sums and maxima
over a slice alone. For an `axis` the lists have the one leaf, and a sum keeps
its axes; for None they have all leaves, and a sum is a scalar. No leaf is
flattened, so that where it is sharded nothing but these sums is sent.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics
from optax_ftml.prox import _checks

Arrays = list[jax.Array]


def each(function: Callable, *lists: Arrays) -> Arrays:
    """Maps over the leaves of a slice."""
    return [function(*leaves) for leaves in zip(*lists, strict=True)]


def total(axis: Any, dtype: Any, arrays: Arrays) -> jax.Array:
    """Sums over each slice along the axes."""
    return _reduced(jnp.sum, jnp.add, axis, dtype, arrays)


def _reduced(within, between, axis, dtype, arrays):
    return functools.reduce(
        between,
        [
            within(x, axis=axis, keepdims=axis is not None).astype(dtype)
            for x in arrays
            if x.size
        ],
    )


class Slice:
    """Leaders and step sizes of slices, with sums over each.

    Attributes:
        x: The leaders, leaf by leaf.
        s: Their step sizes, real.
        axis: The axes of the slices; None for all leaves together.
        dtype: The dtype of sums.
        size: How many numbers a slice has.
    """

    def __init__(self, x: Arrays, s: Arrays, axis: Any):
        self.x, self.s, self.axis = x, s, axis
        self.dtype = functools.reduce(
            np.promote_types, (_checks.real_dtype(leaf) for leaf in x)
        )
        self.size = sum(
            leaf.size // max(math.prod(shape_of_sum(leaf.shape, axis)), 1)
            for leaf in x
        )

    @property
    def sum(self) -> Callable:
        """Sums over each slice: a function that holds no arrays."""
        return functools.partial(total, self.axis, self.dtype)

    def reduce(
        self, lists: list[tuple[jax.Array, ...]], operators: tuple
    ) -> list[jax.Array]:
        """Several sums or maxima in one pass over each slice; no gradient.

        XLA's CPU compiler makes a pass of each, but not of one reduction to all
        of them. Elsewhere it joins them; there of the one reduction devices
        would gather all parts.
        """

        def at_once(lists):
            return one_by_one(list(map(parts, lists)))

        def parts(arrays):
            split, axes, left = _in_parts(arrays[0].shape, self.axis)
            least = {jnp.add: 0, jnp.maximum: -jnp.inf}
            found = jax.lax.reduce(
                tuple(x.reshape(split) for x in arrays),
                tuple(
                    jnp.asarray(least[f], x.dtype)
                    for f, x in zip(operators, arrays, strict=True)
                ),
                lambda *pair: tuple(
                    f(a, b) for f, a, b in zip(operators, *pair, strict=True)
                ),
                axes,
            )
            return [x.reshape(left) for x in found]

        def one_by_one(lists):
            within = {jnp.add: self.sum, jnp.maximum: self.max}
            return [
                within[f](arrays)
                for f, *arrays in zip(operators, *lists, strict=True)
            ]

        return jax.lax.platform_dependent(
            jax.lax.stop_gradient(lists), cpu=at_once, default=one_by_one
        )

    def max(self, arrays: Arrays) -> jax.Array:
        """The largest in each slice."""
        return _reduced(jnp.max, jnp.maximum, self.axis, self.dtype, arrays)

    def all(self, arrays: Arrays) -> jax.Array:
        """Whether it is true in all of each slice."""
        keep = self.axis is not None
        return functools.reduce(
            jnp.logical_and,
            [jnp.all(x, axis=self.axis, keepdims=keep) for x in arrays],
        )

    def count(self, arrays: Arrays) -> jax.Array:
        """How many are true in each slice."""
        keep = self.axis is not None
        return functools.reduce(
            jnp.add,
            [
                jnp.sum(x, axis=self.axis, keepdims=keep, dtype=jnp.int32)
                for x in arrays
            ],
        )

    def each(self, function: Callable, numbers: Any, *lists: Arrays) -> Arrays:
        """Maps over the leaves, with a number of each slice, or several."""
        numbers = jax.tree.leaves(numbers)
        return each(
            lambda s, *others: function(
                *(number.astype(s.dtype) for number in numbers), *others
            ),
            self.s,
            *lists,
        )

    def full(self, value: Any, dtype: Any) -> jax.Array:
        """One value for each slice."""
        shape = shape_of_sum(self.x[0].shape, self.axis)
        return jnp.full(shape, value, dtype)

    @property
    def rounding(self) -> float:
        """How far sums of equal slices may be apart, relatively."""
        return float(jnp.finfo(self.dtype).eps) * (4 + self.size**0.5)

    def metric(self) -> Arrays:
        """The step sizes over the largest of them.

        Only their ratios matter to a projection. Where all are 0 they are all
        1; where some are, these get so little that they move last.
        """
        return self.each(
            lambda scale, least, s: jnp.maximum(scale * s, least),
            self._scale(),
            self.s,
        )

    def metric_times(self) -> Callable:
        """The metric as a function of a factor of each slice."""
        scale, least = self._scale()
        # Half before the step size, half after it: no product is too large.
        root = jnp.sqrt(scale)
        return lambda factor: self.each(
            lambda first, root, least, s: jnp.maximum(first * s * root, least),
            (factor * root, root, factor * least),
            self.s,
        )

    def _scale(self):
        largest = jax.lax.stop_gradient(self.max(self.s))
        info = jnp.finfo(self.dtype)
        least, tiny = float(info.eps) ** 2, float(info.tiny)
        # One division a slice: what is divided XLA's CPU compiler writes out.
        scale = 1 / jnp.clip(largest, tiny, 1 / tiny)
        return (
            jnp.where(largest > 0, scale, 0),
            jnp.where(largest > 0, least, 1.0),
        )

    def in_range(self) -> tuple[Arrays, jax.Array]:
        """The leaders, and powers of 2 by which no huge one overflows."""
        largest = jax.lax.stop_gradient(self.max(each(jnp.abs, self.x)))
        _, power = jnp.frexp(largest)
        limit = jnp.finfo(self.dtype).maxexp // 4
        scale = jnp.ldexp(jnp.ones_like(largest), jnp.maximum(power - limit, 0))
        return self.each(lambda c, x: x / c, scale, self.x), scale

    def where(self, condition: jax.Array, a: Arrays, b: Arrays) -> Arrays:
        """Chooses slice by slice."""
        return each(lambda a, b: jnp.where(condition, a, b), a, b)


def shape_of_sum(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """The shape of a sum over slices along the axes."""
    if axis is None:
        return ()
    axes = axes_of(shape, axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _in_parts(shape, axis):
    """How to split a shape, what of it to reduce at once, and what is left.

    Eight numbers, which stand eight apart: LLVM makes vectors of their eight
    sums, since it may not change the order of one. The 64 of them lie whole on
    each of up to eight devices.
    """
    axes = axes_of(shape, axis)
    if not axes or shape[axes[-1]] % 512:
        return shape, axes, shape_of_sum(shape, axis)
    i = axes[-1]
    before, n, after = shape[:i], shape[i], shape[i + 1 :]
    return (*before, n // 64, 8, 8, *after), (i + 1,), (*before, n // 8, *after)


def axes_of(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """The axes, from 0 and in order; all of them for None."""
    if axis is None:
        return tuple(range(len(shape)))
    axes = axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(a % len(shape) for a in axes))


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
        solve: A function of a Slice, of a number a slice for each of
            `slice_numbers` and of a list of arrays for each of `numbers`. It
            returns a list like the leaders.
        axis: The axes of the slices; None for all leaves together.
        slice_numbers: Arguments with one number a slice, by name.
        numbers: Arguments with a number for each number of a leaf, by name.
        is_complex: Whether complex leaders have a meaning.
        check: Called with the same as `solve`, for errors.
    """
    slice_numbers, numbers = slice_numbers or {}, numbers or {}

    @_checks.two_arguments
    def f(leader, step_size):
        paths, x, s = _checks.leaves_of(
            name, leader, step_size, is_complex=is_complex
        )
        for path, leaf in zip(paths, x, strict=True):
            check_rank(name, axis, path, leaf.shape)
        reduced = [shape_of_sum(leaf.shape, axis) for leaf in x]
        a_slice = [
            _checks.spread(key, value, paths, x, reduced)
            for key, value in slice_numbers.items()
        ]
        a_number = [
            _checks.spread(key, value, paths, x, [leaf.shape for leaf in x])
            for key, value in numbers.items()
        ]

        def solved(some):
            if not some:
                return []
            own = Slice([x[i] for i in some], [s[i] for i in some], axis)
            arguments = (
                *(column[some[0]].astype(own.dtype) for column in a_slice),
                *([column[i] for i in some] for column in a_number),
            )
            if check:
                check(own, *arguments)
            return solve(own, *jax.tree.map(jnp.asarray, arguments))

        some = [i for i, leaf in enumerate(x) if leaf.size]
        groups = [some] if axis is None else [[i] for i in some]
        for group in groups:
            for i, result in zip(group, solved(group), strict=True):
                x[i] = result
        return _checks.tree_of(x, leader)

    return f


def check_rank(name: str, axis: Any, path: str, shape: tuple[int, ...]):
    """Raises unless the leaf has the axes."""
    if axis is None:
        return
    axes = axis if isinstance(axis, tuple) else (axis,)
    wrong = [a for a in axes if not -len(shape) <= a < len(shape)]
    if wrong or len({a % len(shape) for a in axes}) != len(axes):
        raise ValueError(
            f"{name}'s axis must be axes of every leaf, got {axis} for leaf "
            f"'{path}' of shape {shape}."
        )
