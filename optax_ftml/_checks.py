"""Errors for arguments.

An error names the argument, its value and what would be right. What JAX or
Optax says clearly by itself is left to them.
"""

import contextlib
import inspect
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ftml import _numerics, _paths

_CALLED = (
    " (optax.inject_hyperparams calls it as a schedule unless static_args "
    "names it)"
)


def check(
    is_right: Any, name: str, right: str, got: Any, error: type = ValueError
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
    """Raises unless each is a number in its range, or a traced one.

    Decay rates are the names that begin with "b", in [0, 1); the others are at
    least 0 and finite.
    """
    for name, value in hyperparameters.items():
        _check_hyperparameter(name, value)


def _check_hyperparameter(name, value, or_else=""):
    is_number = isinstance(value, numbers.Real | np.ndarray | jax.Array)
    is_right = is_number and np.shape(value) == ()
    right = "a number or an array of shape ()" + or_else
    check(is_right, name, right, repr(value), TypeError)
    if isinstance(value, jax.Array):
        right = (
            "in float32, since 0.999 is 1 in bfloat16 (with "
            "optax.inject_hyperparams by hyperparam_dtype=jnp.float32)"
        )
        is_right = name != "b2" or value.dtype != jnp.bfloat16
        check(is_right, name, right, "an array of bfloat16")
    elif name.startswith("b"):
        check(0 <= value < 1, name, "in [0, 1)", value)
    else:
        check(0 <= value < np.inf, name, "at least 0 and finite", value)


def schedule_of(learning_rate: optax.ScalarOrSchedule) -> Any:
    """Returns it as a schedule whose values are checked."""
    if not callable(learning_rate):
        _check_hyperparameter("learning_rate", learning_rate, " or a schedule")
        return lambda count: learning_rate

    def schedule(count):
        rate = learning_rate(count)
        _check_hyperparameter("learning_rate(count)", rate)
        return rate

    return schedule


def check_dtype(name: str, dtype: Any, *known: str | None) -> None:
    """Raises unless it is one of these or, where there is one, float64."""
    right = ", ".join(map(str, known)) + " or, with jax_enable_x64, float64"
    dtypes = [x and jnp.dtype(x) for x in known]
    dtypes.append(jax.dtypes.canonicalize_dtype("float64"))  # Or it is float32.
    is_array = isinstance(dtype, jax.Array)
    # NumPy takes None for float64.
    is_left_out = dtype is None and None not in known
    is_right = not is_array and not is_left_out and dtype in dtypes
    check(is_right, name, right + _CALLED * is_array, repr(dtype))


def check_seed(seed: Any) -> None:
    """Raises unless it is an integer or an integer array of shape ()."""
    is_integer = jnp.issubdtype(getattr(seed, "dtype", type(seed)), jnp.integer)
    is_right = is_integer and np.shape(seed) == ()
    check(is_right, "seed", "an integer", repr(seed), TypeError)


def check_given(name: str, value: Any) -> None:
    """Raises if what update needs has been left out."""
    right = "given: call update(grads, state, params)"
    check(value is not None, name, right, None)


def check_callable(name: str, value: Any) -> None:
    """Raises unless the value can be called."""
    right = "a function" + _CALLED * isinstance(value, jax.Array)
    check(callable(value), name, right, repr(value), TypeError)


def check_function_of(name: str, value: Any, *arguments: str) -> None:
    """Raises unless the value is a function that needs these arguments.

    One with a default has a meaning of its own, as the scale of a projection.
    """
    check_callable(name, value)
    try:
        signature = inspect.signature(value)
        given = signature.bind(*arguments).arguments.keys()
        defaults = [signature.parameters[x].default for x in given]
        is_right = all(x is signature.empty for x in defaults)
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
    kind: Any = jnp.inexact if is_complex else jnp.floating
    right = "floating or complex arrays" if is_complex else "floating arrays"
    right += " (optax.masked leaves out others)" * (name == "params")
    for path, leaf in _paths.named_leaves(params):
        dtype = jnp.result_type(leaf)
        got = f"{_paths.at(path)} of {dtype}"
        check(jnp.issubdtype(dtype, kind), name, right, got, TypeError)


def check_like(reference: Any, **trees: Any) -> None:
    """Raises unless each tree has the structure and shapes of the parameters.

    Args:
        reference: A part of the state, which has them.
        **trees: Gradients or parameters by name; None is an error of its own.
    """
    for name, tree in trees.items():
        if reference is not None:
            check_given(name, tree)
        _check_like(name, tree, reference, "the params given to init", _SHAPE)


def check_prox(prox: _numerics.Prox, leader: Any) -> None:
    """Calls a prox on shapes alone, so that its errors come from init.

    Not on a tree without leaves, such as the placeholder that
    optax.tree_map_params gives to init: it has none of the keys of params.
    """

    def call(leader):
        check_like_leader(prox(leader, jax.tree.map(jnp.abs, leader)), leader)

    if jax.tree.leaves(leader):
        # One that looks at values cannot be asked here.
        with contextlib.suppress(jax.errors.JAXTypeError):
            jax.eval_shape(call, leader)


def check_like_leader(result: Any, leader: Any) -> None:
    """Raises unless a prox has returned a tree like its leader."""
    _check_like("prox's result", result, leader, "its leader", _SHAPE, _DTYPE)


_SHAPE = ("shape", jnp.shape, ValueError)
_DTYPE = ("dtype", jnp.result_type, TypeError)


def _check_like(name, tree, reference, source, *properties):
    leaves, likes = map(_paths.named_leaves, (tree, reference))
    found, expected = ({path for path, _ in x} for x in (leaves, likes))
    wrong = [f"missing {_paths.at(x)}" for x in sorted(expected - found)]
    wrong += [f"unexpected {_paths.at(x)}" for x in sorted(found - expected)]
    structures = jax.tree.structure(tree), jax.tree.structure(reference)
    got = ", ".join(wrong[:5]) or "{} instead of {}".format(*structures)
    is_same = structures[0] == structures[1]
    check(is_same, name, f"a tree like {source}", got)
    for (path, leaf), (_, like) in zip(leaves, likes, strict=True):
        for what, of, error in properties:
            what = f"{name}: the {what} of {_paths.at(path)}"
            right = f"{of(like)}, as in {source}"
            check(of(leaf) == of(like), what, right, of(leaf), error)
