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
    """Returns the largest power of two whose square, twice, is finite.

    It is 2^63 in float32. The real and the imaginary part of a gradient count
    as at most this, and it is the step size where there was no gradient yet.
    """
    return 2.0 ** ((jnp.finfo(dtype).maxexp - 2) // 2)


def bounded(x: jax.Array) -> jax.Array:
    """Returns x with each real number in it at most `bound` in size."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(bounded(x.real), bounded(x.imag))
    return jnp.clip(x, -bound(x.dtype), bound(x.dtype))


def one_minus_power(b: jax.Array, t: jax.Array) -> jax.Array:
    """Returns 1 - b^t to a few units in the last place, for every t."""
    near_1 = jnp.where(b < 0.5, 0.5, b)
    t = t.astype(b.dtype)
    # Near 1, 1 - b^t cancels, and near_1 - 1 is exact.
    return jnp.where(b < 0.5, 1 - b**t, -jnp.expm1(t * jnp.log1p(near_1 - 1)))


def at_least_float32(*arrays):
    """Returns the widest dtype of float32 and the arrays'."""
    # NumPy's promotion, which jax_numpy_dtype_promotion="strict" allows.
    dtypes = map(jnp.result_type, arrays)
    return functools.reduce(np.promote_types, dtypes, np.dtype("float32"))


def widen(x, other):
    """Casts to a dtype that holds x, the other array and float32."""
    return jnp.asarray(x, at_least_float32(x, other))


def update_to(target, theta, g):
    """Returns the update, in g's dtype, that takes theta to the target.

    Where theta + (target - theta) would round to beyond the target, which may
    be the edge of the feasible set, it stops short of it.
    """
    if jnp.iscomplexobj(target):
        real = update_to(target.real, theta.real, g.real)
        return jax.lax.complex(real, update_to(target.imag, theta.imag, g.imag))
    target = round_to(target, jnp.result_type(theta))
    delta = round_to(target - jnp.asarray(theta, target.dtype), g.dtype)
    is_beyond = jnp.sign(apply_update(theta, delta) - target) * delta > 0
    shorter = delta * (1 - float(jnp.finfo(g.dtype).epsneg))
    return jnp.where(is_beyond, shorter, delta).astype(g.dtype)


def apply_update(theta, update):
    """Returns what `optax.apply_updates` makes of theta, in float32 or more."""
    reached = widen(theta, update) + widen(update, theta)
    return round_to(reached, jnp.result_type(theta))


def round_to(x, dtype):
    """Rounds to a dtype's numbers without a cast, which XLA may leave out."""
    if jnp.iscomplexobj(x):
        return x.astype(dtype)
    info = jnp.finfo(dtype)
    rounded = jax.lax.reduce_precision(x, info.nexp, info.nmant)
    if info.nexp >= jnp.finfo(x.dtype).nexp:
        return rounded
    # reduce_precision makes 0 of the subnormal numbers of float16.
    tiny, smallest = float(info.tiny), float(info.smallest_subnormal)
    fixed = jnp.round(x / smallest) * smallest
    return jnp.where(jnp.abs(x) < tiny, fixed, rounded)
