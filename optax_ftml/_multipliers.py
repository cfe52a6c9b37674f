"""The Lagrange multipliers, read from the state of any optimizer."""

import jax
import jax.numpy as jnp
import optax

from optax_ftml import _ftml
from optax_ftml import _leader
from optax_ftml._precision import _master_params


def multipliers(state: optax.OptState, params: optax.Params) -> optax.Params:
    r"""Reads the multipliers of the constraints from an optimizer's state.

    .. math::
        d_t (\ell_t - \theta_t), \qquad d_t = \frac{1 - \beta_1^t}{\eta_t}
            \left( \sqrt{v_t / (1 - \beta_2^t) + \bar\varepsilon}
            + \varepsilon \right)

    It is the force with which the loss pushes against the constraint or the
    penalty, in units of the loss a unit of the parameter, and at rest the
    Lagrange multiplier: minus the gradient of the loss.

    Args:
        state: The state of :func:`optax_ftml.ftml` with a ``prox``, alone or
            within the states of others: chains, :func:`optax.partition`,
            :func:`optax.inject_hyperparams`, :class:`optax.MultiSteps`.
        params: The parameters that its last step led to.

    Returns:
        A tree like the parameters, in the leader's dtype. Where a parameter
        has no leader, because another optimizer trains it, there is an
        :class:`optax.MaskedNode`.

    Raises:
        ValueError: There is no leader, more than one for a parameter, or
            nothing to read: before the first step and after one with learning
            rate 0. Under :func:`jax.jit`, where these two are not known, the
            multipliers are NaN.

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
        >>> print(optax_ftml.multipliers(state, params).round(3))
        [4. 0.]
    """
    found = list(_leader_states(state, params))
    if not found:
        raise ValueError(
            "state must hold a leader, got none: without a prox the leader is "
            "the parameters, and with b1 the number 0 none is kept."
        )
    for node, _ in found:
        if not isinstance(node.rate, jax.core.Tracer) and not node.rate > 0:
            raise ValueError(
                "state must be after a step with a learning rate above 0, got "
                f"{node.count} steps and a last learning rate of 0."
            )

    def merge(*forces):
        present = [x for x in forces if not _is_masked(x)]
        if len(present) > 1:
            raise ValueError("state must hold one leader a parameter.")
        return present[0] if present else forces[0]

    return jax.tree.map(
        merge, *(_forces(*each) for each in found), is_leaf=_is_masked
    )


def _leader_states(state, params):
    """Yields the leader forms' states, each with the parameters it saw."""
    nodes = (_leader.FtmlLeaderState, _master_params.MasterParamsState)
    for node in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nodes)):
        if isinstance(node, _leader.FtmlLeaderState):
            yield node, params
        elif isinstance(node, _master_params.MasterParamsState):
            seen = jax.tree.map(
                lambda p, m: p if _is_masked(m) else m, params, node.master
            )
            yield from _leader_states(node.inner_state, seen)


def _forces(state, params):
    metric = _leader.metric_from(state)

    def force(leader, v, theta):
        if _is_masked(leader):
            return leader
        theta = jnp.asarray(theta, leader.dtype)
        v = v.astype(jnp.finfo(leader.dtype).dtype)
        rate = jnp.where(state.rate == 0, jnp.nan, state.rate).astype(v.dtype)
        return _ftml.denominator(v, *metric) * ((leader - theta) / rate)

    return jax.tree.map(
        force, state.leader, state.v, params, is_leaf=_is_masked
    )


def _is_masked(x):
    return isinstance(x, optax.MaskedNode)
