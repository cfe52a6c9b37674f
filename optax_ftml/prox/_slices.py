"""Slices: what a set or a penalty holds for, of one leaf or across leaves.

Sums and maxima over a slice are all that most sets need. They are taken leaf by
leaf, and then over the leaves: nothing is flattened, concatenated or gathered,
so that where a slice is sharded nothing but its sums is sent.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics
from optax_ftml.prox import _checks

Arrays = list[jax.Array]

# An axis for by_slice: each number is a slice of its own. (A user's () is an
# error.)
EACH: list[int] = []


class Slices:
    """The leaves that slices are of, with sums over each slice.

    Attributes:
        x: The leaders, leaf by leaf, of one dtype, at least float32; of complex
            ones the moduli.
        s: Their step sizes, in the same shapes and dtype.
        axes: The axes of the slices, for each leaf.
        shape: The shape of an array with a number per slice: that of each leaf
            without its axes.
        dtype: The dtype of all of these.
        size: How many numbers a slice has.
    """

    def __init__(self, x: Arrays, s: Arrays, axes: Sequence[tuple[int, ...]]):
        self.x, self.s, self.axes = x, s, axes
        self.shape = _checks.without(x[0].shape, axes[0])
        self.dtype = s[0].dtype
        self.size = sum(leaf.size for leaf in x) // math.prod(self.shape)

    def map(self, function: Callable, *arguments: Any) -> list:
        """Maps an elementwise function over the leaves.

        Each argument is a list with an array for each leaf, an array with a
        number per slice, or one number.
        """
        lists = [
            a if isinstance(a, list) else self._by_leaf(a) for a in arguments
        ]
        return [function(*leaves) for leaves in zip(*lists, strict=True)]

    def _by_leaf(self, numbers):
        """Gives a number per slice the rank of each leaf, to broadcast."""
        if np.ndim(numbers) == 0:
            return [numbers] * len(self.x)
        return [jnp.expand_dims(numbers, axes) for axes in self.axes]

    def sum(self, leaves: Arrays) -> jax.Array:
        """Sums over each slice."""
        return self._reduce(jnp.sum, jnp.add, leaves)

    def sums(self, leaves: list[tuple[jax.Array, ...]]) -> tuple:
        """Several sums at once, without a gradient, of tuples of arrays."""

        def apart(leaves):
            return tuple(self.sum(list(x)) for x in zip(*leaves, strict=True))

        # Apart, a CPU computes what is summed again for each sum: five times as
        # long for the norm of rows of 1,024.
        return jax.lax.platform_dependent(
            jax.lax.stop_gradient(leaves),
            cpu=self._sums_at_once,
            default=apart,
        )

    def _sums_at_once(self, leaves):
        add = functools.partial(jax.tree.map, jnp.add)

        def within(arrays, axes):
            zeros = (np.zeros([], self.dtype),) * len(arrays)
            axes = [a % arrays[0].ndim for a in axes]
            return jax.lax.reduce(arrays, zeros, add, axes)

        return self._reduce(within, add, leaves)

    def max(self, leaves: Arrays) -> jax.Array:
        """The largest of each slice."""
        largest = functools.partial(jnp.max, initial=-jnp.inf)
        return self._reduce(largest, jnp.maximum, leaves)

    def all(self, leaves: Arrays) -> jax.Array:
        """Whether it is true in all of each slice."""
        return self._reduce(jnp.all, jnp.logical_and, leaves)

    def map_vectors(
        self, function: Callable, s: Arrays, *numbers: jax.Array
    ) -> Arrays:
        """Maps a function over slices of one leaf along one axis.

        Its arguments are the vectors x and s of a slice, and its numbers. It
        returns a vector.
        """
        [[axis]] = self.axes
        arrays = [jnp.moveaxis(a, axis, -1) for [a] in (self.x, s)]
        signature = "(n),(n)" + ",()" * len(numbers) + "->(n)"
        theta = jnp.vectorize(function, signature=signature)(*arrays, *numbers)
        return [jnp.moveaxis(theta, -1, axis)]

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
        least = float(jnp.finfo(self.dtype).eps) ** 2

        def relative(largest, s):
            ratio = jnp.maximum(s / jnp.where(largest > 0, largest, 1), least)
            ratio = jnp.where(largest > 0, ratio, 1)
            return jnp.where(is_unresisted(s), 1e8, ratio)

        return self.map(relative, self.largest_step_size(), self.s)

    def largest_step_size(self) -> jax.Array:
        """The largest where there has been a gradient; 0 if there is none."""
        others = [jnp.where(is_unresisted(s), 0, s) for s in self.s]
        return jax.lax.stop_gradient(self.max(others))

    def penalty_step_sizes(self) -> Arrays:
        """The step sizes, 0 in slices where there has been no gradient yet."""
        has_none = self.all([is_unresisted(s) for s in self.s])
        return self.map(jnp.where, has_none, 0.0, self.s)


def is_unresisted(step_size: jax.Array) -> jax.Array:
    """Returns where there has been no gradient yet: nothing resists there."""
    return step_size >= _numerics.bound(step_size.dtype)


def by_slice(
    name: str,
    solve: Callable,
    axis: Any,
    slice_numbers: Mapping[str, Any] | None = None,
    *,
    numbers: Mapping[str, Any] | None = None,
    is_complex: bool = False,
) -> _numerics.Prox:
    """Returns the prox that solves slice by slice.

    Args:
        name: What the prox is called in an error.
        solve: A function of Slices, of an array with a number per slice for
            each of `slice_numbers` and of a list of arrays for each of
            `numbers`. It returns a list like the leaders. Concrete arguments
            arrive as NumPy arrays, so that it can check them under jit.
        axis: The axes of the slices; None for all leaves together, EACH for
            none, or a mapping from patterns of paths to the axes of these
            leaves.
        slice_numbers: Arguments with one number per slice, by name. The rules
            for these names are in `_checks`.
        numbers: Arguments with a number per parameter, likewise.
        is_complex: Whether complex leaders have a meaning. Then it is their
            moduli that are solved for, and each keeps its phase.
    """
    slice_numbers, numbers = slice_numbers or {}, numbers or {}
    if axis is not EACH:
        _checks.check_axis(axis)
    _checks.check_arguments(**slice_numbers, **numbers)
    is_joint = axis is None or isinstance(axis, Mapping)
    if is_joint:
        _checks.check_single(**slice_numbers)

    @_checks.two_arguments
    # Jitted, so that what is infinite on the way alarms no one outside of jit.
    @functools.partial(jax.jit, inline=True)
    def f(leader, step_size):
        paths, theta, s = _checks.leaves_of(
            name, leader, step_size, is_complex=is_complex
        )
        if not theta:
            return leader
        x = [jnp.abs(a) if jnp.iscomplexobj(a) else a for a in theta]
        dtype = x[0].dtype
        axes = _checks.axes_by_leaf(name, axis, leader, paths, x)

        shape_of = _checks.without if is_joint else _with_1
        shapes = {i: shape_of(x[i].shape, axes[i]) for i in axes}
        per_slice = _checks.spread(slice_numbers, shapes, paths, dtype)
        shapes = {i: x[i].shape for i in axes}
        per_number = _checks.spread(numbers, shapes, paths, dtype)
        filled = [i for i in axes if x[i].size]
        groups = [filled] if is_joint else [[i] for i in filled]
        for group in filter(None, groups):
            first = group[0]
            squeezed = () if is_joint else axes[first]
            slices = Slices(*([a[i] for i in group] for a in (x, s, axes)))
            solved = solve(
                slices,
                *(a[first].squeeze(squeezed) for a in per_slice),
                *([a[i] for i in group] for a in per_number),
            )
            for i, new in zip(group, solved, strict=True):
                theta[i] = _with_modulus(theta[i], x[i], new)
        theta = jax.tree.unflatten(jax.tree.structure(leader), theta)
        return _checks.like_leader(theta, leader)

    return f


def _with_modulus(x, modulus, new):
    """Returns x with a new modulus, bit for bit where it is the same."""
    if not jnp.iscomplexobj(x):
        return new
    # Not by the sign, whose derivative JAX takes for 0 in complex numbers.
    length = jnp.where(modulus > 0, modulus, 1).astype(x.dtype)
    phase = jnp.where(modulus > 0, x / length, 1)
    return jnp.where(new == modulus, x, new.astype(x.dtype) * phase)


def _with_1(shape, axes):
    return tuple(
        1 if i - len(shape) in axes else n for i, n in enumerate(shape)
    )
