"""Errors of the proxes, and the numbers that their arguments stand for.

What an argument says of itself is checked where a prox is made; whether it
fits the parameters, where the prox first meets them.
"""

import functools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics, _paths

# The proxes find all of their checks in this module.
from optax_ftml._checks import check as check
from optax_ftml._checks import check_callable as check_callable
from optax_ftml._checks import check_function_of as check_function_of
from optax_ftml._checks import check_like_leader as check_like_leader
from optax_ftml._checks import check_params as check_params
from optax_ftml._checks import check_prox_function as check_prox_function

FINITE = (np.isfinite, "finite")
_AT_LEAST_0 = (lambda x: x >= 0, "at least 0")
_NOT_NAN = (lambda x: x == x, "a number and not NaN")
# Which values an argument may have, by its name.
_RULES: dict[str, tuple] = {
    **dict.fromkeys(("lower", "upper"), (_NOT_NAN,)),
    **dict.fromkeys(("matrix", "normal", "offset", "values"), (FINITE,)),
    **dict.fromkeys(("l1", "l2", "strength", "total"), (_AT_LEAST_0, FINITE)),
    "radius": (_AT_LEAST_0,),
}

_Prox = TypeVar("_Prox", bound=Callable)


def two_arguments(prox: _Prox) -> _Prox:
    """Decorates a prox so that calling it as a schedule says what to do."""
    right = (
        "called with (leader, step_size); optax.inject_hyperparams calls it as "
        "a schedule unless static_args names it"
    )

    @functools.wraps(prox)
    def checked(*args, **kwargs):
        count = len(args) + len(kwargs)
        got = f"{count} of 2 arguments"
        check(count == 2, "prox", right, got, TypeError)
        return prox(*args, **kwargs)

    return checked  # type: ignore[return-value]


def check_arguments(**arguments: Any) -> None:
    """Raises unless each is numbers that the rules for its name allow."""
    for name, tree in arguments.items():
        check_numbers(name, tree, *_RULES.get(name, ()))
    if {"lower", "upper"} <= arguments.keys():
        _check_bounds(arguments["lower"], arguments["upper"])
    if "normal" in arguments:
        leaves = jax.tree.leaves(arguments["normal"])
        is_right = not is_known(*leaves) or any(map(np.any, leaves))
        right, got = "other than 0 in each slice", arguments["normal"]
        check(is_right, "normal", right, got)


def _check_bounds(lower, upper):
    lows, highs = jax.tree.leaves(lower), jax.tree.leaves(upper)
    lows *= len(highs) if len(lows) == 1 else 1
    highs *= len(lows) if len(highs) == 1 else 1
    right = "of the tree structure of upper, unless one is a single array"
    check(len(lows) == len(highs), "lower", right, (lower, upper))
    for low, high in zip(lows, highs, strict=True):
        is_right = not is_known(low, high) or np.all(np.less_equal(low, high))
        check(is_right, "lower", "at most upper", (low, high))


def check_numbers(name: str, tree: Any, *rules: tuple[Callable, str]) -> None:
    """Raises unless it is numbers and, as far as known, within the rules."""
    leaves = jax.tree.leaves(tree)
    is_right = leaves != [] and all(map(is_number, leaves))
    right = "a number, an array or a tree of these"
    check(is_right, name, right, repr(tree), TypeError)
    for leaf in filter(is_known, leaves):
        for rule, words in rules:
            check(np.all(rule(np.asarray(leaf))), name, words, leaf)


def is_number(x: Any) -> bool:
    """Whether it is a real number or an array of such."""
    if not isinstance(x, numbers.Real | np.ndarray | np.generic | jax.Array):
        return False
    dtype = getattr(x, "dtype", type(x))
    return any(jnp.issubdtype(dtype, k) for k in (jnp.integer, jnp.floating))


def is_known(*arrays: Any) -> bool:
    """Whether no array is one that JAX is tracing."""
    return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def check_single(**arguments: Any) -> None:
    """Raises unless each is a single number or array."""
    right = "a single array, since a slice has several leaves"
    for name, tree in arguments.items():
        check(len(jax.tree.leaves(tree)) == 1, name, right, tree)


def check_axis(axis: Any) -> None:
    """Raises unless it is an int, distinct ints, None or a mapping to axes."""
    right = (
        "an int, a tuple of ints, None or a mapping from paths to ints or "
        "tuples of ints"
    )
    is_mapping = isinstance(axis, Mapping)
    for key, value in axis.items() if is_mapping else [("", axis)]:
        axes = value if isinstance(value, tuple) else (value,)
        is_right = isinstance(key, str) and all(map(_is_integer, axes))
        is_right &= is_mapping or axes != ()
        is_right |= axis is None
        check(is_right, "axis", right, repr(axis), TypeError)
        is_right = len(set(axes)) == len(axes)
        check(is_right, "axis", "distinct axes", repr(axis))


def _is_integer(x):
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def check_flag(name: str, value: Any) -> None:
    """Raises unless it is a bool."""
    is_right = isinstance(value, bool)
    check(is_right, name, "True or False", repr(value), TypeError)


def check_integer(name: str, value: Any, least: float = -math.inf) -> None:
    """Raises unless it is an integer, and at least so large."""
    is_right = _is_integer(value)
    check(is_right, name, "an integer", repr(value), TypeError)
    check(value >= least, name, f"at least {least}", value)


def leaves_of(
    name: str, leader: Any, step_size: Any, *, is_complex: bool
) -> tuple[list[str], list[jax.Array], list[jax.Array]]:
    """Returns the paths and the leaves of both, or says what is wrong.

    For the arithmetic all are in one dtype, at least float32, or its complex.
    """
    check_params(leader, f"{name}'s leader", is_complex=is_complex)
    leaves = jax.tree.leaves(leader)
    dtype = jnp.finfo(_numerics.at_least_float32(*leaves)).dtype
    x = [_numerics.widen(a, jnp.zeros([], dtype)) for a in leaves]

    def wide(x, s):
        s = jnp.asarray(s, _numerics.at_least_float32(jnp.real(x)))
        if s.dtype != dtype:  # What is without a gradient has the bound there.
            largest = _numerics.bound(s.dtype)
            s = jnp.where(s >= largest, _numerics.bound(dtype), s.astype(dtype))
        return jnp.broadcast_to(s, jnp.shape(x))

    steps = jax.tree.leaves(jax.tree.map(wide, leader, step_size))
    return _paths.leaf_names(leader), x, steps


def axes_by_leaf(
    name: str, axis: Any, leader: Any, paths: list[str], x: list[jax.Array]
) -> dict[int, tuple[int, ...]]:
    """Returns the axes, below 0, of each leaf that has slices, by its number.

    Args:
        name: What the prox is called in an error.
        axis: None, axes, or a mapping from patterns to axes.
        leader: The tree of the leaves.
        paths: Their paths.
        x: The leaves.
    """
    axis_of = dict.fromkeys(range(len(x)), axis)
    is_mapping = isinstance(axis, Mapping)
    if is_mapping:
        keys = _paths.patterns_of("axis", axis, leader)
        axis_of = {i: axis[k] for i, k in enumerate(keys) if k is not None}
    axes, remaining = {}, {}
    for i, axis_ in axis_of.items():
        at, shape, ndim = _paths.at(paths[i]), x[i].shape, x[i].ndim
        given = range(ndim) if axis_ is None else np.ravel(axis_).tolist()
        axes[i] = tuple(sorted({a % ndim - ndim for a in given if ndim}))
        is_right = all(-ndim <= a < ndim for a in given)
        is_right &= len(axes[i]) == len(given)
        got = f"{axis_} for {at} of shape {shape}"
        check(is_right, f"{name}'s axis", "axes of every leaf", got)
        remaining[at] = without(shape, axes[i])
    is_right = not is_mapping or len(set(remaining.values())) <= 1
    right = "axes that leave the same shape of every leaf"
    got = ", ".join(f"{shape} for {at}" for at, shape in remaining.items())
    check(is_right, f"{name}'s axis", right, got)
    return axes


def without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of what is left when these axes are summed."""
    return tuple(np.delete(shape, axes).tolist())


def like_leader(theta: Any, leader: Any) -> Any:
    """Returns a tree with the leader's dtypes."""
    return jax.tree.map(
        lambda x, like: x.astype(jnp.result_type(like)), theta, leader
    )


def spread(
    arguments: Mapping[str, Any],
    shapes: Mapping[int, tuple[int, ...]],
    paths: Sequence[str],
    dtype: np.dtype,
) -> list[dict[int, Any]]:
    """Returns each argument's array for each leaf, in its rank.

    Args:
        arguments: Numbers, arrays, or trees of these with the paths of the
            leaves or the beginnings of these paths, by the argument's name.
        shapes: The shape to which a leaf's value must broadcast, by the leaf's
            number.
        paths: The paths of all leaves.
        dtype: The dtype of the arrays.
    """
    found = {i: paths[i] for i in shapes}
    return [
        {
            i: _shaped(name, x, found[i], shapes[i]).astype(dtype)
            for i, x in _by_leaf(name, tree, found).items()
        }
        for name, tree in arguments.items()
    ]


def _by_leaf(name, tree, paths):
    """Returns what a tree of arrays holds for each leaf, by its number."""
    given = dict(_paths.named_leaves(tree))
    keys = {
        i: key
        for i, path in paths.items()
        for key in given
        if key in ("", path) or path.startswith(key + "/")
    }
    missing = [paths[i] or "an array" for i in paths if i not in keys]
    wrong = [f"missing {x}" for x in missing]
    wrong += [f"unexpected {x}" for x in sorted(given.keys() - keys.values())]
    right = "a number, an array or a tree with the parameters' keys"
    if isinstance(tree, list | tuple):
        kind = type(tree).__name__
        right += f" (a {kind} is a tree; jnp.array makes it an array)"
    check(not (wrong and paths), name, right, ", ".join(wrong[:5]))
    return {i: given[key] for i, key in keys.items()}


def _shaped(name, value, path, shape):
    # Known numbers stay NumPy's, so that they can be checked under jit.
    value = (np if is_known(value) else jnp).asarray(value)
    padded = (1,) * (len(shape) - value.ndim) + value.shape
    is_right = len(padded) == len(shape) and all(
        n in (1, m) for n, m in zip(padded, shape, strict=True)
    )
    right = f"of a shape that broadcasts to {shape} for {_paths.at(path)}"
    check(is_right, name, right, f"shape {value.shape}")
    # Broadcasting is left to XLA, which stores nothing as large as the leaf.
    return value.reshape(padded)


def check_not_0(slices: Any, normal: Sequence[Any]) -> None:
    """Raises if the normal is known and 0 in all of a slice."""
    if is_known(*normal):
        is_right = np.all(_sum(slices, np.abs, normal) > 0)
        right = "other than 0 in each slice"
        check(is_right, "normal", right, "a slice of zeros")


def check_section(
    slices: Any,
    offset: Any,
    lower: Sequence[Any],
    upper: Sequence[Any],
    normal: Sequence[Any],
    at_most: bool,
) -> None:
    """Raises if a section of a box is known to be empty."""
    check_not_0(slices, normal)
    if not is_known(offset, *lower, *upper, *normal):
        return

    smallest = _sum(slices, _least_product, normal, lower, upper)
    largest = _sum(slices, _least_product, normal, upper, lower)
    finite = np.nan_to_num(np.abs([smallest, largest]), posinf=0)
    slack = slices.rounding * (np.abs(offset) + finite.sum(axis=0))
    is_right = smallest <= offset + slack
    if not at_most:
        is_right &= largest >= offset - slack
    check(
        np.all(is_right),
        "offset",
        "between the normal's least and largest product with the box, else "
        "the section is empty",
        f"{offset} for products from {np.min(smallest)} to {np.max(largest)}",
    )


def _sum(slices, function, *numbers):
    """Sums a function of known numbers over each slice."""
    return sum(
        np.broadcast_to(function(*arrays), x.shape).sum(axes, np.float64)
        for x, axes, *arrays in zip(
            slices.x, slices.axes, *numbers, strict=True
        )
    )


def _least_product(normal, lower, upper):
    return normal * np.where(normal > 0, lower, np.where(normal < 0, upper, 0))


def equations(matrix: Any, offset: Any) -> tuple[Any, Any]:
    """Returns equations with the same solutions, or says what is wrong.

    Where the matrix and the offset are known the rows are orthonormal.
    """
    check_arguments(matrix=matrix, offset=offset)
    got, right = np.shape(matrix), "of shape (equations, size of a slice)"
    check(len(got) == 2, "matrix", right, f"shape {got}")
    rows, got = got[0], np.shape(offset)
    right = f"a number or of shape ({rows},)"
    check(got in ((), (rows,)), "offset", right, f"shape {got}")
    if not is_known(matrix, offset):
        return matrix, jnp.broadcast_to(offset, rows)
    return _independent(matrix, np.broadcast_to(offset, rows))


def _independent(matrix, offset):
    matrix, offset = (np.asarray(x, np.float64) for x in (matrix, offset))
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    used = sizes > 1e-10 * max(np.max(sizes, initial=0), np.finfo(float).tiny)
    check(np.any(used), "matrix", "other than 0", matrix)
    sides = (left.T @ offset)[used] / sizes[used]
    rest = matrix @ (right[used].T @ sides) - offset
    is_solved = np.abs(rest) <= 1e-6 * np.max(np.abs(offset))
    wanted = "a matrix of equations that have a solution"
    got = f"{matrix} with offset {offset}"
    check(np.all(is_solved), "matrix", wanted, got)
    return right[used], sides


def check_columns(matrix: Any, shape: tuple[int, ...]) -> None:
    """Raises unless there is a column for each number along the last axis."""
    right = "of as many columns as leaves have numbers along the last axis"
    got = f"{np.shape(matrix)[1]} for a leaf of shape {shape}"
    check(np.shape(matrix)[1] == shape[-1], "matrix", right, got)


def check_proxes(proxes: Any) -> None:
    """Raises unless it is a mapping from strings to functions."""
    is_right = isinstance(proxes, Mapping)
    is_right = is_right and all(isinstance(key, str) for key in proxes)
    right = "a mapping from parameter paths to proxes"
    check(is_right, "proxes", right, repr(proxes), TypeError)
    for key, prox in proxes.items():
        check_callable(f"proxes[{key!r}]", prox)


def check_apart(subtrees: Iterable[str], keys: Iterable[str]) -> None:
    """Raises if a key is the path of what is within one of the subtrees."""
    right = "a mapping with keys that are not within others"
    for outer in subtrees:
        inner = [key for key in keys if key.startswith(f"{outer}/")]
        check(not inner, "proxes", right, f"{inner}, within {outer!r}")


def check_iteration(tolerance: Any, max_iterations: Any) -> None:
    """Raises unless the arguments of a prox that iterates are possible."""
    is_number = isinstance(tolerance, numbers.Real)
    is_number &= not isinstance(tolerance, bool)
    got = repr(tolerance)
    check(is_number, "tolerance", "a number", got, TypeError)
    check(tolerance > 0, "tolerance", "above 0", got)
    check_integer("max_iterations", max_iterations, 1)
