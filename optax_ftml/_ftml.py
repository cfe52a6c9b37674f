"""FTML, "Follow the Moving Leader in Deep Learning", and proximal Adam.

The textbook recursion keeps three arrays per parameter, d, v and z:

    v_t = b2 v_{t-1} + (1 - b2) |g_t|^2
    d_t = (1 - b1^t) / lr_t * (sqrt(v_t / (1 - b2^t)) + eps)
    z_t = b1 z_{t-1} + (1 - b1) g_t - (d_t - b1 d_{t-1}) theta_{t-1}
    theta_t = prox(-z_t / d_t, (1 - b1^t) / d_t)

The two forms here have the same iterates and keep less. The *leader form*
keeps v and the multiplier m = d (leader - theta), where the leader is -z / d:

    leader_t = theta_{t-1} - ((1 - b1) g_t - b1 m_{t-1}) / d_t
    theta_t = prox(leader_t, s_t), with the step sizes s_t = (1 - b1^t) / d_t
    m_t = d_t (leader_t - theta_t)

The *delta form* is for when there is no prox. Then m is 0, and v is all there
is to keep.
"""

import collections
import functools
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ftml import _checks, _numerics
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


class FtmlState(NamedTuple):
    """State of the leader form.

    Attributes:
        count: Number of updates so far; shape (), int32.
        v: Moving average of `abs(g)**2`; a tree like the parameters, real, at
            least float32 unless `accumulator_dtype` says otherwise.
        multiplier: The force with which the loss pushes against the constraint
            or penalty, in units of a gradient; a tree like the parameters, at
            least float32. None where `b1` is the Python number 0, which uses
            nothing of it.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> optimizer = optax_ftml.ftml(0.5, prox=optax_ftml.prox.box(-1, 1))
        >>> params = jnp.array([1.0, 0.0])
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(-jnp.ones(2), state, params)
        >>> print([f"{x:.2f}" for x in state.multiplier])
        ['0.40', '0.00']
    """

    count: jax.Array  # type: ignore[assignment]
    v: optax.Updates
    multiplier: optax.Params | None


def scale_by_ftml(
    b1: jax.typing.ArrayLike = 0.6,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
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

    A finite gradient counts as at most :math:`2^{63}` (:math:`2^{511}` in
    float64), whose square is finite. Where the gradient is 0, so is the update.

    Args:
        b1: In [0, 1). The step's factor falls from 1 to 1 - b1.
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
    _checks.check_dtype(
        "accumulator_dtype", accumulator_dtype, None, "bfloat16", "float32"
    )
    _checks.check_seed(seed)

    def init_fn(params):
        _checks.check_params(params)
        v = _zeros(params, lambda x: accumulator_dtype or jnp.finfo(x).dtype)
        return ScaleByFtmlState(jnp.zeros([], jnp.int32), v)

    def update_fn(updates, state, params=None):
        del params
        _checks.check_like(state.v, updates=updates)
        count = optax.safe_increment(state.count)
        c = _scalars([updates, state.v], count, 1.0, b1, b2, eps, eps_root)
        v = _map(_next_v, updates, state.v, c)
        updates = _map(_direction, updates, v, c)
        v = _stochastic_rounding.cast_like(v, state.v, seed, count)
        return updates, ScaleByFtmlState(count, v)

    return optax.GradientTransformation(init_fn, update_fn)


def _zeros(params, dtype_of=jnp.dtype):
    """Returns zeros like the parameters, in at least float32 by default."""

    def zeros(p):
        return jnp.zeros_like(p, dtype=dtype_of(_numerics.at_least_float32(p)))

    return jax.tree.map(zeros, params)


def _map(function, *trees):
    """Maps over leaves, and traces the function once for all that are alike."""
    return jax.tree.map(jax.jit(function), *trees)


# What a step needs besides arrays. The corrections are 1 - b1^t and 1 - b2^t.
_Scalars = collections.namedtuple(
    "_Scalars", "lr b1 b2 eps eps_root b1_correction b2_correction"
)


def _scalars(trees, count, lr, b1, b2, eps, eps_root):
    """Returns a tree with the scalars of each leaf, in its arithmetic's dtype.

    b1 and b2 are rounded to it once, so that the weights of an average add up
    to 1, and the bias correction is that of these weights.
    """

    @functools.cache
    def in_dtype(dtype):
        c = [jnp.asarray(x, dtype) for x in (lr, b1, b2, eps, eps_root)]
        corrections = [_numerics.one_minus_power(b, count) for b in c[1:3]]
        return _Scalars(*c, *corrections)

    def of_leaf(*arrays):
        return in_dtype(jnp.finfo(_numerics.at_least_float32(*arrays)).dtype)

    return jax.tree.map(of_leaf, *trees)


def _next_v(g, last_v, c):
    """Returns v, which stays above 0 once there has been a gradient."""
    g = _gradient(g, c.b2)
    v = c.b2 * last_v.astype(g.real.dtype) + (1 - c.b2) * jnp.real(g * g.conj())
    tiny = jnp.finfo(v.dtype).tiny
    return jnp.where((last_v > 0) | (g != 0), jnp.maximum(v, tiny), v)


def _direction(g, v, c):
    scale = (1 - c.b1) / c.b1_correction
    return (scale * _gradient(g, c.b2) / _denominator(v, c)).astype(g.dtype)


def _gradient(g, other):
    """Returns g in a dtype that holds both, bounded where it is finite."""
    g = _numerics.widen(g, other)
    return jnp.where(jnp.isfinite(g), _numerics.bounded(g), g)


def _denominator(v, c):
    # Without eps it is 0 before the first gradient, and so is what it divides.
    tiny = jnp.finfo(v.dtype).tiny
    return jnp.maximum(jnp.sqrt(v / c.b2_correction + c.eps_root) + c.eps, tiny)


def ftml(
    learning_rate: optax.ScalarOrSchedule = 0.0025,
    b1: jax.typing.ArrayLike = 0.6,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
    seed: int = 0,
    prox: _numerics.Prox | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The FTML optimizer, Follow the Moving Leader.

    For step :math:`t = 1, 2, \ldots`, gradient :math:`g_t`, learning rate
    :math:`\eta_t` and parameters :math:`\theta`,

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) |g_t|^2 \\
        s_t &= \eta_t / \left( \sqrt{v_t / (1 - \beta_2^t) + \bar\varepsilon}
            + \varepsilon \right), \qquad d_t = (1 - \beta_1^t) / s_t \\
        \ell_t &= \theta_{t-1}
            - \left[ (1 - \beta_1) g_t - \beta_1 m_{t-1} \right] / d_t \\
        \theta_t &= \operatorname{prox}(\ell_t, s_t) \\
        m_t &= d_t (\ell_t - \theta_t)

    The leader :math:`\ell_t` is where the parameters would go if nothing held
    them, and the multiplier :math:`m_t` what holds them, in units of a
    gradient. With a ``prox`` (the leader form) the state is two slots,
    :math:`v` and :math:`m`. Without one (the delta form) :math:`m` is 0, the
    state is :math:`v` alone, and the step is RMSprop's with both bias
    corrections,

    .. math::
        \theta_t = \theta_{t-1} - \eta_t \frac{1 - \beta_1}{1 - \beta_1^t}
            \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t) + \bar\varepsilon}
            + \varepsilon}.

    Args:
        learning_rate: At least 0: a number, an array of shape (), or an optax
            schedule, which is called with the number of updates before this
            one. A step with learning rate 0 takes the parameters to
            ``prox(params, 0)``, which is where they are if they are feasible,
            and leaves :math:`m` as it is.
        b1: Decay rate of the multiplier :math:`m`, in [0, 1).
        b2: Decay rate of the squared gradients' average, in [0, 1).
        eps: Added outside the square root, at least 0.
        eps_root: Added inside the square root, at least 0. Needed above 0 to
            differentiate through an update at gradients of 0.
        accumulator_dtype: Dtype of :math:`v`: float32, float64 or bfloat16; in
            float16 the squares of gradients below 2e-4 would be 0. By default
            the parameters' own, and at least float32. In bfloat16
            :math:`v` rounds at random, without bias, after it has been used;
            rounded to nearest it would stand still, since its changes at
            :math:`\beta_2 = 0.999` are smaller than half a step.
        seed: An integer. The random bits are a function of it, of the step and
            of the leaf's path; only :math:`v` in bfloat16 needs them.
        prox: A function ``prox(leader, step_size)``, without defaults, of two
            trees like the parameters (in the leader's dtype, at least float32)
            that returns the new parameters, a tree like the leader.
            ``optax_ftml.prox`` has the usual ones. Where a coordinate has had
            no gradient yet its step size is :math:`2^{63}` (:math:`2^{511}` in
            float64): nothing resists there. With a learning rate of 0 all step
            sizes are 0. The transformation then needs the parameters in
            ``update``, and to be the last of its chain: what it returns is
            ``prox(leader, step_size) - params``.

    Returns:
        A :class:`optax.GradientTransformationExtraArgs`. Updates have their
        gradients' dtype. The state is a :class:`optax_ftml.ScaleByFtmlState` in
        a chain, or with a ``prox`` a :class:`optax_ftml.FtmlState`, in which
        nothing is kept of :math:`m` if ``b1`` is the Python number 0.

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
        >>> params = jnp.zeros(3)
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
        With optax.inject_hyperparams and parameters in bfloat16 pass
        ``hyperparam_dtype=jnp.float32``: in bfloat16 0.999 is 1.
    """
    schedule = _checks.schedule_of(learning_rate)
    scalars = b1, b2, eps, eps_root
    direction = scale_by_ftml(
        *scalars, accumulator_dtype=accumulator_dtype, seed=seed
    )
    if prox is not None:
        _checks.check_prox_function(prox)
        return _leader_form(direction.init, schedule, *scalars, seed, prox)
    # Optax casts a schedule's value to the updates' dtype, but not an array.
    is_number = isinstance(learning_rate, numbers.Real)
    rate = float(learning_rate) if is_number else schedule
    optimizer = optax.chain(direction, optax.scale_by_learning_rate(rate))
    return optax.with_extra_args_support(optimizer)


def _leader_form(init_v, schedule, b1, b2, eps, eps_root, seed, prox):
    has_m = not (isinstance(b1, numbers.Real) and b1 == 0)

    def init_fn(params):
        count, v = init_v(params)
        _checks.check_prox(prox, jax.eval_shape(_zeros, params))
        return FtmlState(count, v, _zeros(params) if has_m else None)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        _checks.check_like(state.v, updates=updates, params=params)
        count, lr = optax.safe_increment(state.count), schedule(state.count)
        c = _scalars([params, state.v], count, lr, b1, b2, eps, eps_root)
        m = state.multiplier if has_m else _zeros(params)
        # XLA copies a donated array that is read after its place is taken.
        # Hence the order: first the leader, in the place of m, then v, then
        # the parameters, and m last.
        leader_or_m = _map(_leader_or_m, updates, state.v, m, params, c)
        v = _map(_next_v, updates, _map(_after, state.v, leader_or_m), c)
        leader = _map(_leader, leader_or_m, params, c)
        step_sizes = _map(_step_size, v, leader, c)
        theta = prox(leader, step_sizes)
        _checks.check_like_leader(theta, leader)
        theta = _map(_after, theta, v)
        updates = _map(_numerics.update_to, theta, params, updates)
        m = _map(_multiplier, leader_or_m, v, params, updates, c)
        v = _stochastic_rounding.cast_like(v, state.v, seed, count)
        return updates, FtmlState(count, v, m if has_m else None)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _leader_or_m(g, v, m, last_theta, c):
    """Returns the leader, or m at a learning rate of 0, where d is infinite."""
    v = _next_v(g, v, c)
    pull = (1 - c.b1) * _gradient(g, c.b2) - c.b1 * _numerics.widen(m, c.b1)
    step = (c.lr / c.b1_correction) * pull / _denominator(v, c)
    leader = jnp.asarray(last_theta, step.dtype) - step
    return jnp.where(c.lr == 0, m, leader.astype(m.dtype))


def _after(x, y):
    """Returns x by a choice that depends on y, so that XLA computes y first."""
    return jnp.where(y < y, jnp.zeros_like(x), x)


def _leader(leader, last_theta, c):
    return jnp.where(c.lr == 0, jnp.asarray(last_theta, leader.dtype), leader)


def _step_size(v, leader, c):
    """Returns lr / denominator, and the bound where there was no gradient."""
    bound = jnp.where(c.lr == 0, 0, _numerics.bound(leader.dtype))
    step_size = jnp.minimum(c.lr / _denominator(v, c), bound / 2)
    return jnp.where(v > 0, step_size, bound).astype(leader.real.dtype)


def _multiplier(leader_or_m, v, last_theta, update, c):
    """Returns d (leader - theta) for the theta that the update reaches."""
    theta = _numerics.apply_update(last_theta, update)
    lr = jnp.maximum(c.lr, jnp.finfo(c.lr.dtype).tiny)
    excess = _numerics.widen(leader_or_m - theta, lr)
    m = _numerics.bounded(excess * _denominator(v, c) * (c.b1_correction / lr))
    return jnp.where(c.lr == 0, leader_or_m, m.astype(leader_or_m.dtype))


def proximal_adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    *,
    prox: _numerics.Prox,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with a prox in Adam's own metric.

    For step :math:`t = 1, 2, \ldots`, gradient :math:`g_t`, learning rate
    :math:`\eta_t` and parameters :math:`\theta`,

    .. math::
        \mu_t &= \beta_1 \mu_{t-1} + (1 - \beta_1) g_t \\
        \nu_t &= \beta_2 \nu_{t-1} + (1 - \beta_2) |g_t|^2 \\
        s_t &= \eta_t / \left( \sqrt{\nu_t / (1 - \beta_2^t)
            + \bar\varepsilon} + \varepsilon \right) \\
        \theta_t &= \operatorname{prox}(
            \theta_{t-1} - s_t\, \mu_t / (1 - \beta_1^t),\ s_t)

    The prox is in the metric of the step sizes :math:`s_t`, as in
    :func:`optax_ftml.ftml`, so the constrained optimum is where it rests. For
    networks try it first, with ``b2=0.9``.

    Args:
        learning_rate: At least 0: a number, an array of shape (), or an optax
            schedule.
        b1: Decay rate of the gradients' average, in [0, 1).
        b2: Decay rate of the squared gradients' average, in [0, 1).
        eps: Added outside the square root, at least 0.
        eps_root: Added inside the square root, at least 0.
        prox: A function ``prox(leader, step_size)`` as in
            :func:`optax_ftml.ftml`; ``optax_ftml.prox`` has the usual ones.

    Returns:
        A :class:`optax.GradientTransformationExtraArgs` with the state of
        :func:`optax.scale_by_adam`, in at least float32. It needs the
        parameters in ``update``, and to be the last of its chain. Updates have
        their gradients' dtype.

    Raises:
        ValueError: A number out of its range; from ``update``, gradients that
            are not like the parameters, missing parameters, or a ``prox`` whose
            result has another structure or shape.
        TypeError: An argument that is not a number; from ``init``, parameters
            that are neither floating nor complex; from ``update``, a ``prox``
            whose result has another dtype.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optax_ftml
        >>> target = jnp.array([3.0, 0.5, -0.2])
        >>> def f(x):
        ...     return jnp.sum((x - target) ** 2)
        >>> optimizer = optax_ftml.proximal_adam(
        ...     0.1, prox=optax_ftml.prox.l1(1.0)
        ... )
        >>> params = jnp.zeros(3)
        >>> state = optimizer.init(params)
        >>> for _ in range(300):
        ...     updates, state = optimizer.update(
        ...         jax.grad(f)(params), state, params
        ...     )
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(3))
        [2.5 0.  0. ]

    References:
        Yun, Lozano and Yang, `Adaptive Proximal Gradient Methods for
        Structured Neural Networks
        <https://openreview.net/forum?id=xVGrCe5fCXY>`_, NeurIPS 2021; Kingma
        and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, ICLR 2015
    """
    schedule = _checks.schedule_of(learning_rate)
    _checks.check_hyperparameters(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    _checks.check_prox_function(prox)

    def init_fn(params):
        count, nu = scale_by_ftml().init(params)
        _checks.check_prox(prox, jax.eval_shape(_zeros, params))
        return optax.ScaleByAdamState(count, _zeros(params), nu)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        _checks.check_like(state.mu, updates=updates, params=params)
        count, lr = optax.safe_increment(state.count), schedule(state.count)
        c = _scalars([state.mu], count, lr, b1, b2, eps, eps_root)
        mu = _map(_next_mu, updates, state.mu, c)
        nu = _map(_next_v, updates, state.nu, c)
        step_sizes = _map(_step_size, nu, mu, c)
        leader = _map(_descend, params, mu, step_sizes, c)
        theta = prox(leader, step_sizes)
        _checks.check_like_leader(theta, leader)
        updates = _map(_numerics.update_to, theta, params, updates)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _next_mu(g, last_mu, c):
    return c.b1 * last_mu + (1 - c.b1) * _gradient(g, last_mu)


def _descend(theta, mu, step_size, c):
    return jnp.asarray(theta, mu.dtype) - step_size * (mu / c.b1_correction)


def multipliers(state: optax.OptState) -> optax.Params:
    r"""Reads the multipliers of the constraints from an optimizer's state.

    .. math::
        m_t = d_t (\ell_t - \theta_t)

    It is the force with which the loss pushes against the constraint or the
    penalty, in units of the loss per unit of the parameter, and at rest the
    Lagrange multiplier: minus the gradient of the loss.

    Args:
        state: The state of :func:`optax_ftml.ftml` with a ``prox``, alone or
            within the states of others: chains, :func:`optax.partition`,
            :func:`optax.inject_hyperparams`, :class:`optax.MultiSteps`,
            :func:`optax_ftml.with_master_params`.

    Returns:
        A tree like the parameters, in at least float32. In place of parameters
        that another optimizer trains there is an :class:`optax.MaskedNode`.

    Raises:
        ValueError: There is no multiplier, or more than one for a parameter.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> optimizer = optax_ftml.ftml(0.1, prox=optax_ftml.prox.box(-1, 1))
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(300):  # The loss pulls to 3 and 0.5.
        ...     grads = 2 * (params - jnp.array([3.0, 0.5]))
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params += updates
        >>> print(optax_ftml.multipliers(state).round(3))
        [4. 0.]
    """

    def is_ftml(x):
        return isinstance(x, FtmlState)

    states = filter(is_ftml, jax.tree.leaves(state, is_leaf=is_ftml))
    found = [s.multiplier for s in states if s.multiplier is not None]
    right = "of ftml with a prox and b1 not 0 (proximal_adam has none)"
    _checks.check(found, "state", right, "a state without a multiplier")
    return functools.reduce(_merge, found)


def _merge(a, b):
    """Fills the masked nodes of one tree from the other."""
    if isinstance(a, optax.MaskedNode):
        return b
    if isinstance(b, optax.MaskedNode):
        return a
    children, structure = jax.tree.flatten(a, is_leaf=lambda x: x is not a)
    others = jax.tree.leaves(b, is_leaf=lambda x: x is not b)
    is_leaf = structure == jax.tree.structure(0)
    _checks.check(not is_leaf, "state", "one multiplier per parameter", "two")
    return structure.unflatten(map(_merge, children, others))
