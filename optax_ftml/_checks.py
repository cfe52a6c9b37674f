"""Errors for arguments, and the paths by which users name parameters.

An error names the argument, its value and what would be right. What JAX or
Optax says clearly by itself is left to them.
"""

import collections
import fnmatch
import inspect
import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ftml import _numerics

_VALUE = jax.tree_util.GetAttrKey("value")


def check(
    is_right: Any,
    name: str,
    right: str,
    got: Any,
    error: type[Exception] = ValueError,
) -> None:
    """Raises unless an argument is right.

    Args:
        is_right: Whether it is, as a truth value.
        name: What the argument is called.
        right: What it must be.
        got: What it is instead, in words if not a number.
        error: The kind of error.
    """
    if not is_right:
        raise error(f"{name} must be {right}, got {got}.")


def check_hyperparameters(**hyperparameters: Any) -> None:
    """Raises unless each is a number in its range, a traced one, or a schedule.

    Decay rates are the names that begin with "b", in [0, 1); the others, of
    which only `learning_rate` may be a schedule, are at least 0 and finite.
    """
    for name, value in hyperparameters.items():
        right = "a number or an array of shape ()"
        if name == "learning_rate":
            right += " or a schedule"
            if callable(value):
                continue
        is_number = isinstance(value, numbers.Real | np.ndarray | jax.Array)
        check(is_number, name, right, repr(value), TypeError)
        check(np.shape(value) == (), name, right, f"shape {np.shape(value)}")
        if isinstance(value, jax.Array):
            check(
                name != "b2" or value.dtype != jnp.bfloat16,
                name,
                "in float32, since 0.999 is 1 in bfloat16 (with "
                "optax.inject_hyperparams by hyperparam_dtype=jnp.float32)",
                "an array of bfloat16",
            )
        elif name.startswith("b"):
            check(0 <= value < 1, name, "in [0, 1)", value)
        else:
            check(0 <= value < np.inf, name, "at least 0 and finite", value)


def schedule_of(learning_rate: optax.ScalarOrSchedule) -> Any:
    """Returns it as a schedule that raises where its value is no number."""
    check_hyperparameters(learning_rate=learning_rate)
    if not callable(learning_rate):
        return lambda count: learning_rate

    def schedule(count):
        rate = learning_rate(count)
        is_number = isinstance(rate, numbers.Real) or hasattr(rate, "dtype")
        right = "a schedule that returns numbers"
        check(is_number, "learning_rate", right, f"one of {rate!r}", TypeError)
        return rate

    return schedule


def check_accumulator_dtype(dtype: Any) -> None:
    """Raises unless it is None, bfloat16, float32 or an available float64."""
    if dtype is not None:
        right = "None, bfloat16, float32"
        float16 = ", in which the squares of gradients below 2e-4 are 0"
        _check_dtype("accumulator_dtype", dtype, right, "bfloat16", float16)


def check_master_dtype(dtype: Any) -> None:
    """Raises unless it is float32, or float64 where there is one."""
    _check_dtype("dtype", dtype, "float32")


def _check_dtype(name, dtype, right, other="", float16=""):
    right += " or, with jax_enable_x64, float64" + _hint(dtype)
    try:
        found = None if isinstance(dtype, jax.Array) else jnp.dtype(dtype)
    except TypeError:
        found = None
    check(found is not None, name, right, repr(dtype), TypeError)
    is_available = jax.dtypes.canonicalize_dtype(found) == found
    is_right = is_available and found.name in ("float32", "float64", other)
    got = found.name + float16 * (found == jnp.float16)
    check(is_right, name, right, got)


def check_seed(seed: Any) -> None:
    """Raises unless it is an integer or an integer array of shape ()."""
    is_integer = jnp.issubdtype(getattr(seed, "dtype", type(seed)), jnp.integer)
    check(is_integer, "seed", "an integer", repr(seed), TypeError)
    shape = np.shape(seed)
    check(shape == (), "seed", "an integer, of shape ()", f"shape {shape}")


def check_given(name: str, value: Any) -> None:
    """Raises if what update needs has been left out."""
    right = "given: call update(grads, state, params)"
    check(value is not None, name, right, None)


def check_callable(name: str, value: Any) -> None:
    """Raises unless the value can be called."""
    right = "a function" + _hint(value)
    check(callable(value), name, right, repr(value), TypeError)


def _hint(value):
    """Returns what to do about the result of a call, where there is one."""
    if not isinstance(value, jax.Array):
        return ""
    return (
        " (optax.inject_hyperparams calls it as a schedule unless static_args "
        "names it)"
    )


def check_function_of(name: str, value: Any, *arguments: str) -> None:
    """Raises unless the value is a function that needs these arguments.

    One with a default has a meaning of its own, as the scale of a projection.
    """
    check_callable(name, value)
    try:
        parameters = inspect.signature(value).parameters
        bound = inspect.signature(value).bind(*arguments).arguments
        is_right = all(
            parameters[k].default is inspect.Parameter.empty for k in bound
        )
    except TypeError:
        is_right = False
    except ValueError:
        return  # It has no signature.
    right = f"a function of ({', '.join(arguments)}), without defaults"
    check(is_right, name, right, repr(value), TypeError)


def check_prox_function(prox: Any) -> None:
    """Raises unless it can be called with a leader and a step size."""
    name = getattr(prox, "__qualname__", "")
    module = getattr(prox, "__module__", None) or ""
    is_maker = module.startswith("optax_ftml.prox._") and name.isidentifier()
    right = f"what optax_ftml.prox.{name}(...) returns"
    check(not is_maker, "prox", right, f"{name} itself", TypeError)
    check_function_of("prox", prox, "leader", "step_size")


def check_params(
    params: Any, name: str = "params", *, is_complex: bool = True
) -> None:
    """Raises unless every leaf is floating or, if that is right, complex."""
    kind: Any = jnp.floating
    right = "floating arrays"
    if is_complex:
        kind, right = jnp.inexact, "floating or complex arrays"
    right += " (optax.masked leaves out others)" * (name == "params")
    leaves = zip(leaf_names(params), jax.tree.leaves(params), strict=True)
    for path, leaf in leaves:
        dtype = jnp.result_type(leaf)
        got = f"{at(path)} of {dtype}"
        check(jnp.issubdtype(dtype, kind), name, right, got, TypeError)


def check_like(name: str, tree: Any, reference: Any) -> None:
    """Raises unless the tree has the parameters' structure and shapes.

    Args:
        name: What the tree is called in the error.
        tree: Gradients or parameters; None is an error of its own.
        reference: A tree with the structure and shapes of the parameters.
    """
    if reference is not None:
        check_given(name, tree)
    properties = [("shape", jnp.shape, ValueError)]
    _check_like(name, tree, reference, "the params given to init", properties)


def check_prox(prox: _numerics.Prox, params: Any) -> None:
    """Calls a prox on shapes alone, so that its errors come from init.

    Not on a tree without leaves, such as the placeholder that
    optax.tree_map_params gives to init: it has none of the keys of params.
    """

    def call(params):
        leader = jax.tree.map(
            lambda p: jnp.asarray(p, _numerics.at_least_float32(p)), params
        )
        return leader, prox(leader, jax.tree.map(jnp.abs, leader))

    if jax.tree.leaves(params):
        shapes = jax.tree.map(
            lambda p: jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)),
            params,
        )
        try:
            leader, result = jax.eval_shape(call, shapes)
        except jax.errors.JAXTypeError:
            return  # It looks at values, and cannot be asked here.
        check_like_leader(result, leader)


def check_like_leader(result: Any, leader: Any) -> None:
    """Raises unless a prox has returned a tree like its leader."""
    properties = [
        ("shape", jnp.shape, ValueError),
        ("dtype", jnp.result_type, TypeError),
    ]
    _check_like("prox's result", result, leader, "its leader", properties)


def _check_like(name, tree, reference, source, properties):
    found, expected = (
        dict(zip(map(at, leaf_names(x)), jax.tree.leaves(x), strict=True))
        for x in (tree, reference)
    )
    structures = jax.tree.structure(tree), jax.tree.structure(reference)
    wrong = [f"missing {x}" for x in sorted(expected.keys() - found.keys())]
    wrong += [f"unexpected {x}" for x in sorted(found.keys() - expected.keys())]
    got = ", ".join(wrong[:5]) or "{} instead of {}".format(*structures)
    is_same = structures[0] == structures[1]
    check(is_same, name, f"a tree like {source}", got)
    for path, leaf in found.items():
        for what, of, error in properties:
            right = f"{of(expected[path])}, as in {source}"
            is_right = of(leaf) == of(expected[path])
            what = f"{name}: the {what} of {path}"
            check(is_right, what, right, of(leaf), error)


def at(name: str) -> str:
    """Returns how an error speaks of a leaf."""
    return f"leaf '{name}'" if name else "the single array"


def leaf_names(tree: Any) -> list[str]:
    """Returns how users spell the path of each leaf: its keys, joined by "/".

    A last attribute `value` is left out where nothing stands beside it. That is
    how Flax NNX wraps each of its parameters: an `nnx.Optimizer` gives init a
    tree with these wrappers and update one without them, and a leaf has one
    name in both.
    """
    return [names[0] for names in _spellings(tree)]


def spell(path: jax.tree_util.KeyPath) -> str:
    """Returns the keys of a path, joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spellings(tree):
    """Returns for each leaf its name and, if there is one, a shorter one."""

    def is_absent(x):
        return x is None or isinstance(x, optax.MaskedNode)

    # A leaf has the same name where others are masked.
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_absent)
    within = collections.Counter(
        path[:i] for path, _ in leaves for i in range(len(path))
    )

    def spellings(path):
        if path[-1:] != (_VALUE,):
            return [spell(path)]
        is_wrapped = within[path[:-1]] == 1
        return [spell(path)] * (not is_wrapped) + [spell(path[:-1])]

    return [spellings(path) for path, leaf in leaves if not is_absent(leaf)]


def patterns_of(
    name: str, patterns: Iterable[str], tree: Any
) -> list[str | None]:
    """Returns, for each leaf of a tree, the pattern that speaks of it, or None.

    A path goes before the patterns (as in :mod:`fnmatch`), and an earlier
    pattern before a later one. A last attribute `value` may be left out, unless
    another leaf has the shorter name; a path may have it also where it is not.

    Args:
        name: What the argument that has the patterns as keys is called in the
            error that one matches no leaf.
        patterns: Paths and patterns of paths.
        tree: Parameters, or a tree like them. One without leaves, such as the
            placeholder that optax.tree_map_params gives to init, is no error.
    """
    spellings = _spellings(tree)
    names = [first for first, *_ in spellings]
    taken, found = set(names), []
    for first, *shorter in spellings:
        known = {first, *(set(shorter) - taken)}
        exact = known | ({f"{first}/value"} - taken)
        found.append(
            [p for p in patterns if p in exact]
            + [
                p
                for p in patterns
                if any(fnmatch.fnmatchcase(n, p) for n in known)
            ]
        )
    for pattern in patterns if names else ():
        is_right = any(pattern in matching for matching in found)
        right = "a mapping with keys that match a parameter"
        parameters = ", ".join(names) or "a single array"
        got = f"{pattern!r}. The parameters are {parameters}"
        check(is_right, name, right, got)
    return [next(iter(matching), None) for matching in found]
