"""A prox for some leaves or subtrees, others for others, none for the rest."""

from collections.abc import Mapping

import jax

from optax_ftml import _numerics, _paths
from optax_ftml.prox import _checks


def by_path(proxes: Mapping[str, _numerics.Prox]) -> _numerics.Prox:
    """Gives leaves, and subtrees, the prox of their path.

    Each leaf is solved by itself: for a prox with ``axis=None`` it is a vector
    of its own. A subtree is solved as a whole, as if there were no other
    parameters. Leaves that match no key are free.

    Args:
        proxes: Proxes by the path of a leaf or of a subtree (keys joined by
            "/"), or by a pattern of leaves' paths (as in :mod:`fnmatch`). A
            path goes before the patterns, and an earlier pattern before a later
            one. Paths and keys in the arguments of a subtree's prox are
            relative to the subtree.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        TypeError: Keys that are not strings, values that are not functions.
        ValueError: From the prox, a key that matches no parameter, or the path
            of what is within the subtree of another key.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.by_path({
        ...     "mix/*": optax_ftml.prox.simplex(),
        ...     "*bias": optax_ftml.prox.non_negative(),
        ... })
        >>> params = {
        ...     "mix": {"weight": jnp.array([1.0, 1.0])},
        ...     "dense": {"kernel": -jnp.ones(2), "bias": -jnp.ones(1)},
        ... }
        >>> after = f(params, params)
        >>> print(after["mix"]["weight"])
        [0.5 0.5]
        >>> print(after["dense"]["kernel"], after["dense"]["bias"])
        [-1. -1.] [0.]

        A subtree's prox gets all of it:

        >>> f = optax_ftml.prox.by_path({
        ...     "dense": optax_ftml.prox.box({"kernel": -0.5, "bias": 0.0}, 1.0)
        ... })
        >>> after = f(params, params)
        >>> print(after["dense"]["kernel"], after["dense"]["bias"])
        [-0.5 -0.5] [0.]
    """
    _checks.check_proxes(proxes)
    proxes = dict(proxes)

    @_checks.two_arguments
    def f(leader, step_size):
        subtrees = proxes.keys() - set(_paths.leaf_names(leader))

        def is_subtree(path, x):
            is_named = _paths.spell(path) in subtrees
            return is_named and bool(jax.tree.leaves(x))

        parts, structure = jax.tree_util.tree_flatten_with_path(
            leader, is_leaf=is_subtree, is_leaf_takes_path=True
        )
        found = subtrees & {_paths.spell(path) for path, _ in parts}
        _checks.check_apart(found, proxes)
        keys = _paths.patterns_of(
            "proxes", proxes, structure.unflatten(range(len(parts)))
        )
        steps = structure.flatten_up_to(step_size)
        return structure.unflatten(
            x if key is None else proxes[key](x, s)
            for key, (_, x), s in zip(keys, parts, steps, strict=True)
        )

    return f
