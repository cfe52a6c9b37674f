"""FTML, "Follow the Moving Leader in Deep Learning".

The textbook recursion keeps three arrays a parameter, d, v and z:

    v_t = b2 v_{t-1} + (1 - b2) |g_t|^2
    d_t = (1 - b1^t) / lr_t * (sqrt(v_t / (1 - b2^t)) + eps)
    z_t = b1 z_{t-1} + (1 - b1) g_t - (d_t - b1 d_{t-1}) theta_{t-1}
    theta_t = prox(-z_t / d_t)

Here are its two smaller equals. The *leader form* keeps v and the leader
l = -z / d, and derives d from v. The *delta form*, for when there is no prox
and so the parameters are the leader, keeps v alone.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ftml import _checks
from optax_ftml import _numerics
from optax_ftml._precision import _stochastic_rounding


class ScaleByFtmlState(NamedTuple):
    """State of the delta form.

    Attributes:
        count: Number of updates so far; shape (), int32.
        v: Moving average of `abs(g)**2`; a tree like the parameters, real, at
            least float32 unless `accumulator_dtype` says otherwise.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> state = optax_ftml.scale_by_ftml().init(jnp.ones(2))
        >>> print(state.count, state.v)
        0 [0. 0.]
    """

    count: jax.Array  # type: ignore[assignment]
    v: optax.Updates


def scale_by_ftml(
    b1: jax.typing.ArrayLike = 0.6,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    *,
    accumulator_dtype: Any = None,
    seed: int = 0,
) -> optax.GradientTransformation:
    r"""Rescale updates by FTML's delta form, without learning rate and sign.

    See :func:`optax_ftml.ftml`, of which this is the part before
    :func:`optax.scale_by_learning_rate`. For step :math:`t = 1, 2, \ldots` and
    gradient :math:`g_t` it computes

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
        u_t &= \frac{1 - \beta_1}{1 - \beta_1^t}
            \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t) + \bar\varepsilon}
            + \varepsilon}

    A coordinate whose denominator is 0 has an update of 0.

    Args:
        b1: Decay rate of the leader, in [0, 1).
        b2: Decay rate of the squared gradients' average, in [0, 1).
        eps: Added outside the square root, at least 0.
        eps_root: Added inside the square root, at least 0. Needed above 0 to
            differentiate through an update at gradients of 0.
        accumulator_dtype: Dtype of `v`: float32, float64 or bfloat16. By
            default the parameters' own, and at least float32. In bfloat16 `v`
            rounds at random, without bias, after it has been used.
        seed: An integer. The random bits are a function of it, of the step and
            of the leaf's path; only `v` in bfloat16 needs them.

    Returns:
        A :class:`optax.GradientTransformation` with
        :class:`optax_ftml.ScaleByFtmlState`. Updates have their gradients'
        dtype.

    Raises:
        ValueError: A number out of its range, an unusable `accumulator_dtype`
            or, from `update`, gradients that are not like the parameters.
        TypeError: An argument that is not a number, or, from `init`,
            parameters that are neither floating nor complex.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optax_ftml
        >>> optimizer = optax.chain(  # decoupled weight decay, as in adamw
        ...     optax_ftml.scale_by_ftml(),
        ...     optax.add_decayed_weights(1e-4),
        ...     optax.scale_by_learning_rate(0.0025),
        ... )
        >>> params = jnp.array([1.0, 2.0])
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state, params)
        >>> print(optax.apply_updates(params, updates))
        [0.99749976 1.9974995 ]

    References:
        Zheng and Kwok, `Follow the Moving Leader in Deep Learning
        <https://proceedings.mlr.press/v70/zheng17a.html>`_, ICML 2017
    """
    _checks.check_hyperparameters(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    _checks.check_accumulator_dtype(accumulator_dtype)
    _checks.check_seed(seed)

    def init_fn(params):
        return ScaleByFtmlState(
            count=jnp.zeros([], jnp.int32),
            v=init_v(params, accumulator_dtype),
        )

    def update_fn(updates, state, params=None):
        del params
        _checks.check_like("updates", updates, state.v)
        count = optax.safe_increment(state.count)
        scale = jnp.minimum((1 - b1) / one_minus_power(1 - b1, count), 1)
        correction = one_minus_power(1 - b2, count)
        most = largest(state.v)
        metric = metric_of(correction, eps, eps_root, 1 - b2, most)
        v = jax.tree.map(
            lambda g, v: next_v(g, v, *weights(b2)), updates, state.v
        )
        updates = jax.tree.map(
            lambda g, v: _direction(g, v, scale, metric), updates, v
        )
        return updates, ScaleByFtmlState(
            count, _stochastic_rounding.cast_like(v, state.v, seed, count)
        )

    return optax.GradientTransformation(init_fn, update_fn)


def ftml(
    learning_rate: optax.ScalarOrSchedule = 0.0025,
    b1: jax.typing.ArrayLike = 0.6,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    *,
    accumulator_dtype: Any = None,
    seed: int = 0,
    prox: Callable[[optax.Params, optax.Params], optax.Params] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The FTML optimizer, Follow the Moving Leader.

    For step :math:`t = 1, 2, \ldots`, gradient :math:`g_t`, learning rate
    :math:`\eta_t` and parameters :math:`\theta`,

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
        d_t &= \frac{1 - \beta_1^t}{\eta_t} \left(
            \sqrt{v_t / (1 - \beta_2^t) + \bar\varepsilon}
            + \varepsilon \right) \\
        \ell_t &= \theta_{t-1} - \left[ (1 - \beta_1) g_t
            + \beta_1 d_{t-1} (\theta_{t-1} - \ell_{t-1}) \right] / d_t \\
        \theta_t &= \operatorname{prox}(\ell_t, (1 - \beta_1^t) / d_t)

    With a ``prox`` (the leader form) the state is two slots, :math:`v` and the
    leader :math:`\ell`. Without one (the delta form) the leader is the
    parameters themselves, the state is :math:`v` alone, and the step is
    RMSprop's with both bias corrections,

    .. math::
        \theta_t = \theta_{t-1} - \eta_t \frac{1 - \beta_1}{1 - \beta_1^t}
            \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t) + \bar\varepsilon}
            + \varepsilon}.

    Args:
        learning_rate: At least 0: a number, an array of shape (), or an optax
            schedule, which is called with the number of updates before this
            one. A step with learning rate 0 takes the parameters to
            ``prox(params, 0)``, which is where they are if they are feasible.
        b1: Decay rate of the leader, in [0, 1).
        b2: Decay rate of the squared gradients' average, in [0, 1).
        eps: Added outside the square root, at least 0.
        eps_root: Added inside the square root, at least 0. Needed above 0 to
            differentiate through an update at gradients of 0.
        accumulator_dtype: Dtype of :math:`v`: float32, float64 or bfloat16. By
            default the parameters' own, and at least float32. In bfloat16
            :math:`v` rounds at random, without bias, after it has been used;
            rounded to nearest it would forget, its changes at
            :math:`\beta_2 = 0.999` being smaller than half a step.
        seed: An integer. The random bits are a function of it, of the step and
            of the leaf's path; only :math:`v` in bfloat16 needs them.
        prox: A function ``prox(leader, step_size)``, without defaults, of two
            trees like the parameters (in the leader's dtype, at least float32)
            that returns the new parameters, a tree like the leader.
            ``optax_ftml.prox`` has the usual ones. The transformation then
            needs the parameters in ``update``, and to be the last of its chain:
            what it returns is ``prox(leader, step_size) - params``.

    Returns:
        A :class:`optax.GradientTransformationExtraArgs`. Updates have their
        gradients' dtype. The state is a :class:`optax_ftml.ScaleByFtmlState` in
        a chain, or with a ``prox`` a :class:`optax_ftml.FtmlLeaderState`. With
        a ``prox`` and ``b1`` the Python number 0 nothing remembers the leader,
        and the state is a :class:`optax_ftml.ScaleByFtmlState`: one slot.

    Raises:
        ValueError: A number out of its range, an unusable
            ``accumulator_dtype``; from ``update``, gradients that are not like
            the parameters, missing parameters, or a ``prox`` whose result has
            another structure or shape.
        TypeError: An argument that is not a number; from ``init``, parameters
            that are neither floating nor complex; from ``update``, a ``prox``
            whose result has another dtype.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optax_ftml
        >>> def f(x):
        ...     return jnp.sum(x**2)
        >>> optimizer = optax_ftml.ftml(learning_rate=0.3)
        >>> params = jnp.array([1.0, 2.0, 3.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     updates, state = optimizer.update(jax.grad(f)(params), state)
        ...     params = optax.apply_updates(params, updates)
        ...     print(f"Objective: {f(params):.2f}")
        Objective: 10.67
        Objective: 9.00
        Objective: 7.81
        Objective: 6.86
        Objective: 6.06

        The same with an L1 penalty and exact zeros:

        >>> optimizer = optax_ftml.ftml(0.3, prox=optax_ftml.prox.l1(3.0))
        >>> params = jnp.array([1.0, 2.0, 3.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(300):
        ...     grads = jax.grad(f)(params - jnp.array([1.0, 2.0, 3.0]))
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(4))
        [0.  0.5 1.5]

    References:
        Zheng and Kwok, `Follow the Moving Leader in Deep Learning
        <https://proceedings.mlr.press/v70/zheng17a.html>`_, ICML 2017

    .. warning::
        With optax.inject_hyperparams and parameters in bfloat16 give it
        ``hyperparam_dtype=jnp.float32``: in bfloat16 0.999 is 1.
    """
    _checks.check_hyperparameters(learning_rate=learning_rate)
    learning_rate = _checks.checked_schedule(learning_rate)
    numbers = b1, b2, eps, eps_root
    options = {"accumulator_dtype": accumulator_dtype, "seed": seed}
    if prox is None:
        rate = optax.scale_by_learning_rate(learning_rate)
        if hasattr(learning_rate, "dtype"):
            # Optax's would promote narrower updates to the array's dtype.
            rate = optax.stateless(
                lambda updates, _: jax.tree.map(
                    lambda u: -jnp.asarray(learning_rate, u.dtype) * u, updates
                )
            )
        return optax.with_extra_args_support(
            optax.chain(scale_by_ftml(*numbers, **options), rate)
        )
    # The leader form builds on this file.
    from optax_ftml import _leader

    return _leader.leader_form(learning_rate, *numbers, **options, prox=prox)


@jax.jit
def one_minus_power(one_minus_decay, count):
    # Not 1 - decay**count, which cancels, and not log(decay), which magnifies
    # the rounding of a decay close to 1.
    count = jnp.asarray(count, float)
    return -jnp.expm1(count * jnp.log1p(-jnp.asarray(one_minus_decay, float)))


def weights(b2):
    """Returns a, b and c of v_t = a v_{t-1} + c (|g|^2 - b v_{t-1})."""
    if isinstance(b2, jax.Array):
        is_long = b2 >= 0.5
        return jnp.where(is_long, 1, b2), is_long.astype(b2.dtype), 1 - b2
    b2 = float(b2)
    # Near 1 not b2 v + (1 - b2) |g|^2: rounded to float32, those weights do not
    # add up to 1, by 1e-5 of 1 - b2. Near 0 not v + (1 - b2) (|g|^2 - v), which
    # cancels.
    c = jnp.asarray(1 - b2, float)
    return (None, None, c) if b2 >= 0.5 else (b2, 0.0, c)


@jax.jit
def metric_of(correction, eps, eps_root, one_minus_b2, most):
    """Returns the scalars that `denominator` makes of v.

    So large at most that sums with v, which is up to half of the largest
    number, are finite; the last so small that rounding makes no finite
    gradient infinite.
    """
    correction, eps, eps_root, one_minus_b2 = (
        jnp.asarray(x, float) for x in (correction, eps, eps_root, one_minus_b2)
    )
    scale = 1 / jnp.sqrt(correction)
    return (
        scale,
        jnp.minimum(eps_root, most / 4) / scale**2,
        jnp.minimum(eps, most / 4),
        (1 - 2**-21) * jnp.sqrt(one_minus_b2),
    )


# The arithmetic of a leaf is under jit so that it is traced once for all leaves
# alike; 1 - b2 comes from outside, where it is not yet rounded to float32.


@functools.partial(jax.jit, inline=True)
def next_v(g, v, a, b, c):
    g = _numerics.widen(g, v)
    v = v.astype(jnp.finfo(g.dtype).dtype)
    # A square that is too large is half of the largest number.
    square = jnp.minimum(jnp.real(g * jnp.conj(g)), jnp.finfo(v.dtype).max / 2)
    return times(a, v) + times(c, square - times(b, v))


@jax.jit
def _direction(g, v, scale, metric):
    wide = _numerics.widen(g, v)
    # It is 0 where g is, and the quotient then, too.
    size = jnp.maximum(denominator(v, *metric, wide), jnp.finfo(v.dtype).tiny)
    # The division last: after a product XLA's CPU compiler would write out g.
    return _numerics.narrow(scale.astype(v.dtype) * wide / size, g.dtype)


def denominator(v, scale, inside, eps, root=None, g=None):
    """Returns sqrt(v / (1 - b2^t) + eps_root) + eps.

    v_t is at least (1 - b2) |g_t|^2. With g that holds here even where the
    square is too large for a number, and where it is too small g stands for
    its own average. Without a scale the result is divided by it, and `eps` is
    so large that what is too small does not count.
    """
    eps = jnp.asarray(eps, v.dtype)
    size = jnp.sqrt(v if inside is None else v + jnp.asarray(inside, v.dtype))
    if g is None:
        return times(scale, size) + eps
    g = jnp.abs(g)
    scaled = times(scale, jnp.maximum(size, times(root, g)))
    if scale is not None:
        scaled = jax.lax.select(size == 0, g, scaled)
    return scaled + eps


def times(scalar, x):
    """Returns the product; None is a 1 that XLA need not compile."""
    return x if scalar is None else jnp.asarray(scalar, x.dtype) * x


def largest(tree):
    """Returns the largest number that the arithmetic of every leaf has."""
    dtypes = (_numerics.at_least_float32(x) for x in jax.tree.leaves(tree))
    return min((float(jnp.finfo(x).max) for x in dtypes), default=1.0)


def init_v(params, dtype):
    _checks.check_params(params)
    return jax.tree.map(
        lambda p: jnp.zeros_like(
            p, dtype=dtype or jnp.finfo(_numerics.at_least_float32(p)).dtype
        ),
        params,
    )
