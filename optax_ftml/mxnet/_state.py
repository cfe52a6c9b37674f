"""MXNet's d, v and z, and the state of FTML here."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from optax_ftml import _checks, _ftml, _numerics, _paths
from optax_ftml._precision import _master_params
from optax_ftml.mxnet import _factory, _states_file

_FTML = _ftml.ScaleByFtmlState | _ftml.FtmlState
_MASTER = _master_params.MasterParamsState


def state_from_mxnet(
    states: _states_file.UpdaterStates,
    state: optax.OptState,
    params: optax.Params,
    paths: Mapping[_states_file.Key, str],
    *,
    axes: Mapping[str, Sequence[int]] | None = None,
) -> optax.OptState:
    """Puts MXNet's states of FTML into an optimizer's state.

    In the delta form the state is MXNet's v: the leader -z / d is the
    parameters, which is checked. In the leader form it is v and the multiplier
    -(z + d theta).

    Args:
        states: What :func:`load_states` returns; `num_update` must be known.
        state: What the optimizer's ``init`` returns. It may hold FTML's state
            more than once (:func:`optax.partition`) and other states. The
            counts of FTML and of its schedule become `num_update`.
        params: MXNet's weights of the same moment, a tree like the parameters
            of the optimizer.
        paths: The path (keys joined by "/") of each of MXNet's indices or
            names. Mind that ``gluon.Trainer`` numbers parameters in the order
            of their sorted names if it is given a dict.
        axes: By path, the axes of MXNet's array in the parameter's order, for
            parameters that are transposed, as :func:`numpy.transpose` takes
            them: (1, 0) for a Dense weight, (2, 3, 1, 0) for a convolution's.

    Returns:
        The state, a tree like `state` with the same shapes and dtypes.

    Raises:
        ValueError: Something is missing or left over, has another shape, or
            the states are not those of `params`; the error says which.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from optax_ftml import mxnet
        >>> slots = mxnet.FtmlSlots(
        ...     d=np.array([2.0]), v=np.array([0.1]), z=np.array([-6.0])
        ... )
        >>> states = mxnet.UpdaterStates({0: slots}, num_update=7)
        >>> params = {"bias": jnp.array([3.0])}
        >>> state = mxnet.ftml().init(params)
        >>> state = mxnet.state_from_mxnet(states, state, params, {0: "bias"})
        >>> print(optax.tree_utils.tree_get(state, "count"))
        7
    """
    states = states.with_paths(paths)
    if states.num_update is None:
        raise ValueError(
            "states must say how many updates there were: "
            "states._replace(num_update=...) adds it."
        )
    weights = _arrays(params)
    unknown = [path for path in states.slots if path not in weights]
    right = f"the names of parameters ({', '.join(weights)})"
    _checks.check(not unknown, "paths", right, unknown)
    slots = _transpose(states.slots, axes or {})
    _check_slots(slots, weights, state)
    v, masters, multipliers = {}, {}, {}
    for path, x in slots.items():
        v[path] = x.v
        masters[path] = weights[path] if x.weight is None else x.weight
        # That is d (leader - theta), where z is -d times the leader.
        multipliers[path] = -x.z - x.d * masters[path].astype(float)

    def fill(tree, arrays):
        """Returns a tree like another, with the arrays as its leaves."""
        return jax.tree.structure(tree).unflatten(
            jax.device_put(arrays[path].astype(old.dtype), old.sharding)
            for path, old in _paths.named_leaves(tree)
        )

    def fill_ftml(node):
        node = node._replace(v=fill(node.v, v))
        if isinstance(node, _ftml.FtmlState):
            return node._replace(multiplier=fill(node.multiplier, multipliers))
        for path in _paths.leaf_names(node.v):
            _check_leader(path, slots[path], multipliers[path], masters[path])
        return node

    def fill_master(node):
        return node._replace(master=fill(node.master, masters))

    state = _factory.map_nodes(fill_ftml, _FTML, state)
    state = _factory.map_nodes(fill_master, _MASTER, state)
    return _factory.with_count(state, states.num_update)


def state_to_mxnet(
    state: optax.OptState,
    params: optax.Params,
    paths: Mapping[_states_file.Key, str],
    options: Mapping[str, Any],
    *,
    axes: Mapping[str, Sequence[int]] | None = None,
) -> _states_file.UpdaterStates:
    """Returns an optimizer's state as MXNet's states of FTML.

    Args:
        state: The state of :func:`optax_ftml.mxnet.ftml` or
            :func:`optax_ftml.ftml` in either form, alone or within others.
        params: The parameters.
        paths: The path of each of MXNet's indices or names, as in
            :func:`state_from_mxnet`.
        options: The arguments that the optimizer was made with, under the
            names of :func:`optax_ftml.mxnet.ftml`.
        axes: As in :func:`state_from_mxnet`.

    Returns:
        The states, for :func:`save_states`. Where the last learning rate was
        0, d is 0, with which MXNet's next step is right.

    Raises:
        ValueError: A path that leads nowhere, or parameters without a path.

    Examples:
        >>> import jax.numpy as jnp
        >>> from optax_ftml import mxnet
        >>> options = {"learning_rate": 0.5, "beta1": 0.5}
        >>> optimizer = mxnet.ftml(**options)
        >>> params = {"bias": jnp.array([3.0])}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state)
        >>> params = optax.apply_updates(params, updates)
        >>> states = mxnet.state_to_mxnet(state, params, {0: "bias"}, options)
        >>> print(states.slots[0].d, -states.slots[0].z / states.slots[0].d)
        [3.] [2.5]
    """
    options = {**_factory.DEFAULTS, **options}
    factors = {
        name: _arrays(_factory.factors(name, options[name], params))
        for name in ("lr_mult", "wd_mult")
    }
    masters = _leaves(state, _MASTER, "master")
    multipliers = _leaves(state, _FTML, "multiplier")
    weights = _arrays(params) | masters
    num_update = max((int(x.count) for x in _nodes(state, _FTML)), default=0)
    slots: dict[str, _states_file.FtmlSlots] = {}
    for path, v in _leaves(state, _FTML, "v").items():
        d = _d(v, num_update, factors["lr_mult"][path], options)
        z = -(multipliers.get(path, 0) + d * weights[path].astype(float))
        d, v, z = (x.astype(weights[path].dtype) for x in (d, v, z))
        slots[path] = _states_file.FtmlSlots(d, v, z, masters.get(path))
    is_right = sorted(paths.values()) == sorted(slots)
    right = f"each parameter of the state once ({sorted(slots)})"
    _checks.check(is_right, "paths", right, list(paths.values()))
    inverse = {path: np.argsort(order) for path, order in (axes or {}).items()}
    slots = _transpose(slots, inverse)
    for name, by_path in factors.items():
        options[name] = {
            key: by_path[path].item()
            for key, path in paths.items()
            if by_path[path] != 1
        }
    return _states_file.UpdaterStates(
        {key: slots[path] for key, path in paths.items()}, num_update, options
    )


def _d(v, num_update, lr_mult, options):
    """Returns MXNet's d of the last update."""
    rate, scheduler = options["learning_rate"], options["lr_scheduler"]
    lr = _factory.resolve_learning_rate(rate, scheduler)
    lr = float(lr(num_update - 1) if callable(lr) else lr) * lr_mult
    if num_update == 0 or lr == 0:
        return np.zeros(v.shape)
    # Rounded as in the update, which fits the bias corrections to v.
    dtype = _numerics.at_least_float32(v)
    names = "beta1", "beta2", "epsilon"
    b1, b2, eps = np.array([options[x] for x in names], dtype).astype(float)
    denominator = np.sqrt(v.astype(float) / (1 - b2**num_update)) + eps
    return (1 - b1**num_update) / lr * denominator


def _transpose(slots, axes):
    """Returns the slots by path, with the axes of each array in this order."""
    moved = dict(slots)
    for path in slots.keys() & axes.keys():
        transpose = functools.partial(np.transpose, axes=axes[path])
        moved[path] = jax.tree.map(transpose, slots[path])
    return moved


def _check_slots(slots, weights, state):
    """Raises unless slots, weights and the state are of one another."""
    for path, (d, *_) in slots.items():
        right = f"of shape {weights[path].shape} for {path!r}, as axes make it"
        _checks.check(d.shape == weights[path].shape, "states", right, d.shape)
    v = _leaves(state, _FTML, "v").keys()
    missing, right = sorted(v - slots.keys()), "those of every parameter"
    _checks.check(not missing, "states", right, f"none for {missing}")
    unused = sorted(slots.keys() - v)
    right = "FTML's for every parameter in states"
    _checks.check(not unused, "state", right, f"none of {unused}")
    unused = slots.keys() - _leaves(state, _MASTER, "master").keys()
    unused = sorted(path for path in unused if slots[path].weight is not None)
    right = "with float32 copies (multi_precision=True) where states has them"
    _checks.check(not unused, "state", right, f"none of {unused}")


def _check_leader(path, slots, multiplier, weight):
    """Raises unless -z / d is the weights, where there has been an update."""
    error = multiplier / np.where(slots.d == 0, 1, slots.d)
    error = np.max(np.abs(error), initial=0)
    tolerance = 1e-3 if weight.dtype.itemsize > 2 else 1e-2
    size = np.max(np.abs(weight.astype(float)), initial=0)
    if not error <= tolerance * size:
        raise ValueError(
            f"params must be the weights that states belong to, but {path!r} "
            f"is up to {error:.2g} away from -z / d. Is it of the same moment, "
            "at the right path, and transposed where axes say so? (The leader "
            "form, ftml(..., prox=...), can start from there.)"
        )


def _leaves(state, kinds, field):
    """Returns the leaves of a field of all states of these types, by path."""
    return {
        path: leaf
        for node in _nodes(state, kinds)
        for path, leaf in _arrays(getattr(node, field, None)).items()
    }


def _nodes(state, kinds):
    def is_node(x):
        return isinstance(x, kinds)

    return filter(is_node, jax.tree.leaves(state, is_leaf=is_node))


def _arrays(tree):
    """Returns the leaves by path, as NumPy's arrays."""
    return {path: np.asarray(x) for path, x in _paths.named_leaves(tree)}
