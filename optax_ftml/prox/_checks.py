"""Errors of the proxes, and the numbers a leaf that their arguments stand for.

What an argument says of itself is checked where a prox is made; whether it
fits the parameters, where the prox first meets them.
"""

import numbers
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _checks
from optax_ftml import _numerics

AT_LEAST_0 = (lambda x: x >= 0, "at least 0")
NOT_NAN = (lambda x: x == x, "a number and not NaN")
FINITE = (np.isfinite, "finite")


def check_numbers(name: str, tree: Any, *rules: tuple[Callable, str]) -> None:
    """Raises unless it is numbers and, as far as known, within the rules."""
    leaves = jax.tree.leaves(tree)
    if not leaves or not all(is_number(x) for x in leaves):
        raise TypeError(
            f"{name} must be a number, an array or a tree of these, got "
            f"{tree!r}."
        )
    for leaf in leaves:
        for rule, words in rules:
            if is_known(leaf) and not np.all(rule(np.asarray(leaf))):
                raise ValueError(f"{name} must be {words}, got {leaf}.")


def is_number(x: Any) -> bool:
    """Whether it is a real number or an array of such."""
    if not isinstance(x, numbers.Real | np.ndarray | np.generic | jax.Array):
        return False
    dtype = getattr(x, "dtype", type(x))
    return any(jnp.issubdtype(dtype, k) for k in (jnp.integer, jnp.floating))


def is_known(*arrays: Any) -> bool:
    """Whether no array is one that JAX is tracing."""
    return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def check_axis(axis: Any, *, is_optional: bool = True) -> None:
    """Raises unless it is an int, a tuple of distinct ints or None."""
    if axis is None and is_optional:
        return
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not axes or not all(
        isinstance(a, numbers.Integral) and not isinstance(a, bool)
        for a in axes
    ):
        kinds = "an int or a tuple of ints" + (" or None" * is_optional)
        raise TypeError(f"axis must be {kinds}, got {axis!r}.")
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis must be distinct axes, got {axis!r}.")


def check_one_axis(axis: Any) -> None:
    """Raises unless it is an int."""
    if not isinstance(axis, numbers.Integral) or isinstance(axis, bool):
        raise TypeError(f"axis must be an int, got {axis!r}.")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises unless it is an integer, and at least so large."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")


def leaves_of(
    name: str, leader: Any, step_size: Any, *, is_complex: bool
) -> tuple[list[str], list[jax.Array], list[jax.Array]]:
    """Returns the paths and the leaves of both, or says what is wrong.

    The leaves are in at least float32, for the arithmetic.
    """
    paths_and_leaders = jax.tree_util.tree_leaves_with_path(leader)
    steps = jax.tree.leaves(step_size)
    structure: Any = jax.tree.structure(leader)
    if jax.tree.structure(step_size) != structure:
        raise ValueError(
            f"{name} must be given a step_size with the leader's tree "
            f"structure, got {jax.tree.structure(step_size)} and {structure}."
        )
    paths = [_checks.path_name(path) for path, _ in paths_and_leaders]
    leaders = [jnp.asarray(leaf) for _, leaf in paths_and_leaders]
    kinds = "floating or complex" if is_complex else "floating"
    allowed = jnp.inexact if is_complex else jnp.floating
    for path, x in zip(paths, leaders, strict=True):
        if not jnp.issubdtype(x.dtype, allowed):
            raise TypeError(
                f"{name} must be given {kinds} arrays, got leaf '{path}' of "
                f"{x.dtype}."
            )
    leaders = [x.astype(_numerics.at_least_float32(x)) for x in leaders]
    return (
        paths,
        leaders,
        [
            jnp.broadcast_to(jnp.asarray(s, real_dtype(x)), x.shape)
            for s, x in zip(steps, leaders, strict=True)
        ],
    )


def tree_of(leaves: Sequence[jax.Array], leader: Any) -> Any:
    """Returns the leaves as a tree with the leader's dtypes."""
    return jax.tree.map(
        lambda given, leaf: _numerics.narrow(leaf, jnp.result_type(given)),
        leader,
        jax.tree.unflatten(jax.tree.structure(leader), leaves),
    )


def real_dtype(x: jax.Array) -> np.dtype:
    """The dtype of the modulus of an element."""
    return jnp.finfo(x.dtype).dtype


def spread(
    name: str,
    values: Any,
    paths: Sequence[str],
    like: Sequence[jax.Array],
    shapes: Sequence[tuple[int, ...]],
) -> list[jax.Array]:
    """Returns an argument's array for each leaf, in its real dtype and rank.

    Args:
        name: What the argument is called in an error.
        values: A number, an array, or a tree of these with the paths of the
            leaves or the beginnings of these paths.
        paths: The leaves' paths.
        like: The leaves.
        shapes: The shape to which the value of each leaf must broadcast.
    """
    given = {
        _checks.path_name(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(values)
    }
    if list(given) == [""]:
        chosen = dict.fromkeys(paths, "")
    else:
        chosen = {
            path: key
            for path in paths
            for key in given
            if path == key or path.startswith(key + "/")
        }
        wrong = {
            "missing": [path for path in paths if path not in chosen],
            "unexpected": sorted(set(given) - set(chosen.values())),
        }
        words = [
            f"{what} {', '.join(some[:5])}"
            for what, some in wrong.items()
            if some
        ]
        if words:
            raise ValueError(
                f"{name} must be a number, an array or a tree with the "
                "parameters' keys or the first of them, got "
                f"{'; '.join(words)}."
            )
    return [
        _shaped(name, given[chosen[path]], path, real_dtype(x), shape)
        for path, x, shape in zip(paths, like, shapes, strict=True)
    ]


def _shaped(name, value, path, dtype, shape):
    if not broadcasts(jnp.shape(value), shape):
        raise ValueError(
            f"{name} must broadcast to shape {shape} for leaf '{path}', got "
            f"shape {jnp.shape(value)}."
        )
    # Known numbers stay NumPy's, so that they can be checked under jit.
    numpy = np if is_known(value) else jnp
    value = numpy.asarray(value).astype(dtype)
    # As small as it is, lest it be worked on as large as the leaf.
    return value.reshape((1,) * (len(shape) - value.ndim) + value.shape)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of one shape broadcasts to the other."""
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def check_normal(normal: Any) -> None:
    """Raises unless it is finite numbers and, as far as known, not all 0."""
    check_numbers("normal", normal, FINITE)
    leaves = jax.tree.leaves(normal)
    if is_known(*leaves) and not any(np.any(x) for x in leaves):
        raise ValueError(
            f"normal must not be 0 in all of a slice, got {normal}."
        )


def check_not_0(own: Any, offset: Any, normal: Any) -> None:
    """Raises if the normal is known and 0 in all of a slice."""
    del offset
    if not is_known(*normal):
        return
    size = sum_of_slice(own, [np.abs(a) for a in normal])
    if not np.all(size > 0):
        raise ValueError("normal must not be 0 in all of a slice.")


def check_section(
    own: Any,
    offset: Any,
    lower: Any,
    upper: Any,
    normal: Any,
    at_most: bool = False,
) -> None:
    """Raises if a section of a box is known to be empty."""
    check_not_0(own, offset, normal)
    if not is_known(offset, *lower, *upper, *normal):
        return
    ends = []
    for a, p, q in zip(normal, lower, upper, strict=True):
        a, p, q = (np.asarray(x, np.float64) for x in (a, p, q))
        sides = [
            np.where(a == 0, 0, np.where(a == 0, 1, a) * side)
            for side in (p, q)
        ]
        ends.append((np.minimum(*sides), np.maximum(*sides)))
    least = sum_of_slice(own, [low for low, _ in ends])
    most = sum_of_slice(own, [high for _, high in ends])
    finite = [abs(end) for end in (least, most)]
    slack = own.rounding * (
        np.abs(offset) + sum(np.where(np.isfinite(x), x, 0) for x in finite)
    )
    if np.any(least > offset + slack) or (
        not at_most and np.any(most < offset - slack)
    ):
        raise ValueError(
            "lower, upper, normal and offset must leave a section that is not "
            f"empty: between lower and upper the normal's products lie from "
            f"{np.min(least)} to {np.max(most)}, got an offset of {offset}."
        )


def sum_of_slice(own: Any, arrays: Sequence[Any]) -> Any:
    """Sums over each slice known numbers that broadcast to the leaves."""
    return sum(
        np.broadcast_to(a, x.shape).sum(axis=axes, dtype=np.float64)
        for a, x, axes in zip(arrays, own.x, own.axes, strict=True)
    )


def check_bounds(lower: Any, upper: Any) -> None:
    """Raises unless both are numbers and, as far as known, in order."""
    check_numbers("lower", lower, NOT_NAN)
    check_numbers("upper", upper, NOT_NAN)
    lows, highs = jax.tree.leaves(lower), jax.tree.leaves(upper)
    lows *= len(highs) if len(lows) == 1 else 1
    highs *= len(lows) if len(highs) == 1 else 1
    if len(lows) != len(highs):
        raise ValueError(
            "lower and upper must have the same tree structure, or one of them "
            f"be a single array, got {lower} and {upper}."
        )
    for low, high in zip(lows, highs, strict=True):
        if is_known(low, high) and not np.all(np.less_equal(low, high)):
            raise ValueError(
                "lower must be at most upper, got "
                f"lower={low} and upper={high}."
            )
