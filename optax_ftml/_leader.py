"""The leader form of FTML: for constraints and penalties, with a prox."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ftml import _checks
from optax_ftml import _ftml
from optax_ftml._precision import _stochastic_rounding

Prox = Callable[[optax.Params, optax.Params], optax.Params]


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
        >>> print([f"{x:.2f}" for x in params + updates])
        ['1.00', '0.50']
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
    prox: Prox,
) -> optax.GradientTransformationExtraArgs:
    """Returns :func:`optax_ftml.ftml` with a prox; the arguments are its."""
    _checks.check_hyperparameters(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    _checks.check_accumulator_dtype(accumulator_dtype)
    _checks.check_seed(seed)
    _checks.check_callable("prox", prox)

    def init_fn(params):
        return FtmlLeaderState(
            count=jnp.zeros([], jnp.int32),
            v=_ftml.init_v(params, accumulator_dtype),
            leader=jax.tree.map(
                lambda p: jnp.zeros_like(p, dtype=_ftml.at_least_float32(p)),
                params,
            ),
            rate=jnp.zeros([], float),
            v_correction=jnp.ones([], float),
            # Copies: a step may be given this state and b1's array to reuse.
            eps=jnp.array(eps, float),
            eps_root=jnp.array(eps_root, float),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        _checks.check_like("updates", updates, state.v)
        _checks.check_like("params", params, state.v)
        lr = jnp.asarray(
            learning_rate(state.count)
            if callable(learning_rate)
            else learning_rate,
            float,
        )
        # What the last step left is read before its place is written to.
        last = _in_turn(
            *_ftml.metric_of(
                state.v_correction, state.eps, state.eps_root, 0.0
            )[:-1],
            state.rate,
        )
        count = optax.safe_increment(state.count)
        _, *kept, step, metric, last_metric = _in_turn(
            last[-1], *_scalars(lr, count, 1 - b1, 1 - b2, eps, eps_root, last)
        )
        weights = _ftml.weights(b2)
        leader = jax.tree.map(
            lambda *arrays: _next_leader(
                *arrays, step, metric, last_metric, weights
            ),
            updates,
            state.v,
            state.leader,
            params,
        )
        v = jax.tree.map(
            lambda g, v, leader: _ftml.next_v(g, _after(v, leader), *weights),
            updates,
            state.v,
            leader,
        )
        step_sizes = jax.tree.map(lambda v: _step_size(v, lr, metric), v)
        target = prox(leader, step_sizes)
        _checks.check_prox(target, leader)
        updates = jax.tree.map(
            lambda x, v, theta, g: _update_to(_after(x, v), theta, g),
            target,
            v,
            params,
            updates,
        )
        return updates, FtmlLeaderState(
            count,
            _stochastic_rounding.cast_like(v, state.v, seed, count),
            leader,
            *kept,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _after(x, y):
    """Returns x, which XLA then computes after y.

    Where x is written in the place of something that y reads, XLA copies that
    first unless it knows of an order. It takes the choice here to depend on y;
    LLVM, which sees that it is always x, leaves it out.
    """
    never = (y == y) & (y != y)
    return jnp.where(never, -1, x)


def _in_turn(*scalars):
    """Returns the scalars, in the same tree, each after the one before.

    XLA's GPU compiler puts what depends on each other into one kernel. The
    barrier keeps it from computing them again in the kernel of each leaf.
    """
    scalars, structure = jax.tree.flatten(scalars)
    for i in range(1, len(scalars)):
        scalars[i] = _after(scalars[i], scalars[i - 1])
    return structure.unflatten(jax.lax.optimization_barrier(scalars))


@jax.jit
def _scalars(lr, count, one_minus_b1, one_minus_b2, eps, eps_root, last):
    """Returns what is kept for the next step, and what this one is made of.

    The learning rates meet as their ratio alone: one over a learning rate may
    be infinite. Bounds stand where a product with what they multiply would be.
    """
    eps, eps_root = (jnp.asarray(x, float) for x in (eps, eps_root))
    scale, inside, shift, last_rate = last
    rate = lr / _ftml.one_minus_power(one_minus_b1, count)
    rate = jnp.minimum(rate, 1e29)
    correction = _ftml.one_minus_power(one_minus_b2, count)
    is_first = last_rate == 0
    ratio = jnp.where(is_first, 0, rate) / jnp.where(is_first, 1, last_rate)
    ratio = (1 - one_minus_b1) * jnp.minimum(ratio, 1e38)
    return (
        rate,
        correction,
        eps,
        eps_root,
        one_minus_b1 * rate,
        _ftml.metric_of(correction, eps, eps_root, one_minus_b2),
        (
            jnp.minimum(ratio * scale, 1e18),
            inside,
            jnp.minimum(ratio * shift, 1e38),
        ),
    )


@jax.jit
def _next_leader(g, v, leader, theta, step, metric, last_metric, weights):
    theta = jnp.asarray(theta, leader.dtype)
    g = _ftml.widen(g, v)
    size = _ftml.denominator(_ftml.next_v(g, v, *weights), *metric, g)
    size = _ftml.zero_to_inf(size)
    memory = _ftml.denominator(v.astype(size.dtype), *last_metric) / size
    memory = jnp.minimum(memory, jnp.finfo(size.dtype).max)
    moved = step.astype(size.dtype) * (g / size) + memory * (theta - leader)
    return _bound(theta - moved).astype(leader.dtype)


@jax.jit
def _step_size(v, lr, metric):
    size = _ftml.zero_to_inf(_ftml.denominator(v, *metric[:-1]))
    return jnp.minimum(jnp.asarray(lr, v.dtype) / size, jnp.finfo(v.dtype).max)


def _bound(x):
    """Keeps x where its difference from another such number is finite."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(_bound(x.real), _bound(x.imag))
    largest = float(jnp.finfo(x.dtype).max) / 2
    return jnp.clip(x, -largest, largest)


@jax.jit
def _update_to(target, theta, g):
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
    is_beyond = jnp.where(delta > 0, reached > target, reached < target)
    shorter = delta * (1 - jnp.finfo(g.dtype).eps)
    return jnp.where(is_beyond, shorter, delta).astype(g.dtype)


def _round_to(x, dtype):
    # A cast to a narrow dtype and back XLA may leave out; this it may not.
    info = jnp.finfo(dtype)
    if info.bits >= jnp.finfo(x.dtype).bits:
        return x
    largest = float(info.max)
    x = jnp.clip(x, -largest, largest)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)
