"""A prox for some leaves, another for others, none for the rest."""

from collections.abc import Mapping

import jax

from optax_ftml import _checks
from optax_ftml import _numerics


def by_path(proxes: Mapping[str, _numerics.Prox]) -> _numerics.Prox:
    """Gives each leaf the prox whose pattern its path matches.

    Each leaf is solved by itself: for a prox with ``axis=None`` it is a vector
    of its own. Leaves that match no pattern are free.

    Args:
        proxes: Proxes by parameter path (keys joined by "/") or pattern of
            paths (as in :mod:`fnmatch`), as ``lr_mult`` of
            :func:`optax_ftml.mxnet.ftml`. A path goes before the patterns, and
            an earlier pattern before a later one.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        TypeError: Keys that are not strings, values that are not functions.
        ValueError: From the prox, a pattern that matches no leaf.

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
    """
    if not isinstance(proxes, Mapping):
        raise TypeError(
            f"proxes must be a mapping from paths to proxes, got {proxes!r}."
        )
    proxes = dict(proxes)
    for pattern, prox in proxes.items():
        if not isinstance(pattern, str):
            raise TypeError(
                f"proxes must have parameter paths as keys, got {pattern!r}."
            )
        _checks.check_callable(f"proxes[{pattern!r}]", prox)

    def f(leader, step_size):
        def solve(pattern, x, s):
            return x if pattern is None else proxes[pattern](x, s)

        return jax.tree.unflatten(
            jax.tree.structure(leader),
            map(
                solve,
                _checks.patterns_of("proxes", proxes, leader),
                jax.tree.leaves(leader),
                jax.tree.leaves(step_size),
            ),
        )

    return f
