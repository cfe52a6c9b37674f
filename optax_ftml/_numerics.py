"""The few functions that the contract about numbers needs, and the type Prox.

The arithmetic of the optimizers is as plain as Optax's. What differs stands
here: dtypes of at least float32, 1 - b^t without cancellation, the bound on a
gradient, and an update that does not lead beyond its target.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

Prox = Callable[[optax.Params, optax.Params], optax.Params]


def bound(dtype) -> float:
    """Returns the largest power of two whose square is half of the maximum.

    A gradient counts as at most this, 2^63 in float32, and it is the step size
    where there has been no gradient yet.
    """
    return 2.0 ** ((jnp.finfo(dtype).maxexp - 2) // 2)


def is_unresisted(step_size: jax.Array) -> jax.Array:
    """Returns where there has been no gradient yet: nothing resists there."""
    return step_size >= bound(step_size.dtype)


def at_least_float32(*arrays):
    # NumPy's promotion, which no setting forbids.
    dtypes = (jnp.result_type(x) for x in arrays)
    return functools.reduce(np.promote_types, dtypes, np.dtype(np.float32))


def widen(x, other):
    return x.astype(at_least_float32(x, other))


def narrow(x, dtype):
    """Casts, to the dtype's largest number where x is beyond it."""
    largest = float(jnp.finfo(dtype).max)
    if largest < jnp.finfo(x.dtype).max and not jnp.iscomplexobj(x):
        x = jnp.clip(x, -largest, largest)
    return x.astype(dtype)


@functools.partial(jax.jit, inline=True)
def update_to(target, theta, g):
    """Returns the update, in g's dtype, that takes theta to the target.

    Where theta + (target - theta) would round to beyond the target, which may
    be the edge of the feasible set, it stops short of it.
    """
    theta = jnp.asarray(theta)
    dtype = theta.dtype
    if jnp.iscomplexobj(target):
        return (target - theta).astype(g.dtype)
    theta = theta.astype(target.dtype)
    target = round_to(stay_finite(target, dtype), dtype)
    delta = round_to(stay_finite(target - theta, g.dtype), g.dtype)
    reached = round_to(theta + delta, dtype)
    is_beyond = jax.lax.select(
        theta < target, reached > target, reached < target
    )
    shorter = delta * (1 - float(jnp.finfo(g.dtype).epsneg))
    return jax.lax.select(is_beyond, shorter, delta).astype(g.dtype)


def stay_finite(x, dtype):
    """Returns x, the finite numbers no larger than a narrower dtype's."""
    if jnp.finfo(dtype).bits >= jnp.finfo(x.dtype).bits:
        return x
    largest = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isinf(x), x, jnp.clip(x, -largest, largest))


def round_to(x, dtype):
    """Rounds to the nearest number of a narrower dtype, in x's own dtype.

    A cast and a cast back would not do: XLA may leave them out.
    """
    info, wide = jnp.finfo(dtype), jnp.finfo(x.dtype)
    if info.bits >= wide.bits:
        return x
    rounded = jax.lax.reduce_precision(x, info.nexp, info.nmant)
    if info.nexp == wide.nexp:
        return rounded
    # There reduce_precision makes 0 of the narrow dtype's subnormal numbers.
    smallest = float(info.smallest_subnormal)
    is_subnormal = jnp.abs(x) < float(info.tiny)
    return jnp.where(is_subnormal, jnp.round(x / smallest) * smallest, rounded)
