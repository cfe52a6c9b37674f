"""Errors for arguments that the mathematics has no meaning for."""

import fnmatch
import inspect
import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics


def check_hyperparameters(**hyperparameters: Any) -> None:
    """Raises unless each is a number in its range, a traced one, or a schedule.

    Decay rates are the names that begin with "b", in [0, 1); the others, of
    which only `learning_rate` may be a schedule, are at least 0 and finite.
    """
    for name, value in hyperparameters.items():
        if name == "learning_rate" and callable(value):
            continue
        if not isinstance(value, numbers.Real | np.ndarray | jax.Array):
            kinds = "a number or an array of shape ()"
            if name == "learning_rate":
                kinds += " or a schedule"
            raise TypeError(f"{name} must be {kinds}, got {value!r}.")
        shape = () if isinstance(value, numbers.Real) else value.shape
        if shape != ():
            raise ValueError(
                f"{name} must be a number or an array of shape (), got an "
                f"array of shape {shape}."
            )
        if not isinstance(value, jax.Array):
            _check_range(name, float(value))
        elif name == "b2" and value.dtype == jnp.bfloat16:
            raise ValueError(
                "b2 must not be in bfloat16, where 0.999 is 1, got an array of "
                "bfloat16. optax.inject_hyperparams gives it the parameters' "
                "dtype unless told hyperparam_dtype=jnp.float32."
            )


def _check_range(name: str, value: float) -> None:
    is_decay = name.startswith("b")
    if not 0 <= value < (1 if is_decay else np.inf):
        range_ = "in [0, 1)" if is_decay else "at least 0 and finite"
        raise ValueError(f"{name} must be {range_}, got {value}.")


def check_accumulator_dtype(dtype: Any) -> None:
    """Raises unless it is None, bfloat16, float32 or an available float64."""
    if dtype is None:
        return
    expected = "accumulator_dtype must be None, bfloat16, float32 or float64"
    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise TypeError(f"{expected}, got {dtype!r}.") from None
    if dtype == jnp.float16:
        raise ValueError(
            f"{expected}, got float16, in which the squares of gradients "
            "below 0.00017 are 0 and those above 255 are infinite."
        )
    if dtype not in (jnp.bfloat16, jnp.float32, jnp.float64):
        raise ValueError(f"{expected}, got {dtype.name}.")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"{expected}, and float64 needs jax_enable_x64, got float64."
        )


def check_seed(seed: Any) -> None:
    """Raises unless it is an integer or an integer array of shape ()."""
    if not jnp.issubdtype(getattr(seed, "dtype", type(seed)), jnp.integer):
        raise TypeError(f"seed must be an integer, got {seed!r}.")
    if np.shape(seed) != ():
        raise ValueError(
            "seed must be an integer or an array of shape (), got an array of "
            f"shape {np.shape(seed)}."
        )


def check_master_dtype(dtype: Any) -> None:
    """Raises unless it is float32, or float64 where there is one."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"dtype must be float32 or float64, got {jnp.dtype(dtype).name}."
        )
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            "dtype must be float32 unless jax_enable_x64 is set, got float64."
        )


def path_name(path: jax.tree_util.KeyPath) -> str:
    """Returns how users spell a leaf's path: its keys, joined by "/".

    A last attribute `value` is left out. That is how Flax NNX wraps each of
    its parameters: an `nnx.Optimizer` gives init a tree with these wrappers and
    update one without them, and a leaf has one name in both.
    """
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def patterns_of(
    name: str, patterns: Iterable[str], tree: Any
) -> list[str | None]:
    """Returns, for each leaf of a tree, the pattern that speaks of it, or None.

    A path goes before the patterns (as in :mod:`fnmatch`), and an earlier
    pattern before a later one.

    Args:
        name: What the argument that has the patterns as keys is called in the
            error that one matches no leaf.
        patterns: Paths and patterns of paths.
        tree: Parameters, or a tree like them. One without leaves, such as the
            placeholder that optax.tree_map_params gives to init, is no error.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = [path_name(path) for path, _ in leaves]
    found = [
        [p for p in patterns if p == path or fnmatch.fnmatchcase(path, p)]
        for path in paths
    ]
    for pattern in patterns if leaves else ():
        if not any(pattern in matching for matching in found):
            raise ValueError(
                f"{name} must have keys that match a parameter, got "
                f"{pattern!r}. The parameters are {', '.join(paths)}."
            )
    return [
        path if path in matching else next(iter(matching), None)
        for path, matching in zip(paths, found, strict=True)
    ]


def check_given(name: str, value: Any) -> None:
    """Raises if what update needs has been left out."""
    if value is None:
        raise ValueError(
            f"{name} must be given: call update(grads, state, params), got "
            "None."
        )


def check_callable(name: str, value: Any) -> None:
    """Raises unless the value can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}.")


def check_function_of(name: str, value: Any, *arguments: str) -> None:
    """Raises unless the value is a function that needs these arguments.

    One with a default has a meaning of its own, as the scale of a projection.
    """
    check_callable(name, value)
    try:
        signature = inspect.signature(value)
        needed = [
            signature.parameters[key].default is inspect.Parameter.empty
            for key in signature.bind(*arguments).arguments
        ]
    except TypeError:
        needed = [False]
    except ValueError:
        return  # It has no signature.
    if not all(needed):
        raise TypeError(
            f"{name} must be a function of ({', '.join(arguments)}), without "
            f"defaults, got {value!r}."
        )


def check_prox_function(prox: Any) -> None:
    """Raises unless it can be called with a leader and a step size."""
    check_callable("prox", prox)
    name = getattr(prox, "__qualname__", "")
    module = getattr(prox, "__module__", None) or ""
    if module.startswith("optax_ftml.prox._") and name.isidentifier():
        raise TypeError(
            f"prox must be what optax_ftml.prox.{name}(...) returns, got "
            f"{name} itself."
        )
    check_function_of("prox", prox, "leader", "step_size")


def check_params(params: Any) -> None:
    """Raises unless every leaf is floating or complex."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                "params must be floating or complex arrays, got "
                f"{_at(path)} of {dtype}. optax.masked leaves out the others."
            )


def check_like(name: str, tree: Any, reference: Any) -> None:
    """Raises unless the tree has the parameters' structure and shapes.

    Args:
        name: What the tree is called in the error.
        tree: Gradients or parameters; None is an error of its own.
        reference: A tree with the structure and shapes of the parameters.
    """
    if reference is not None:
        check_given(name, tree)
    _check_structure(name, tree, "the params given to init", reference)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), other in zip(
        leaves, jax.tree.leaves(reference), strict=True
    ):
        if jnp.shape(leaf) != jnp.shape(other):
            raise ValueError(
                f"{name} must have the shapes of the params given to init: "
                f"{_at(path)} must have shape {jnp.shape(other)}, got "
                f"{jnp.shape(leaf)}."
            )


def check_prox(prox: Any, params: Any) -> None:
    """Calls a prox on shapes alone, so that its errors come from init."""
    check_params(params)
    if not jax.tree.leaves(params):
        return  # As when optax.tree_map_params calls init on a placeholder.

    def like(kind):
        def leaf(p):
            dtype = kind(_numerics.at_least_float32(p))
            return jax.ShapeDtypeStruct(jnp.shape(p), dtype)

        return jax.tree.map(leaf, params)

    leader = like(jnp.dtype)
    try:
        steps = like(lambda x: jnp.finfo(x).dtype)
        theta = jax.eval_shape(prox, leader, steps)
    except jax.errors.JAXTypeError:
        return  # It looks at values, and cannot be asked here.
    check_like_leader(theta, leader)


def check_like_leader(target: Any, leader: Any) -> None:
    """Raises unless a prox has returned a tree like its leader."""
    _check_structure("prox's result", target, "its leader", leader)
    leaves = jax.tree_util.tree_leaves_with_path(target)
    for (path, leaf), other in zip(
        leaves, jax.tree.leaves(leader), strict=True
    ):
        if jnp.shape(leaf) != other.shape:
            raise ValueError(
                "prox must return the shapes of its leader: "
                f"{_at(path)} must have shape {other.shape}, got "
                f"{jnp.shape(leaf)}."
            )
        if jnp.result_type(leaf) != other.dtype:
            raise TypeError(
                "prox must return the dtypes of its leader: "
                f"{_at(path)} must be {other.dtype}, got "
                f"{jnp.result_type(leaf)}."
            )


def _check_structure(name, tree, other_name, other):
    structure, expected = jax.tree.structure(tree), jax.tree.structure(other)
    if structure == expected:
        return
    paths, expected_paths = (
        {_at(path) for path, _ in jax.tree_util.tree_leaves_with_path(t)}
        for t in (tree, other)
    )
    difference = [
        f"{what} {', '.join(sorted(some)[:5])}"
        for what, some in (
            ("missing", expected_paths - paths),
            ("unexpected", paths - expected_paths),
        )
        if some
    ] or [f"{structure} instead of {expected}"]
    raise ValueError(
        f"{name} must have the tree structure of {other_name}, got "
        f"{'; '.join(difference)}."
    )


def _at(path) -> str:
    return f"leaf '{path_name(path)}'"
