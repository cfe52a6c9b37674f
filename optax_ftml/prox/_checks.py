"""Errors of the proxes, and the numbers that their arguments stand for.

What an argument says of itself is checked where a prox is made; whether it
fits the parameters, where the prox first meets them.
"""

import functools
import numbers
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _checks
from optax_ftml import _numerics

AT_LEAST_0 = (lambda x: x >= 0, "at least 0")
NOT_NAN = (lambda x: x == x, "a number and not NaN")
FINITE = (np.isfinite, "finite")

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
        _checks.check(count == 2, "prox", right, got, TypeError)
        return prox(*args, **kwargs)

    return checked  # type: ignore[return-value]


def check_numbers(name: str, tree: Any, *rules: tuple[Callable, str]) -> None:
    """Raises unless it is numbers and, as far as known, within the rules."""
    leaves = jax.tree.leaves(tree)
    is_right = leaves != [] and all(map(is_number, leaves))
    right = "a number, an array or a tree of these"
    _checks.check(is_right, name, right, repr(tree), TypeError)
    for leaf in filter(is_known, leaves):
        for rule, words in rules:
            _checks.check(np.all(rule(np.asarray(leaf))), name, words, leaf)


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
    """Raises unless it is an int, distinct ints, None or a mapping to axes."""
    right = "an int, a tuple of ints" + ", None" * is_optional
    right += " or a mapping from paths to ints or tuples of ints"
    is_mapping = isinstance(axis, Mapping)
    for key, value in axis.items() if is_mapping else [("", axis)]:
        axes = value if isinstance(value, tuple) else (value,)
        is_right = isinstance(key, str) and all(map(_is_integer, axes))
        is_right &= is_mapping or axes != ()
        is_right |= axis is None and is_optional
        _checks.check(is_right, "axis", right, repr(axis), TypeError)
        is_right = len(set(axes)) == len(axes)
        _checks.check(is_right, "axis", "distinct axes", repr(axis))


def _is_integer(x):
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def check_one_axis(axis: Any) -> None:
    """Raises unless it is an int."""
    check_integer("axis", axis, None)


def check_integer(name: str, value: Any, least: int | None) -> None:
    """Raises unless it is an integer, and at least so large."""
    is_right = _is_integer(value)
    _checks.check(is_right, name, "an integer", repr(value), TypeError)
    is_right = least is None or value >= least
    _checks.check(is_right, name, f"at least {least}", value)


def leaves_of(
    name: str, leader: Any, step_size: Any, *, is_complex: bool
) -> tuple[list[str], list[jax.Array], list[jax.Array]]:
    """Returns the paths and the leaves of both, or says what is wrong.

    The leaves are in at least float32, for the arithmetic.
    """
    _checks.check_params(leader, f"{name}'s leader", is_complex=is_complex)
    structure: Any = jax.tree.structure(step_size)
    is_right = structure == jax.tree.structure(leader)
    right = "a tree like the leader"
    _checks.check(is_right, f"{name}'s step_size", right, structure)

    def in_real_dtype(x, s):
        return jnp.broadcast_to(jnp.asarray(s, real_dtype(x)), x.shape)

    leader = jax.tree.map(
        lambda x: jnp.asarray(x, _numerics.at_least_float32(x)), leader
    )
    return (
        _checks.leaf_names(leader),
        jax.tree.leaves(leader),
        jax.tree.leaves(jax.tree.map(in_real_dtype, leader, step_size)),
    )


def tree_of(leaves: Sequence[jax.Array], leader: Any) -> Any:
    """Returns the leaves as a tree with the leader's dtypes."""
    return jax.tree.map(
        lambda given, leaf: leaf.astype(jnp.result_type(given)),
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
    given = dict(
        zip(_checks.leaf_names(values), jax.tree.leaves(values), strict=True)
    )
    keys = {
        path: key
        for path in paths
        for key in given
        if key in ("", path) or path.startswith(key + "/")
    }
    missing = [path or "an array" for path in paths if path not in keys]
    wrong = [f"missing {x}" for x in missing]
    wrong += [f"unexpected {x}" for x in sorted(given.keys() - keys.values())]
    right = "a number, an array or a tree with the parameters' keys"
    if isinstance(values, list | tuple):
        kind = type(values).__name__
        right += f" (a {kind} is a tree; jnp.array makes it an array)"
    _checks.check(not (wrong and paths), name, right, ", ".join(wrong[:5]))
    return [
        _shaped(name, given[keys[path]], path, real_dtype(x), shape)
        for path, x, shape in zip(paths, like, shapes, strict=True)
    ]


def _shaped(name, value, path, dtype, shape):
    is_right = broadcasts(jnp.shape(value), shape)
    right = f"of a shape that broadcasts to {shape} for {_checks.at(path)}"
    _checks.check(is_right, name, right, f"shape {jnp.shape(value)}")
    # Known numbers stay NumPy's, so that they can be checked under jit.
    numpy = np if is_known(value) else jnp
    value = numpy.asarray(value).astype(dtype)
    # Broadcasting is left to XLA, which stores nothing as large as the leaf.
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
    is_right = not is_known(*leaves) or any(map(np.any, leaves))
    _checks.check(is_right, "normal", "other than 0 in each slice", normal)


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
    right = "of the tree structure of upper, unless one is a single array"
    _checks.check(len(lows) == len(highs), "lower", right, (lower, upper))
    for low, high in zip(lows, highs, strict=True):
        is_right = not is_known(low, high) or np.all(np.less_equal(low, high))
        _checks.check(is_right, "lower", "at most upper", (low, high))
