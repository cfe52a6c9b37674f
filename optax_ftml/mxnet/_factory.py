"""MXNet's FTML under its own argument names."""

import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ftml import _checks, _ftml, _paths
from optax_ftml._precision import _master_params
from optax_ftml.mxnet import _schedulers

_BY_PATH = "parameters have paths; give lr_mult and wd_mult by path"
_WITHOUT_MEANING = {
    "use_fused_step": "XLA fuses the step by itself; leave it out",
    "aggregate_num": "an update is of the whole tree; leave it out",
    "param_idx2name": f"{_BY_PATH}, and state_from_mxnet its argument paths",
    "sym": _BY_PATH,
    "param_dict": _BY_PATH,
}


def _explaining(factory):
    """Decorates a factory to say why it lacks an argument of MXNet's."""

    # The factory has no **kwargs itself, which inject_hyperparams would inject.
    @functools.wraps(factory)
    def explaining_factory(*args, **kwargs):
        for name in kwargs.keys() & _WITHOUT_MEANING.keys():
            reason = _WITHOUT_MEANING[name]
            raise TypeError(f"ftml has no argument {name!r}: {reason}.")
        return factory(*args, **kwargs)

    return explaining_factory


@_explaining
def ftml(
    learning_rate: jax.typing.ArrayLike | None = 0.0025,
    beta1: jax.typing.ArrayLike = 0.6,
    beta2: jax.typing.ArrayLike = 0.999,
    epsilon: jax.typing.ArrayLike = 1e-8,
    *,
    rescale_grad: jax.typing.ArrayLike = 1.0,
    clip_gradient: jax.typing.ArrayLike | None = None,
    wd: jax.typing.ArrayLike = 0.0,
    lr_scheduler: optax.Schedule | None = None,
    lr_mult: Mapping[str, float] | None = None,
    wd_mult: Mapping[str, float] | None = None,
    begin_num_update: jax.typing.ArrayLike = 0,
    multi_precision: bool = False,
    order: str = "2.x",
) -> optax.GradientTransformationExtraArgs:
    """MXNet's ``mxnet.optimizer.FTML``, argument by argument.

    The gradient of step t is, with ``order="2.x"`` and with ``order="1.x"``::

        clip(rescale_grad * g) + wd * theta
        clip(rescale_grad * g + wd * theta)

    and the step that follows is :func:`optax_ftml.ftml`'s. MXNet 1.x has
    another default learning rate, 0.01.

    Args:
        learning_rate: At least 0, or None for `lr_scheduler`'s, and 0.01
            without one. Together with one of this module's schedulers it
            replaces the scheduler's `base_lr`, as far as MXNet does
            (`FactorScheduler` and `MultiFactorScheduler` after their warm-up;
            the other two keep their own). A step with learning rate 0 leaves
            the parameters where they are; MXNet divides by 0.
        beta1: In [0, 1).
        beta2: In [0, 1).
        epsilon: At least 0.
        rescale_grad: Multiplies the gradient, before all else. Gluon's
            ``trainer.step(batch_size)`` makes it 1 / batch_size.
        clip_gradient: Each element of the gradient is clipped to
            [-clip_gradient, clip_gradient]. None, 0 and negative numbers,
            injected ones too, do not clip, as in MXNet 1.x and the fused step
            of 2.x.
        wd: Weight decay inside the gradient (L2).
        lr_scheduler: One of this module's schedulers. Any other optax schedule
            needs ``learning_rate=None``.
        lr_mult: Factors of the learning rate by parameter path (keys joined by
            "/") or pattern of paths (as in :mod:`fnmatch`). A path goes before
            patterns, a pattern before later ones. Without an entry it is 1.
            Paths of Flax NNX's parameters do without their "/value".
        wd_mult: Factors of `wd`, likewise. MXNet 1.x gives 0 to those
            parameters whose names end in neither "_weight" nor "_gamma" when
            it has their names from `param_idx2name`.
        begin_num_update: The number of updates to start counting from.
        multi_precision: Keep a float32 copy of parameters in lower precision
            and update that (:func:`optax_ftml.with_master_params`).
        order: "2.x" or "1.x".

    Returns:
        A :class:`optax.GradientTransformationExtraArgs`. With `wd` or
        `multi_precision` its update needs the parameters.

    Raises:
        TypeError: An unknown argument, or one that means nothing in JAX; an
            argument of the wrong type.
        ValueError: An argument out of its range; from ``init`` and ``update``,
            an entry of `lr_mult` or `wd_mult` that matches no parameter.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from optax_ftml import mxnet
        >>> optimizer = mxnet.ftml(
        ...     learning_rate=0.1,
        ...     wd=0.01,
        ...     clip_gradient=1.0,
        ...     lr_scheduler=mxnet.FactorScheduler(step=100, factor=0.5),
        ...     wd_mult={"*/bias": 0.0},
        ... )
        >>> params = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}}
        >>> state = optimizer.init(params)
        >>> grads = {"dense": {"kernel": jnp.ones(2), "bias": jnp.zeros(1)}}
        >>> updates, state = optimizer.update(grads, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> print([f"{x:.3f}" for x in params["dense"]["kernel"]])
        ['0.900', '0.900']
    """
    _checks.check_hyperparameters(beta1=beta1, beta2=beta2, epsilon=epsilon)
    is_order = order in ("1.x", "2.x")
    _checks.check(is_order, "order", "'1.x' or '2.x'", repr(order))
    if not isinstance(begin_num_update, jax.Array):
        _schedulers.check_integer("begin_num_update", begin_num_update, 0)
    schedule = resolve_learning_rate(learning_rate, lr_scheduler)
    clip, decay = _clip(clip_gradient), _decay(wd, wd_mult)

    def multiply(updates, _):
        multipliers = factors("lr_mult", lr_mult, updates)
        return jax.tree.map(operator.mul, updates, multipliers)

    chain = optax.chain(
        optax.scale(_finite("rescale_grad", rescale_grad)),
        *((clip, decay) if order == "2.x" else (decay, clip)),
        _ftml.ftml(schedule, beta1, beta2, epsilon),
        optax.stateless(multiply),
    )

    def init_fn(params):
        factors("lr_mult", lr_mult, params)  # for their errors
        factors("wd_mult", wd_mult, params)
        return with_count(chain.init(params), begin_num_update)

    optimizer = chain._replace(init=init_fn)
    if multi_precision:
        return _master_params.with_master_params(optimizer)
    return optimizer


_PARAMETERS = inspect.signature(ftml).parameters
DEFAULTS = {name: x.default for name, x in _PARAMETERS.items()}


def resolve_learning_rate(learning_rate: Any, lr_scheduler: Any) -> Any:
    """Returns the learning rate or schedule that MXNet makes of the two."""
    name, got = "learning_rate", repr(learning_rate)
    right = "a number or None (a schedule goes with None, as lr_scheduler)"
    _checks.check(not callable(learning_rate), name, right, got, TypeError)
    if learning_rate is not None:
        _checks.check_hyperparameters(learning_rate=learning_rate)
    if lr_scheduler is None:
        return 0.01 if learning_rate is None else learning_rate
    _checks.check_callable("lr_scheduler", lr_scheduler)
    if learning_rate is None:
        return lr_scheduler
    is_mxnets = isinstance(lr_scheduler, _schedulers.Scheduler)
    right = "None with an lr_scheduler that is not MXNet's"
    _checks.check(is_mxnets, name, right, got)
    return lr_scheduler.with_base_lr(learning_rate)


def factors(
    name: str, multipliers: Mapping[str, float] | None, tree: Any
) -> Any:
    """Returns a tree with the factor of each leaf.

    Args:
        name: What the multipliers are called in an error.
        multipliers: Factors by path or pattern.
        tree: Parameters, or a tree like them.
    """
    multipliers = multipliers or {}
    for pattern, factor in multipliers.items():
        right = "a mapping from parameter paths"
        _checks.check(isinstance(pattern, str), name, right, pattern, TypeError)
        _finite(f"{name}[{pattern!r}]", factor)
    patterns = _paths.patterns_of(name, multipliers, tree)
    found = [1.0 if p is None else float(multipliers[p]) for p in patterns]
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def with_count(state: Any, count: jax.typing.ArrayLike) -> Any:
    """Returns the state after `count` updates, as far as counts go."""

    def set_count(node):
        return node._replace(count=jnp.array(count, node.count.dtype))

    kinds = _ftml.ScaleByFtmlState | _ftml.FtmlState
    return map_nodes(set_count, kinds | optax.ScaleByScheduleState, state)


def map_nodes(function: Callable[[Any], Any], kinds: Any, tree: Any) -> Any:
    """Replaces the nodes of these types in a tree by what is made of them."""

    def is_node(x):
        return isinstance(x, kinds)

    return jax.tree.map(
        lambda x: function(x) if is_node(x) else x, tree, is_leaf=is_node
    )


def _clip(bound):
    if bound is None:
        return optax.identity()
    bound = _finite("clip_gradient", bound)

    def clip_leaf(g, _):
        limit = jnp.where(bound > 0, bound, jnp.inf).astype(g.dtype)
        return jnp.clip(g, -limit, limit)

    return optax.stateless_with_tree_map(clip_leaf)


def _decay(wd, wd_mult):
    wd = _finite("wd", wd)
    if isinstance(wd, numbers.Real) and wd == 0:
        return optax.identity()  # It needs no parameters.

    def decay_leaf(g, factor, p):
        return g + jnp.asarray(wd * factor, g.dtype) * jnp.asarray(p, g.dtype)

    def decay(updates, params):
        _checks.check_given("params", params)
        tree = factors("wd_mult", wd_mult, updates)
        return jax.tree.map(decay_leaf, updates, tree, params)

    return optax.stateless(decay)


def _finite(name, value):
    """Returns a number, a Python one if it is known, or raises."""
    if isinstance(value, jax.Array):
        return value
    value = np.asarray(value).tolist()
    is_number = isinstance(value, numbers.Real)
    _checks.check(is_number, name, "a number", repr(value), TypeError)
    _checks.check(math.isfinite(value), name, "finite", value)
    return value
