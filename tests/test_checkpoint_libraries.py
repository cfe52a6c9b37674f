"""Orbax and flax.serialization take the states there and back exactly."""

import chex
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests import reference

OPTIMIZERS = {name: make(0.01) for name, make in reference.OPTIMIZERS.items()}


@jax.jit
def two_steps(trees):
    """Each optimizer's parameters and state after two steps more."""
    after = {}
    for name, (params, state) in trees.items():
        for _ in range(2):
            grads = jax.tree.map(jnp.sin, params)
            updates, state = OPTIMIZERS[name].update(grads, state, params)
            params = optax.apply_updates(params, updates)
        after[name] = params, state
    return after


def by_orbax(trees, like, folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "one", trees)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "one", like)


def by_flax(trees, like, folder):
    path = folder / "state.msgpack"
    path.write_bytes(serialization.to_bytes(trees))
    return serialization.from_bytes(like, path.read_bytes())


@pytest.mark.parametrize("way", [by_orbax, by_flax])
def test_goes_on_as_if_nothing_had_happened(way, tmp_path):
    params = {
        "w": jnp.ones((4, 3), jnp.bfloat16),
        "b": [jnp.ones(3), jnp.ones((), jnp.bfloat16)],
    }
    start = {name: (params, o.init(params)) for name, o in OPTIMIZERS.items()}
    halfway = two_steps(start)
    restored = way(halfway, start, tmp_path)
    chex.assert_trees_all_equal(restored, halfway)
    chex.assert_trees_all_equal_dtypes(restored, halfway)
    chex.assert_trees_all_equal(two_steps(restored), two_steps(halfway))


@pytest.mark.usefixtures("eight_devices")
def test_saved_on_eight_devices_and_restored_on_four(tmp_path):
    def sharded(trees, devices):
        mesh = jax.make_mesh(
            (devices,), ("x",), devices=jax.devices()[:devices]
        )
        shardings = jax.tree.map(
            lambda x: NamedSharding(mesh, P("x") if x.ndim else P()), trees
        )
        return jax.device_put(trees, shardings)

    params = {"w": jnp.ones((16, 8), jnp.bfloat16)}
    start = {"rounding": (params, OPTIMIZERS["rounding"].init(params))}
    halfway = two_steps(sharded(start, 8))
    restored = by_orbax(halfway, sharded(start, 4), tmp_path)
    assert len(restored["rounding"][0]["w"].sharding.device_set) == 4
    chex.assert_trees_all_equal(two_steps(restored), two_steps(halfway))
