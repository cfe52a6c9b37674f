"""Training goes on here where MXNet stopped, and the other way round."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from examples import mxnet_job
from optax_ftml import mxnet
from tests.programs import mxnet_network

FILES = pathlib.Path(__file__).parents[1] / "data" / "mxnet_files"
NAMES = dict(enumerate(mxnet_network.SHAPES))
MULTIPLIERS = {
    "lr_mult": mxnet_network.LR_MULT,
    "wd_mult": mxnet_network.WD_MULT,
}
KINDS = [(v, kind) for v in (1, 2) for kind in ("plain", "multi_precision")]
each_network = pytest.mark.parametrize(("version", "kind"), KINDS)


@functools.partial(jax.jit, static_argnums=0)
def _train(optimizer, params, state):
    """Returns the parameters and the state after 100 updates more."""

    def loss(params):
        params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        return mxnet_job.loss(params, *mxnet_network.data())

    def step(_, carry):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, 100, step, (params, state))


def _close(x, y, tolerance):
    """Asserts that arrays differ by little of their size."""
    assert x.dtype == y.dtype
    x, y = np.asarray(x, float), np.asarray(y, float)
    np.testing.assert_allclose(
        x, y, rtol=0, atol=tolerance * np.max(np.abs(y), initial=1e-2)
    )


@each_network
def test_training_goes_on_where_mxnet_stopped(version, kind):
    start = FILES / f"{version}_{kind}"
    params = mxnet.load_params(f"{start}_100.params")
    states = mxnet.load_states(f"{start}_100_trainer.states")
    # Gluon's multipliers are not in its files.
    optimizer = mxnet.ftml(**states.with_paths(NAMES).options | MULTIPLIERS)
    init = optimizer.init(params)
    state = mxnet.state_from_mxnet(states, init, params, NAMES)
    params, _ = _train(optimizer, params, state)
    expected = mxnet.load_params(f"{start}_200.params")
    for name, p in params.items():
        # A gradient in float16 may have been rounded the other way once.
        _close(p, expected[name], 2e-5 if kind == "plain" else 2e-3)


def ours_at_100(version, kind):
    """Returns the parameters and states of 100 steps from MXNet's start."""
    params = mxnet.load_params(FILES / f"{version}_{kind}_0.params")
    options = {
        **mxnet_network.OPTIONS,
        **MULTIPLIERS,
        "lr_scheduler": mxnet.FactorScheduler(**mxnet_network.SCHEDULER),
        "multi_precision": kind == "multi_precision",
        "order": f"{version}.x",
    }
    optimizer = mxnet.ftml(**options)
    params, state = _train(optimizer, params, optimizer.init(params))
    return params, mxnet.state_to_mxnet(state, params, NAMES, options)


@each_network
def test_our_states_are_those_that_mxnet_saves(version, kind):
    _, ours = ours_at_100(version, kind)
    start = FILES / f"{version}_{kind}_100"
    for file in ("updater", "trainer"):
        theirs = mxnet.load_states(f"{start}_{file}.states")
        assert theirs.num_update == (100 if file == "trainer" else None)
        assert ours.slots.keys() == theirs.slots.keys()
        # v and z are sums over gradients that cancel.
        jax.tree.map(lambda x, y: _close(x, y, 2e-3), ours.slots, theirs.slots)
    assert ours.num_update == 100
    assert (ours.slots[0].weight is None) == (kind == "plain")
    # MXNet has halved the learning rate at the 61st update, and does not know
    # what single parameters have of their own.
    schedules = [x.options.pop("lr_scheduler") for x in (ours, theirs)]
    rates = [schedule(jnp.arange(100, 300)) for schedule in schedules]
    np.testing.assert_allclose(*rates, rtol=1e-6)
    assert ours.options == theirs.options | {
        "learning_rate": 0.02,
        "lr_mult": {3: 0.5},
        "wd_mult": {0: 0.0, 2: 0.0},
    }


STATES = mxnet.load_states(FILES / "2_plain_100_trainer.states")
PARAMS = mxnet.load_params(FILES / "2_plain_100.params")


def test_states_of_transposed_parameters():
    bias0, weight0, bias1, weight1 = map(PARAMS.get, NAMES.values())
    params = {
        "hidden": {"bias": bias0, "kernel": weight0.T},
        "output": {"bias": bias1, "kernel": weight1.T},
    }
    names = "hidden/bias", "hidden/kernel", "output/bias", "output/kernel"
    paths = dict(enumerate(names))
    axes = {"hidden/kernel": (1, 0), "output/kernel": (1, 0)}
    options = STATES.options | {"lr_mult": {"output/kernel": 0.5}}
    init = mxnet.ftml(**options).init(params)
    state = mxnet.state_from_mxnet(STATES, init, params, paths, axes=axes)
    v = optax.tree_utils.tree_get(state, "v")
    np.testing.assert_array_equal(v["hidden"]["kernel"], STATES.slots[1].v.T)
    assert jax.tree.structure(state) == jax.tree.structure(init)
    back = mxnet.state_to_mxnet(state, params, paths, options, axes=axes)
    for key, slots in STATES.slots.items():
        for x, y in zip(back.slots[key][:3], slots[:3], strict=True):
            _close(x, y, 1e-5)
    with pytest.raises(ValueError, match=r"'hidden/kernel'.*axes"):
        mxnet.state_from_mxnet(STATES, init, params, paths)


def test_states_of_the_leader_form_go_to_mxnet_and_back():
    optimizer = optax_ftml.ftml(0.01, prox=optax_ftml.prox.l1(0.01))
    init = optimizer.init(PARAMS)
    state = mxnet.state_from_mxnet(STATES, init, PARAMS, NAMES)
    params, state = _train(optimizer, PARAMS, state)
    options = {"learning_rate": 0.01}
    states = mxnet.state_to_mxnet(state, params, NAMES, options)
    back = mxnet.state_from_mxnet(states, init, params, NAMES)
    jax.tree.map(lambda x, y: _close(x, y, 1e-4), back, state)


def test_mxnets_recursion_goes_on_from_the_leader_form():
    """One step of MXNet's d, v, z from our state is our next step."""
    optimizer = optax_ftml.ftml(0.1, prox=optax_ftml.prox.non_negative())
    params = {"p": jnp.array([0.5, 0.05])}
    grads = {"p": jnp.array([1.0, 2.0])}
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert params["p"][1] == 0
    options = {"learning_rate": 0.1}
    states = mxnet.state_to_mxnet(state, params, {0: "p"}, options)
    d, v, z, _ = states.slots[0]
    v = 0.999 * v + 0.001 * grads["p"] ** 2
    next_d = (1 - 0.6**4) / 0.1 * (np.sqrt(v / (1 - 0.999**4)) + 1e-8)
    z = 0.6 * z + 0.4 * grads["p"] - (next_d - 0.6 * d) * params["p"]
    updates, _ = optimizer.update(grads, state, params)
    expected = np.maximum(-z / next_d, 0)
    np.testing.assert_allclose(params["p"] + updates["p"], expected, rtol=1e-5)


def _with_z(z):
    slots = STATES.slots[0]._replace(z=np.full(4, z, np.float32))
    return STATES._replace(slots={**STATES.slots, 0: slots})


FEWER = STATES._replace(slots={i: STATES.slots[i] for i in range(3)})


@pytest.mark.parametrize(
    ("match", "states", "params", "paths"),
    [
        (r"no.*for \[3\]", STATES, PARAMS, {0: "a", 1: "b", 2: "c"}),
        ("different parameters", STATES, PARAMS, {**NAMES, 1: "0.bias"}),
        (r"0.bias.*got \['x'\]", STATES, PARAMS, {**NAMES, 3: "x"}),
        ("num_update", STATES._replace(num_update=None), PARAMS, NAMES),
        ("shape", STATES, PARAMS, {**NAMES, 0: "1.bias", 2: "0.bias"}),
        ("'0.bias'.*away", _with_z(np.nan), PARAMS, NAMES),
        ("'0.bias'.*away", _with_z(1.0), PARAMS, NAMES),
        (
            "multi_precision.*'0.bias'",
            mxnet.load_states(FILES / "2_multi_precision_100_trainer.states"),
            mxnet.load_params(FILES / "2_multi_precision_100.params"),
            NAMES,
        ),
        (r"none for \['1.weight'\]", FEWER, PARAMS, NAMES),
    ],
)
def test_states_that_do_not_fit_are_refused(match, states, params, paths):
    init = mxnet.ftml().init(params)
    with pytest.raises(ValueError, match=match):
        mxnet.state_from_mxnet(states, init, params, paths)


def test_states_without_a_place_are_refused():
    some = {name: PARAMS[name] for name in ("0.bias", "0.weight")}
    init = mxnet.ftml().init(some)
    with pytest.raises(ValueError, match=r"none of \['1.bias', '1.weight'\]"):
        mxnet.state_from_mxnet(STATES, init, PARAMS, NAMES)
    for paths in ({0: "0.bias"}, {**NAMES, 9: "0.bias"}, {0: "nowhere"}):
        with pytest.raises(ValueError, match="paths must"):
            mxnet.state_to_mxnet(init, PARAMS, paths, {})
