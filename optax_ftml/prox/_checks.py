"""Errors of the proxes, and the numbers that their arguments stand for.

What an argument says of itself is checked where a prox is made; whether it
fits the parameters, where the prox first meets them.
"""

import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
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
    """Decorates a prox so that a call like a schedule's says what to do."""
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


def tree_of(leaves: Sequence[jax.Array], leader: Any) -> Any:
    """Returns the leaves as a tree with the leader's dtypes."""
    return jax.tree.map(
        lambda given, leaf: leaf.astype(jnp.result_type(given)),
        leader,
        jax.tree.unflatten(jax.tree.structure(leader), leaves),
    )


def spread(
    name: str,
    values: Any,
    leaves: Mapping[int, tuple[str, tuple]],
    dtype: np.dtype,
) -> dict[int, Any]:
    """Returns an argument's array for each leaf, in its rank.

    Args:
        name: What the argument is called in an error.
        values: A number, an array, or a tree of these with the paths of the
            leaves or the beginnings of these paths.
        leaves: The path of each leaf and the shape to which its value must
            broadcast, by the leaf's number.
        dtype: The dtype of the arrays.
    """
    given = dict(_paths.named_leaves(values))
    paths = [path for path, _ in leaves.values()]
    keys = {
        path: key
        for path in paths
        for key in given
        if key in ("", path) or path.startswith(key + "/")
    }
    wrong = [f"missing {x or 'an array'}" for x in paths if x not in keys]
    wrong += [f"unexpected {x}" for x in sorted(given.keys() - keys.values())]
    right = "a number, an array or a tree with the parameters' keys"
    if isinstance(values, list | tuple):
        kind = type(values).__name__
        right += f" (a {kind} is a tree; jnp.array makes it an array)"
    check(not (wrong and paths), name, right, ", ".join(wrong[:5]))
    return {
        i: _shaped(name, given[keys[path]], path, shape).astype(dtype)
        for i, (path, shape) in leaves.items()
    }


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


def check_normal(normal: Any) -> None:
    """Raises unless it is finite numbers and, as far as known, not all 0."""
    check_arguments(normal=normal)
    leaves = jax.tree.leaves(normal)
    is_right = not is_known(*leaves) or any(map(np.any, leaves))
    check(is_right, "normal", "other than 0 in each slice", normal)


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


def check_bounds(lower: Any, upper: Any) -> None:
    """Raises unless both are numbers and, as far as known, in order."""
    check_arguments(lower=lower, upper=upper)
    lows, highs = jax.tree.leaves(lower), jax.tree.leaves(upper)
    lows *= len(highs) if len(lows) == 1 else 1
    highs *= len(lows) if len(highs) == 1 else 1
    right = "of the tree structure of upper, unless one is a single array"
    check(len(lows) == len(highs), "lower", right, (lower, upper))
    for low, high in zip(lows, highs, strict=True):
        is_right = not is_known(low, high) or np.all(np.less_equal(low, high))
        check(is_right, "lower", "at most upper", (low, high))


def check_iteration(tolerance: Any, max_iterations: Any) -> None:
    """Raises unless the arguments of a prox that iterates are possible."""
    is_number = isinstance(tolerance, numbers.Real)
    is_number &= not isinstance(tolerance, bool)
    got = repr(tolerance)
    check(is_number, "tolerance", "a number", got, TypeError)
    check(tolerance > 0, "tolerance", "above 0", got)
    check_integer("max_iterations", max_iterations, 1)
