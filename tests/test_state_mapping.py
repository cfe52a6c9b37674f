"""Optimizer states are mapped, and placed on devices, in Optax's usual way.

optax.tree_map_params calls init on a placeholder without leaves. So nothing
that init checks may need the parameters' keys.
"""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import optax_ftml
from optax_ftml import mxnet
from optax_ftml import prox

PARAMS = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
ZEROS = {"a": 0.0, "b": 0.0}
ONES = {"a": 1.0, "b": jnp.ones(())}


def by_key(leader, step_size):
    del step_size
    return {**leader, "a": jnp.maximum(leader["a"], 0)}


ftml = optax_ftml.ftml
OPTIMIZERS = {
    "path": ftml(prox=prox.by_path({"a": prox.simplex(axis=-1)})),
    "pattern": ftml(prox=prox.by_path({"*": prox.non_negative()})),
    "tree of bounds": ftml(prox=prox.box(ZEROS, ONES)),
    "tree of strengths": ftml(prox=prox.group_lasso(ONES, axis=-1)),
    "tree of normals": ftml(prox=prox.hyperplane(ONES, 0.0)),
    "by key": ftml(prox=by_key),
    "by key, b1 = 0": ftml(b1=0, prox=by_key),
    "in_metric": ftml(prox=prox.in_metric(by_key)),
    "lr_mult": mxnet.ftml(lr_mult={"a": 2.0}),
    "wd_mult": mxnet.ftml(wd=0.1, wd_mult={"a": 2.0}),
}
WRAPPERS = {
    "alone": lambda optimizer: optimizer,
    "partition": lambda optimizer: optax.partition(
        {"on": optimizer, "off": optax.adam(0.1)}, {"a": "on", "b": "on"}
    ),
    "masked": lambda optimizer: optax.masked(optimizer, lambda _: True),
    "inject_hyperparams": lambda optimizer: optax.inject_hyperparams(
        lambda scale: optax.chain(optax.scale(scale), optimizer)
    )(1.0),
    "MultiSteps": lambda optimizer: optax.MultiSteps(optimizer, 2),
    "with_master_params": optax_ftml.with_master_params,
}


def is_masked(x):
    return isinstance(x, optax.MaskedNode)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_slot_is_mapped_and_placed_as_its_parameter(name, wrapper):
    optimizer = WRAPPERS[wrapper](OPTIMIZERS[name])
    state = jax.eval_shape(optimizer.init, PARAMS)
    mapped = optax.tree_map_params(
        optimizer,
        lambda slot, of_leaf: slot if is_masked(slot) else of_leaf,
        state,
        {"a": "a", "b": "b"},
        transform_non_params=lambda _: "other",
        is_leaf=is_masked,
    )
    shapes = {(2, 3): "a", (3,): "b", (): "other"}
    slots = [shapes[leaf.shape] for leaf in jax.tree.leaves(state)]
    assert jax.tree.leaves(mapped) == slots
    assert {"a", "b"} <= set(slots)

    mesh = jax.make_mesh((1,), ("x",))
    specs = {"a": P("x"), "b": P(None), "other": P()}
    shardings = jax.tree.map(
        lambda name: jax.sharding.NamedSharding(mesh, specs[name]), mapped
    )
    placed = jax.jit(optimizer.init, out_shardings=shardings)(PARAMS)
    found = [leaf.sharding for leaf in jax.tree.leaves(placed)]
    assert found == jax.tree.leaves(shardings)
