"""Which leaves and subtrees a prox gets, and by which names."""

import dataclasses
from typing import NamedTuple

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_ftml
from optax_ftml import mxnet, prox


class Fields(NamedTuple):
    query: jax.Array
    key: jax.Array
    value: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Dataclass:
    query: jax.Array
    value: jax.Array


class Module(equinox.Module):
    query: jax.Array
    value: jax.Array
    name: str = equinox.field(static=True, default="attention")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Wrapper:
    value: jax.Array


MINUS = -jnp.ones(2)
CONTAINERS = {
    "NamedTuple": Fields(MINUS, MINUS, MINUS),
    "dataclass": Dataclass(MINUS, MINUS),
    "Equinox": Module(MINUS, MINUS),
    "dict": {"query": MINUS, "value": MINUS},
}
NON_NEGATIVE, BOX = prox.non_negative(), prox.box(-1.0, 1.0)
BLOCK = {"kernel": MINUS, "bias": MINUS}
BLOCKS = {"layers": [BLOCK, BLOCK], "out": {"bias": MINUS}}
WRAPPED = {"scale": Wrapper(MINUS), "other": MINUS}
TWICE = {"a": {"b": CONTAINERS["NamedTuple"]}, "a/b": MINUS}


@pytest.mark.parametrize(
    ("tree", "proxes", "expected"),
    [
        *(
            ({"attn": x}, {"attn/value": NON_NEGATIVE}, "attn/value")
            for x in CONTAINERS.values()
        ),
        # A wrapped leaf has both names, unless another has the shorter one.
        (WRAPPED, {"scale": NON_NEGATIVE}, "scale/value"),
        (WRAPPED, {"scale/value": NON_NEGATIVE}, "scale/value"),
        (TWICE, {"a/b": NON_NEGATIVE}, "a/b"),
        (TWICE, {"a/b/value": NON_NEGATIVE}, "a/b/value"),
        # A path goes before patterns, and these in their order.
        (
            BLOCKS,
            {"layers/*": NON_NEGATIVE, "layers/1/bias": BOX},
            "layers/0/bias layers/0/kernel layers/1/kernel",
        ),
        (BLOCKS, {"*bias": BOX, "out/*": NON_NEGATIVE}, ""),
        (
            BLOCKS,
            {"*": NON_NEGATIVE, "layers/0": BOX},
            "layers/1/bias layers/1/kernel out/bias",
        ),
        # Subtrees, and within them their own paths.
        (BLOCKS, {"layers/1": NON_NEGATIVE}, "layers/1/bias layers/1/kernel"),
        (
            BLOCKS,
            {"layers/1": prox.box({"kernel": -1.0, "bias": 0.0}, 1.0)},
            "layers/1/bias",
        ),
        (
            BLOCKS,
            {"layers": prox.by_path({"0": prox.by_path({"b*": NON_NEGATIVE})})},
            "layers/0/bias",
        ),
        (BLOCKS, {"": prox.by_path({"out/bias": NON_NEGATIVE})}, "out/bias"),
    ],
)
def test_these_leaves_of_minus_1_become_0(tree, proxes, expected):
    theta = prox.by_path(proxes)(tree, jax.tree.map(jnp.ones_like, tree))
    assert jax.tree.structure(theta) == jax.tree.structure(tree)
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(theta)
        if np.all(leaf == 0)
    }
    assert changed == set(expected.split())


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_field_called_value_has_a_name(container):
    tree = {"attn": CONTAINERS[container]}
    with pytest.raises(ValueError, match=r"'mlp'.*attn/query.*attn/value"):
        prox.by_path({"mlp": NON_NEGATIVE})(tree, tree)
    optimizer = mxnet.ftml(0.1, lr_mult={"attn/value": 0.0})
    updates, _ = optimizer.update(tree, optimizer.init(tree))
    *others, value = jax.tree.leaves(updates)
    assert np.all(others)
    assert not np.any(value)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_subtree_is_whole(container):
    """So a field is an attribute, and axis=None is of all leaves."""

    def f(leader, step_size):
        assert type(leader) is type(step_size) is type(subtree)
        return prox.simplex()(leader, step_size)

    subtree = CONTAINERS[container]
    tree = {"attn": subtree, "other": MINUS}
    after = prox.by_path({"attn": f})(tree, jax.tree.map(jnp.ones_like, tree))
    total = sum(map(np.sum, jax.tree.leaves(after["attn"])))
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    np.testing.assert_array_equal(after["other"], MINUS)


@pytest.mark.parametrize(
    ("proxes", "words"),
    [
        ({"c*": NON_NEGATIVE}, r"'c\*'.*layers/0/bias, layers/0/kernel"),
        (
            {"layers/0": NON_NEGATIVE, "layers/0/bias": NON_NEGATIVE},
            r"\['layers/0/bias'\], within 'layers/0'",
        ),
    ],
)
def test_a_key_without_a_leaf_of_its_own_is_named(proxes, words):
    with pytest.raises(ValueError, match=words):
        optax_ftml.ftml(prox=prox.by_path(proxes)).init(BLOCKS)


@pytest.mark.parametrize("proxes", [None, 1, {"a": 1}, {1: NON_NEGATIVE}])
def test_what_is_no_mapping_from_paths_to_proxes_is_refused(proxes):
    with pytest.raises(TypeError, match=r"proxes.* must be"):
        prox.by_path(proxes)


@pytest.mark.parametrize(
    ("key", "leaves"),
    [
        ("layers/0", ["bias", "kernel"]),
        ("layers/0/kernel", ["kernel"]),
        ("layers/0/kernel/value", ["kernel"]),
        ("*/kernel", ["kernel"]),
    ],
)
def test_flax_nnx_with_its_wrappers_and_without(key, leaves):
    """An nnx.Optimizer gives init a tree with these, and update one without."""
    model = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    f = prox.box(dict.fromkeys(leaves, 0.25) if len(leaves) == 2 else 0.25, 0.5)
    tx = optax_ftml.ftml(0.1, prox=prox.by_path({key: f}))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    optimizer.update(model, grads)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))["layers"][0]
    assert {k for k in after if np.all(after[k] > 0.24)} == {*leaves}


def test_a_subtree_within_a_partition():
    params = {"a": {"w": MINUS, "b": MINUS}, "c": MINUS}
    f = prox.by_path({"a": NON_NEGATIVE})
    transforms = {"prox": optax_ftml.ftml(prox=f), "adam": optax.adam(0.1)}
    optimizer = optax.partition(transforms, {"a": "prox", "c": "adam"})
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(after["a"]["b"], np.zeros(2))
