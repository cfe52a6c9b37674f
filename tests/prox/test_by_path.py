"""Which leaves and subtrees a prox gets, and by which names."""

from typing import NamedTuple

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_ftml
from optax_ftml import prox


class Fields(NamedTuple):
    query: jax.Array
    value: jax.Array


class Module(equinox.Module):
    query: jax.Array
    value: jax.Array
    name: str = equinox.field(static=True, default="attention")


class Wrapper(NamedTuple):
    value: jax.Array


MINUS = -jnp.ones(2)
CONTAINERS = {
    "NamedTuple": Fields(MINUS, MINUS),
    "Equinox": Module(MINUS, MINUS),
    "dict": {"query": MINUS, "value": MINUS},
}
TO_0, BOX = prox.non_negative(), prox.box(-1.0, 1.0)
BLOCK = {"w": MINUS, "b": MINUS}
BLOCKS = {"in": [BLOCK, BLOCK], "out": {"b": MINUS}}
WRAPPED = {"scale": Wrapper(MINUS), "other": MINUS}
TWICE = {"a": {"b": CONTAINERS["NamedTuple"]}, "a/b": MINUS}


@pytest.mark.parametrize(
    ("tree", "proxes", "expected"),
    [
        *(
            ({"attn": x}, {"attn/value": TO_0}, "attn/value")
            for x in CONTAINERS.values()
        ),
        # A wrapped leaf has both names, unless another has the shorter one.
        (WRAPPED, {"scale": TO_0}, "scale/value"),
        (WRAPPED, {"scale/value": TO_0}, "scale/value"),
        (TWICE, {"a/b": TO_0}, "a/b"),
        (TWICE, {"a/b/value": TO_0}, "a/b/value"),
        # A path goes before patterns, and these in their order.
        (BLOCKS, {"in/*": TO_0, "in/1/b": BOX}, "in/0/b in/0/w in/1/w"),
        (BLOCKS, {"*b": BOX, "out/*": TO_0}, ""),
        (BLOCKS, {"*": TO_0, "in/0": BOX}, "in/1/b in/1/w out/b"),
        # Subtrees, and within them their own paths.
        (BLOCKS, {"in/1": TO_0}, "in/1/b in/1/w"),
        (
            BLOCKS,
            {"in": prox.by_path({"0": prox.by_path({"b": TO_0})})},
            "in/0/b",
        ),
        (BLOCKS, {"": prox.by_path({"out/b": TO_0})}, "out/b"),
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
    ("proxes", "error", "words"),
    [
        ({"c*": BOX}, ValueError, r"'c\*'.*in/0/b, in/0/w"),
        (
            {"in/0": BOX, "in/0/b": BOX},
            *(ValueError, r"\['in/0/b'\], within 'in/0'"),
        ),
        (None, TypeError, "proxes.* must be"),
        ({"a": 1}, TypeError, "proxes.* must be"),
        ({1: BOX}, TypeError, "proxes.* must be"),
    ],
)
def test_what_is_wrong_is_named(proxes, error, words):
    with pytest.raises(error, match=words):
        optax_ftml.ftml(prox=prox.by_path(proxes)).init(BLOCKS)


@pytest.mark.parametrize(
    ("key", "leaves"),
    [
        ("layers/0", ["bias", "kernel"]),
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
    f = prox.by_path({"a": TO_0})
    transforms = {"prox": optax_ftml.ftml(prox=f), "adam": optax.adam(0.1)}
    optimizer = optax.partition(transforms, {"a": "prox", "c": "adam"})
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(after["a"]["b"], np.zeros(2))
