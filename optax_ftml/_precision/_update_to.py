"""The update that takes a parameter to a target, and not beyond it."""

import functools

import jax
import jax.numpy as jnp


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
    target = _round_to(target, dtype)
    delta = _round_to(target - theta, g.dtype)
    reached = _round_to(theta + delta, dtype)
    is_beyond = jax.lax.select(
        theta < target, reached > target, reached < target
    )
    shorter = delta * (1 - float(jnp.finfo(g.dtype).eps))
    return jax.lax.select(is_beyond, shorter, delta).astype(g.dtype)


def _round_to(x, dtype):
    # A cast to a narrow dtype and back XLA may leave out; this it may not.
    info = jnp.finfo(dtype)
    if info.bits >= jnp.finfo(x.dtype).bits:
        return x
    largest = float(info.max)
    x = jnp.clip(x, -largest, largest)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)
