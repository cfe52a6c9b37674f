"""The state's and the updates' shapes, dtypes and structure, and what moves."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ftml
from optax_ftml import mxnet, prox
from tests import reference

DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64"]
FORMS = reference.FORMS
each = pytest.mark.parametrize("form", FORMS)
both_forms = pytest.mark.parametrize("form", ["delta", "leader"])


def avals(tree):
    return jax.tree.map(lambda x: (jax.typeof(x), x.weak_type), tree)


def slots(state):
    """The trees in the state that are like the parameters."""
    names = ("v", "multiplier", "mu", "nu")
    found = {name: optax.tree.get(state, name) for name in names}
    return {name: slot for name, slot in found.items() if slot is not None}


@each
def test_is_stable_in_every_dtype_at_once(x64, form):
    params = {
        "empty": jnp.ones((0, 3)),
        "none": None,
        "scalar": jnp.ones((), jnp.bfloat16),
        "tree": {},
        **{dtype: jnp.ones((2, 3), dtype) for dtype in DTYPES},
    }
    optimizer = FORMS[form](lambda t: 0.1 / (t + 1))
    state = first = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(3):
        updates, state = update(params, state, params)
        assert avals(state) == avals(first)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_tree_all_finite((updates, state))
    # On shapes alone, too.
    shapes = jax.eval_shape(lambda: params)
    chex.assert_trees_all_equal(optimizer.init(shapes), first)
    # At least float32, and the average of squares is real.
    for name, slot in slots(state).items():
        for dtype in DTYPES:
            wide = np.result_type(jnp.dtype(dtype), np.float32)
            expected = jnp.finfo(wide).dtype if name in ("v", "nu") else wide
            assert slot[dtype].dtype == expected


@each
@pytest.mark.parametrize("kind", [float, np.float64, jnp.float32])
def test_updates_have_their_gradients_dtype(form, kind):
    pairs = [(p, g) for p in DTYPES[1:3] for g in DTYPES[1:3]]
    params = [jnp.ones(3, p) for p, _ in pairs]
    grads = [jnp.ones(3, g) for _, g in pairs]
    optimizer = FORMS[form](kind(0.125))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for update, g in zip(updates, grads, strict=True):
        assert update.dtype == g.dtype
        # An update stops short of a target that it would round to beyond of.
        rtol = float(jnp.finfo(g.dtype).eps)
        np.testing.assert_allclose(np.float64(update), -0.125, max(rtol, 1e-5))


@each
@pytest.mark.parametrize("params", [{}, None, [None], 1.0])
def test_trees_without_arrays(form, params):
    optimizer = FORMS[form](0.5)
    grads = jax.tree.map(jnp.asarray, params)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    expected = jax.tree.map(lambda p: -p / 2, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    assert optax.tree.get(state, "count") == 1


@both_forms
def test_zero_gradients_move_nothing(x64, form):
    params = {dtype: jnp.asarray([1.1, -3.3, 0.007], dtype) for dtype in DTYPES}

    def grads(t, params):  # First 1, so that v is not what init made it.
        return jax.tree.map(lambda p: (t == 0).astype(p.dtype) + 0 * p, params)

    seen, *_ = reference.run(FORMS[form](0.3), params, grads, 300)
    for dtype in DTYPES:
        assert not np.any(seen[dtype][0] == params[dtype])
        assert np.all(seen[dtype] == seen[dtype][0])


@each
def test_slots_follow_float32_in_bfloat16(form):
    # In bfloat16 itself they would stop: 0.999 is 1 there.
    draws = np.random.default_rng(0).normal(1.0, 1.0, size=(300, 20))
    grads = jnp.asarray(draws, jnp.bfloat16)

    def end(dtype):
        _, _, states = reference.run(
            FORMS[form](0.0),
            jnp.zeros(20, dtype),
            lambda t, _: grads[t].astype(dtype),
            300,
        )
        return jax.tree.map(lambda x: x[-1], slots(states))

    chex.assert_trees_all_equal(end(jnp.bfloat16), end(jnp.float32))


PARAMS = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16)}
ZEROS = {"a": 0.0, "b": 0.0}
ONES = {"a": 1.0, "b": jnp.ones(())}


def by_key(leader, step_size):
    del step_size
    return {**leader, "a": jnp.maximum(leader["a"], 0)}


low_ftml = functools.partial(optax_ftml.ftml, accumulator_dtype=jnp.bfloat16)
OPTIMIZERS = {
    "path": low_ftml(prox=prox.by_path({"a": prox.simplex(axis=-1)})),
    "tree of bounds": low_ftml(prox=prox.box(ZEROS, ONES)),
    "tree of strengths": low_ftml(prox=prox.group_lasso(ONES, axis=-1)),
    "tree of normals": low_ftml(prox=prox.hyperplane(ONES, 0.0)),
    "by key": optax_ftml.ftml(prox=by_key),
    "in_metric": optax_ftml.ftml(prox=prox.in_metric(by_key)),
    "mxnet": mxnet.ftml(
        lr_mult={"a": 2.0}, wd=0.1, wd_mult={"a": 2.0}, multi_precision=True
    ),
    "rounding": optax.chain(low_ftml(), optax_ftml.stochastic_rounding()),
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
def test_states_are_stable_and_mapped_as_the_parameters(name, wrapper):
    """optax.tree_map_params calls init on a placeholder without leaves.

    So nothing that init checks may need the parameters' keys.
    """
    optimizer = WRAPPERS[wrapper](OPTIMIZERS[name])
    state = jax.eval_shape(optimizer.init, PARAMS)
    updates, after = jax.eval_shape(optimizer.update, PARAMS, state, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
    if wrapper == "MultiSteps":
        # Older versions of Optax add gradients up in their own dtype.
        state = state._replace(acc_grads=after.acc_grads)
    assert avals(after) == avals(state)

    mapped = optax.tree_map_params(
        optimizer,
        lambda slot, of_leaf: slot if is_masked(slot) else of_leaf,
        state,
        {"a": "a", "b": "b"},
        transform_non_params=lambda _: "other",
        is_leaf=is_masked,
    )
    shapes = {(2, 3): "a", (3,): "b", (): "other"}
    expected = [shapes[leaf.shape] for leaf in jax.tree.leaves(state)]
    assert jax.tree.leaves(mapped) == expected
    assert {"a", "b"} <= set(expected)
    # As jax.jit takes it, to place the state as the parameters are.
    mesh = jax.make_mesh((1,), ("x",))
    specs = {"a": P("x"), "b": P(None), "other": P()}
    shardings = jax.tree.map(lambda x: NamedSharding(mesh, specs[x]), mapped)
    jax.jit(optimizer.init, out_shardings=shardings).lower(PARAMS)
