"""The state's and the updates' shapes, dtypes and structure, and what moves.

Under JAX's strict settings, as under its loose ones.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet, prox
from tests import reference

REAL = ["float16", "bfloat16", "float32", "float64"]
DTYPES = [*REAL, "complex64"]
FORMS = reference.FORMS
each = pytest.mark.parametrize("form", FORMS)


def avals(tree):
    return jax.tree.map(lambda x: (jax.typeof(x), x.weak_type), tree)


def slots(state):
    """The trees in the state that are like the parameters."""
    names = ("v", "multiplier", "mu", "nu")
    found = {name: optax.tree.get(state, name) for name in names}
    return {name: slot for name, slot in found.items() if slot is not None}


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        *((name, REAL) for name in [*reference.OPTIMIZERS, "float64 v"]),
        *((name, DTYPES) for name in FORMS),
    ],
)
def test_is_stable_in_every_dtype_at_once(request, x64, name, dtypes):
    if dtypes is REAL:  # Strict promotion has none of real and complex.
        request.getfixturevalue("strict")
    params = {
        "empty": jnp.ones((0, 3)),
        "none": None,
        "scalar": jnp.ones((), jnp.bfloat16),
        "tree": {},
        **{dtype: jnp.eye(2, 3, dtype=dtype) for dtype in dtypes},
    }
    makers = reference.OPTIMIZERS | {
        "float64 v": lambda rate: optax_ftml.ftml(
            rate, accumulator_dtype=jnp.float64
        )
    }
    falling = optax.linear_schedule(0.1, 0.0, 2)
    optimizer = makers[name](0.1 if name == "mxnet" else falling)
    state = first = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(3):
        updates, state = update(params, state, params)
        assert avals(state) == avals(first)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_tree_all_finite((updates, state))
    if dtypes is REAL:
        return
    # On shapes alone, too.
    shapes = jax.eval_shape(lambda: params)
    chex.assert_trees_all_equal(optimizer.init(shapes), first)
    # At least float32, and the average of squares is real.
    for slot_name, slot in slots(state).items():
        for dtype in DTYPES:
            wide = np.result_type(jnp.dtype(dtype), np.float32)
            is_real = slot_name in ("v", "nu")
            expected = jnp.finfo(wide).dtype if is_real else wide
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


@pytest.mark.parametrize("form", ["delta", "leader"])
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
    low, wide = (
        reference.run(
            FORMS[form](0.0),
            jnp.zeros(20, dtype),
            lambda t, params: grads[t].astype(params.dtype),
            300,
        )[2]
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    chex.assert_trees_all_equal(slots(low), slots(wide))


PARAMS = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16)}
ONES = {"a": 1.0, "b": jnp.ones(())}


def by_key(leader, step_size):
    del step_size
    return {**leader, "a": jnp.maximum(leader["a"], 0)}


PROXES = {
    "path": prox.by_path({"a": prox.simplex(axis=-1)}),
    "tree of bounds": prox.box({"a": 0.0, "b": 0.0}, ONES),
    "tree of strengths": prox.group_lasso(ONES, axis=-1),
    "tree of normals": prox.hyperplane(ONES, 0.0),
    "in_metric": prox.in_metric(by_key),
}
OPTIMIZERS = {name: optax_ftml.ftml(prox=f) for name, f in PROXES.items()}
OPTIMIZERS["rounding"] = reference.OPTIMIZERS["rounding"](0.1)
OPTIMIZERS["mxnet"] = mxnet.ftml(
    lr_mult={"a": 2.0}, wd=0.1, wd_mult={"a": 2.0}, multi_precision=True
)
WRAPPERS = {
    "alone": lambda optimizer: optimizer,
    "partition": lambda optimizer: optax.partition(
        {"on": optimizer, "off": optax.adam(0.1)}, {"a": "on", "b": "on"}
    ),
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
