"""Orbax and flax.serialization take the states there and back exactly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ftml

OPTIMIZERS = {
    "delta": optax_ftml.ftml(0.01),
    "leader": optax_ftml.ftml(0.01, prox=optax_ftml.prox.l1(0.1)),
    "adam": optax_ftml.proximal_adam(0.01, prox=optax_ftml.prox.l1(0.1)),
    "low": optax.chain(
        optax_ftml.ftml(0.01, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    ),
    "master": optax_ftml.with_master_params(
        optax.inject_hyperparams(optax_ftml.ftml)(0.01)
    ),
}


def _run(name, params, state, steps):
    update = jax.jit(OPTIMIZERS[name].update)
    for t in steps:
        grads = jax.tree.map(
            lambda p, t=t: jnp.asarray(
                np.random.default_rng(t).normal(size=p.shape), p.dtype
            ),
            params,
        )
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def _orbax(tree, like, directory):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / "one", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(directory / "one", like)


def _flax(tree, like, directory):
    path = directory / "state.msgpack"
    path.write_bytes(serialization.to_bytes(tree))
    return serialization.from_bytes(like, path.read_bytes())


@pytest.fixture(scope="module")
def halfway():
    """Each optimizer's parameters and state after two and after four steps."""
    start = {
        "w": jnp.ones((4, 3), jnp.bfloat16),
        "b": [jnp.zeros(3), jnp.ones((), jnp.bfloat16)],
    }
    two = {
        name: _run(name, start, optimizer.init(start), range(2))
        for name, optimizer in OPTIMIZERS.items()
    }
    return two, {name: _run(name, *x, range(2, 4)) for name, x in two.items()}


@pytest.mark.parametrize("way", [_orbax, _flax])
def test_goes_on_as_if_nothing_had_happened(way, halfway, tmp_path):
    two, four = halfway
    restored = way(two, jax.tree.map(jnp.zeros_like, two), tmp_path)
    chex.assert_trees_all_equal(restored, two)
    chex.assert_trees_all_equal_dtypes(restored, two)
    for name, x in restored.items():
        chex.assert_trees_all_equal(_run(name, *x, range(2, 4)), four[name])


@pytest.mark.usefixtures("eight_devices")
def test_saved_on_eight_devices_and_restored_on_four(tmp_path):
    def sharded(tree, devices):
        mesh = jax.make_mesh(
            (devices,), ("x",), devices=jax.devices()[:devices]
        )
        shardings = jax.tree.map(
            lambda x: NamedSharding(mesh, P("x") if x.ndim else P()), tree
        )
        return jax.device_put(tree, shardings)

    params = {"w": jnp.ones((16, 8), jnp.bfloat16)}
    start = params, OPTIMIZERS["low"].init(params)
    halfway = _run("low", *sharded(start, 8), range(2))
    restored = _orbax(halfway, sharded(start, 4), tmp_path)
    assert len(restored[0]["w"].sharding.device_set) == 4
    chex.assert_trees_all_equal(
        _run("low", *restored, range(2, 4)),
        _run("low", *halfway, range(2, 4)),
    )
