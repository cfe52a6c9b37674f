"""A full-precision copy of low-precision parameters, for any optimizer."""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ftml import _checks


class MasterParamsState(NamedTuple):
    """State of `with_master_params`.

    Attributes:
        master: The wide copy of each parameter narrower than `dtype`, and
            `optax.MaskedNode()` in place of each of the others; a tree like
            the parameters.
        inner_state: The inner optimizer's state, for parameters in `dtype`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optax_ftml
        >>> optimizer = optax_ftml.with_master_params(optax.sgd(0.1))
        >>> state = optimizer.init(jnp.ones(2, jnp.bfloat16))
        >>> state.master
        Array([1., 1.], dtype=float32)
    """

    master: optax.Params
    inner_state: optax.OptState


def with_master_params(
    inner: optax.GradientTransformation, dtype: Any = jnp.float32
) -> optax.GradientTransformationExtraArgs:
    r"""Let an optimizer work on a wide copy of low-precision parameters.

    The inner optimizer sees gradients and parameters in ``dtype`` and moves
    the master copy :math:`m`; the parameters follow as its rounded value:
    after :func:`optax.apply_updates` they are exactly :math:`m` cast to their
    dtype. This is MXNet's ``multi_precision``, but that a finite step which
    would lead beyond the dtype's largest number ends there.

    Where the parameters are no longer the rounded master copy, because
    something else has moved them (a projection, a checkpoint, a new
    initialisation), the copy starts again from the parameters.

    Args:
        inner: Any optimizer.
        dtype: Dtype of the copy, float32 or float64. Parameters that are at
            least as wide, complex or not floating at all keep none, and
            reach the inner optimizer as they are.

    Returns:
        A :class:`optax.GradientTransformationExtraArgs`, whose state is a
        :class:`optax_ftml.MasterParamsState`. It needs the parameters in
        ``update``, and must come last in a chain. The updates of parameters
        that have a copy are in ``dtype``, whatever the gradients' dtype: only
        there is the way from one low-precision number to another a number.
        :func:`optax.apply_updates` returns the parameters' dtype.

    Raises:
        ValueError: An unusable ``dtype`` or, from ``update``, missing
            parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optax_ftml
        >>> optimizer = optax_ftml.with_master_params(optax_ftml.ftml(1e-4))
        >>> params = jnp.ones(2, jnp.bfloat16)
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jnp.ones(2, jnp.bfloat16)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(state.master.round(4), params)
        [0.9959 0.9959] [0.996094 0.996094]

    References:
        Micikevicius et al, `Mixed Precision Training
        <https://arxiv.org/abs/1710.03740>`_, ICLR 2018
    """
    _checks.check_master_dtype(dtype)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        master = jax.tree.map(
            lambda p: (
                jnp.asarray(p, dtype)
                if _is_narrower(p, dtype)
                else optax.MaskedNode()
            ),
            params,
        )
        return MasterParamsState(master, inner.init(_widen(params, master)))

    def update_fn(updates, state, params=None, **extra_args):
        _checks.check_given("params", params)
        master = jax.tree.map(_follow, params, state.master)
        updates, inner_state = inner.update(
            jax.tree.map(_cast_like, updates, master),
            state.inner_state,
            _widen(params, master),
            **extra_args,
        )
        updates = jax.tree.map(_towards, params, master, updates)
        # Added up as apply_updates does: its sum, before it casts, is the
        # master copy to the last bit.
        master = jax.tree.map(
            lambda p, m, u: m if _is_absent(m) else p.astype(m.dtype) + u,
            params,
            master,
            updates,
        )
        return updates, MasterParamsState(master, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_narrower(p, dtype):
    p = jnp.result_type(p)
    return (
        jnp.issubdtype(p, jnp.floating)
        and jnp.finfo(p).bits < jnp.finfo(dtype).bits
    )


def _is_absent(m):
    return isinstance(m, optax.MaskedNode)


def _widen(params, master):
    return jax.tree.map(lambda p, m: p if _is_absent(m) else m, params, master)


def _cast_like(x, m):
    return x if _is_absent(m) else x.astype(m.dtype)


def _follow(p, m):
    if _is_absent(m):
        return m
    # Bits, because XLA may leave out the rounding where it compares numbers.
    bits = jnp.dtype(f"uint{jnp.finfo(p.dtype).bits}")
    same = jax.lax.bitcast_convert_type(
        p, bits
    ) == jax.lax.bitcast_convert_type(m.astype(p.dtype), bits)
    return jnp.where(same, m, p.astype(m.dtype))


def _towards(p, m, u):
    if _is_absent(m):
        return u
    reached = optax.apply_updates(m, u)
    # Beyond the parameter's largest number there is no way back.
    largest = float(jnp.finfo(p.dtype).max)
    bounded = jnp.clip(reached, -largest, largest)
    reached = jnp.where(jnp.isfinite(reached), bounded, reached)
    return reached - p.astype(m.dtype)
