"""Names of leaves: the paths by which users speak of parameters."""

import collections
import fnmatch
from collections.abc import Iterable
from typing import Any

import jax
import optax

_VALUE = jax.tree_util.GetAttrKey("value")


def at(name: str) -> str:
    """Returns how an error speaks of a leaf."""
    return f"leaf '{name}'" if name else "the single array"


def spell(path: jax.tree_util.KeyPath) -> str:
    """Returns the keys of a path, joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_names(tree: Any) -> list[str]:
    """Returns the names of `named_leaves`."""
    return [name for name, _ in named_leaves(tree)]


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns each leaf after its path as users spell it: keys joined by "/".

    A last attribute `value` is left out where nothing stands beside it. That is
    how Flax NNX wraps each of its parameters: an `nnx.Optimizer` gives init a
    tree with these wrappers and update one without them, and a leaf has one
    name in both.
    """

    def is_absent(x):
        return x is None or isinstance(x, optax.MaskedNode)

    # A leaf has the same name where others are masked.
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_absent)
    within = collections.Counter(
        path[:i] for path, _ in leaves for i in range(len(path))
    )

    def name(path):
        is_wrapped = path[-1:] == (_VALUE,) and within[path[:-1]] == 1
        return spell(path[:-1] if is_wrapped else path)

    return [(name(path), leaf) for path, leaf in leaves if not is_absent(leaf)]


def patterns_of(
    name: str, patterns: Iterable[str], tree: Any
) -> list[str | None]:
    """Returns, for each leaf of a tree, the pattern that speaks of it, or None.

    A leaf's name goes before the patterns (as in :mod:`fnmatch`), and an
    earlier pattern before a later one. Where no other leaf is called so, a name
    may have a last "/value" more.

    Args:
        name: What the argument that has the patterns as keys is called in the
            error that one matches no leaf.
        patterns: Names and patterns of names.
        tree: Parameters, or a tree like them. One without leaves, such as the
            placeholder that optax.tree_map_params gives to init, is no error.
    """
    names = leaf_names(tree)
    taken, found = set(names), []
    for leaf in names:
        exact = {leaf, *({f"{leaf}/value"} - taken)}
        found.append(
            [p for p in patterns if p in exact]
            + [p for p in patterns if fnmatch.fnmatchcase(leaf, p)]
        )
    for pattern in patterns if names else ():
        if not any(pattern in matching for matching in found):
            raise ValueError(
                f"{name} must be a mapping with keys that match a parameter, "
                f"got {pattern!r}. The parameters are "
                f"{', '.join(names) or 'a single array'}."
            )
    return [next(iter(matching), None) for matching in found]
