"""The leader form of FTML: for constraints and penalties, with a prox.

XLA writes a donated state in place, but copies it first where something else
reads it, unless it knows of an order. Two devices give it one. `_after` makes a
result depend on another by a choice that LLVM, which sees how it ends, leaves
out. `_in_turn` does so with scalars, which a GPU then computes in one kernel;
its barrier keeps them from being computed again in the kernel of each leaf.

XLA's time to compile grows with the operations on each leaf. So where `eps`
alone guards the divisions, as it usually does, the other guards are left out,
and the scale of the metric, 1 / sqrt(1 - b2^t), goes into the scalars.
"""

import functools
import itertools
import math
import numbers
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ftml import _checks
from optax_ftml import _ftml
from optax_ftml import _numerics
from optax_ftml._precision import _stochastic_rounding


class FtmlLeaderState(NamedTuple):
    """State of the leader form.

    The last four are the scalars, shape () and float32 (float64 under
    `jax_enable_x64`), that give the metric of the last step from `v`:
    d = (sqrt(v / v_correction + eps_root) + eps) / rate.

    Attributes:
        count: Number of updates so far; shape (), int32.
        v: Moving average of `abs(g)**2`; a tree like the parameters, real, at
            least float32 unless `accumulator_dtype` says otherwise.
        leader: The minimiser -z / d before the prox; a tree like the
            parameters, at least float32. Zeros, without a meaning, before the
            first update.
        rate: Learning rate / (1 - b1^t); 0 before the first update and after a
            step with learning rate 0, which leave nothing to remember.
        v_correction: 1 - b2^t; 1 before the first update.
        eps: The last step's `eps`.
        eps_root: The last step's `eps_root`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> optimizer = optax_ftml.ftml(0.5, prox=optax_ftml.prox.box(-1, 1))
        >>> params = jnp.array([0.9, 0.0])
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(-jnp.ones(2), state, params)
        >>> print([f"{x:.2f}" for x in state.leader])
        ['1.40', '0.50']
    """

    count: jax.Array  # type: ignore[assignment]
    v: optax.Updates
    leader: optax.Params
    rate: jax.Array
    v_correction: jax.Array
    eps: jax.Array
    eps_root: jax.Array


def leader_form(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    eps_root: jax.typing.ArrayLike,
    *,
    accumulator_dtype: Any,
    seed: int,
    prox: _numerics.Prox,
) -> optax.GradientTransformationExtraArgs:
    """Returns :func:`optax_ftml.ftml` with a prox; the arguments are its."""
    _checks.check_hyperparameters(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    _checks.check_accumulator_dtype(accumulator_dtype)
    _checks.check_seed(seed)
    _checks.check_prox_function(prox)
    if isinstance(b1, numbers.Real) and b1 == 0:
        return _without_memory(
            learning_rate, b2, eps, eps_root, accumulator_dtype, seed, prox
        )

    eps_is_enough = _is_enough(eps, b2, eps_root)
    is_short = isinstance(learning_rate, numbers.Real) and learning_rate <= 1

    def init_fn(params):
        v = _ftml.init_v(params, accumulator_dtype)
        _checks.check_prox(prox, params)
        return FtmlLeaderState(
            count=jnp.zeros([], jnp.int32),
            v=v,
            leader=jax.tree.map(
                lambda p: jnp.zeros_like(
                    p, dtype=_numerics.at_least_float32(p)
                ),
                params,
            ),
            rate=jnp.zeros([], float),
            v_correction=jnp.ones([], float),
            # Copies, which no one else has, so that a step may reuse them.
            eps=jnp.array(eps, float),
            eps_root=jnp.array(eps_root, float),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        _checks.check_like("updates", updates, state.v)
        _checks.check_like("params", params, state.v)
        most = _ftml.largest(state.v)
        lr = _at(learning_rate, state.count, most)
        count = optax.safe_increment(state.count)
        # What the last step left is read before its place is written to.
        last_metric, last_scale = metric_from(state), None
        if eps_is_enough:
            last_metric, last_scale = _divided(last_metric, most)
        last_metric, last_scale, last_rate = _in_turn(
            count, last_metric, last_scale, state.rate
        )
        inputs = lr, b1, 1 - b1, 1 - b2, eps, eps_root, last_rate, last_scale
        _, *kept, step, metric = _in_turn(
            count, last_rate, *_scalars(count, *inputs, most, is_short)
        )
        weights = _ftml.weights(b2)
        leader = jax.tree.map(
            lambda *x: _next_leader(*x, step, metric, last_metric, weights),
            updates,
            state.v,
            state.leader,
            params,
        )
        v = jax.tree.map(
            lambda *x: _next_v(*x, weights), updates, state.v, leader
        )
        step_sizes = jax.tree.map(
            lambda *x: _step_size(*x, step[0], metric), v, leader
        )
        target = prox(leader, step_sizes)
        _checks.check_like_leader(target, leader)
        updates = jax.tree.map(_update, target, v, params, updates)
        v = _stochastic_rounding.cast_like(v, state.v, seed, count)
        return updates, FtmlLeaderState(count, v, leader, *kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _without_memory(
    learning_rate, b2, eps, eps_root, accumulator_dtype, seed, prox
):
    """Returns the leader form of b1 = 0, whose state is v alone."""

    def init_fn(params):
        v = _ftml.init_v(params, accumulator_dtype)
        _checks.check_prox(prox, params)
        return _ftml.ScaleByFtmlState(jnp.zeros([], jnp.int32), v)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        _checks.check_like("updates", updates, state.v)
        _checks.check_like("params", params, state.v)
        most = _ftml.largest(state.v)
        lr = _at(learning_rate, state.count, most)
        count = optax.safe_increment(state.count)
        correction = _ftml.one_minus_power(1 - b2, count)
        metric = _ftml.metric_of(correction, eps, eps_root, 1 - b2, most)
        v = jax.tree.map(
            lambda g, v: _ftml.next_v(g, v, *_ftml.weights(b2)),
            updates,
            state.v,
        )
        leader = jax.tree.map(
            lambda *arrays: _step(*arrays, lr, metric), updates, v, params
        )
        step_sizes = jax.tree.map(
            lambda v, leader: _step_size(v, leader, lr, metric), v, leader
        )
        target = prox(leader, step_sizes)
        _checks.check_like_leader(target, leader)
        updates = jax.tree.map(_numerics.update_to, target, params, updates)
        return updates, _ftml.ScaleByFtmlState(
            count, _stochastic_rounding.cast_like(v, state.v, seed, count)
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def metric_from(state):
    """Returns the scalars that `_ftml.denominator` made of the last v."""
    most = _ftml.largest(state.v)
    eps = jnp.maximum(state.eps, 4 / most)  # 0 times infinity is NaN.
    return _ftml.metric_of(state.v_correction, eps, state.eps_root, 0.0, most)[
        :-1
    ]


def _at(learning_rate, count, most):
    if callable(learning_rate):
        learning_rate = learning_rate(count)
    return jnp.minimum(jnp.asarray(learning_rate, float), most)


def _after(x, y):
    """Returns x, which XLA then computes after y."""
    return jax.lax.select(y < y, jnp.real(y).astype(x.dtype), x)


def _in_turn(count, *scalars):
    """Returns the scalars, in the same tree, each after the one before.

    A CPU's compiler would write the order into each leaf's kernel, and what
    they are made of, unless it ends with a division: here one by 1.
    """
    scalars, structure = jax.tree.flatten(scalars)

    def ordered(*scalars):
        chain = itertools.accumulate(scalars, lambda y, x: _after(x, y))
        return jax.lax.optimization_barrier(list(chain))

    def divided(*scalars):
        return [x / jnp.minimum(count, 1).astype(float) for x in scalars]

    scalars = jax.lax.platform_dependent(*scalars, cpu=divided, default=ordered)
    return structure.unflatten(scalars)


def _is_enough(eps, b2, eps_root):
    """Returns whether eps is known and large, and nothing is inside the root.

    Large is where adding |g| changes nothing if |g|^2 is too small for v. The
    price of `_divided` is that a step below 1e-25 may be 0.
    """
    if not all(isinstance(x, numbers.Real) for x in (eps, b2, eps_root)):
        return False
    info = jnp.finfo(jnp.float32)
    smallest = math.sqrt(float(info.tiny) / (1 - b2))
    return eps_root == 0 and eps >= smallest / float(info.eps)


def _divided(metric, most):
    """Returns the metric divided by its scale, and the scale."""
    scale, inside, eps, *root = metric
    return (None, inside, jnp.maximum(eps / scale, 4 / most), *root), scale


@functools.partial(jax.jit, static_argnames="is_short")
def _scalars(
    count,
    lr,
    b1,
    one_minus_b1,
    one_minus_b2,
    eps,
    eps_root,
    last_rate,
    last_scale,
    most,
    is_short,
):
    """Returns what is kept for the next step, and what this one is made of.

    The learning rates meet as their ratio, since one over one may be infinite.
    So may products: hence the bounds, and steps above 1 as the others' unit.
    With the last metric's scale, both metrics are divided by theirs.
    """
    eps, eps_root = (jnp.asarray(x, float) for x in (eps, eps_root))
    rate = lr / _ftml.one_minus_power(one_minus_b1, count)
    rate = jnp.minimum(rate, most / 32)  # One over it is not subnormal.
    correction = _ftml.one_minus_power(one_minus_b2, count)
    unit = [] if is_short else [jnp.maximum(one_minus_b1 * rate, 1)]
    in_units = rate / math.prod(unit)
    ratio = jnp.where(last_rate > 0, in_units, 0)
    metric = _ftml.metric_of(correction, eps, eps_root, one_minus_b2, most)
    if last_scale is not None:
        (_, _, *metric), scale = _divided(metric, most)
        metric = None, None, *metric
        lr, in_units, ratio = (x / scale for x in (lr, in_units, ratio))
        ratio *= last_scale
    ratio = jnp.minimum(ratio / jnp.where(last_rate > 0, last_rate, 1), most)
    step = lr, one_minus_b1 * in_units, b1 * ratio, *unit
    return rate, correction, eps, eps_root, step, metric


@jax.jit
def _next_leader(g, v, leader, theta, step, metric, last_metric, weights):
    dtype = leader.dtype
    theta, leader = (
        _numerics.widen(jnp.asarray(x), v) for x in (theta, leader)
    )
    wide = _numerics.widen(g, v)
    size = _size(_ftml.next_v(g, v, *weights), metric, wide)
    # One division: XLA writes out a denominator that two of them need.
    last_size = _ftml.denominator(v.astype(size.dtype), *last_metric)
    _, factor, ratio, *unit = (x.astype(size.dtype) for x in step)
    pull = factor * wide + _bounded(theta - leader, ratio, last_size)
    return (theta - _bounded(pull / size, *unit)).astype(dtype)


@jax.jit
def _next_v(g, v, leader, weights):
    return _ftml.next_v(g, _after(v, leader), *weights)


@jax.jit
def _update(target, v, theta, g):
    return _numerics.update_to(_after(target, v), theta, g)


@jax.jit
def _step(g, v, theta, lr, metric):
    dtype = _numerics.at_least_float32(theta)
    theta, g = (_numerics.widen(jnp.asarray(x), v) for x in (theta, g))
    size = _size(v, metric, g)
    moved = _bounded(g / size, lr.astype(v.dtype))
    return (theta - moved).astype(dtype)


@jax.jit
def _step_size(v, leader, lr, metric):
    size = _size(v, metric)
    lr = jnp.asarray(lr, v.dtype)
    # The division last, for XLA's CPU compiler to write out nothing else.
    step_size = lr / jnp.maximum(size, lr / (0.99 * jnp.finfo(v.dtype).max))
    return _numerics.narrow(step_size, jnp.finfo(leader.dtype).dtype)


def _bounded(x, *factors):
    """Returns the product, so bounded that a parameter adds up a million."""
    if jnp.iscomplexobj(x):
        parts = (_bounded(part, *factors) for part in (x.real, x.imag))
        return jax.lax.complex(*parts)
    product = math.prod(factors, start=x)
    largest = jnp.finfo(product.dtype).max / 2**20
    return jax.lax.clamp(-largest, product, largest)


def _size(v, metric, g=None):
    """Returns what a division by makes 0 where it is 0."""
    size = _ftml.denominator(v, *metric, g=g)
    if metric[0] is None:
        return size
    return jax.lax.select(size == 0, jnp.full_like(size, jnp.inf), size)
