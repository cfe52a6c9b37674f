"""Optax's wrappers around what keeps low-precision parameters exact."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet

BOX = optax_ftml.prox.box(-1.0, 1.0)
FTML = functools.partial(optax_ftml.ftml, accumulator_dtype=jnp.bfloat16)
TRANSFORMATIONS = {
    "delta": lambda: FTML(0.01),
    "prox": lambda: FTML(0.01, prox=BOX),
    "rounding": lambda: optax.chain(
        FTML(0.01), optax_ftml.stochastic_rounding()
    ),
    "master": lambda: optax_ftml.with_master_params(FTML(0.01, prox=BOX)),
    "mxnet": lambda: mxnet.ftml(0.01, wd=1e-3, multi_precision=True),
}


def every_other(step):
    return step % 2 == 0


def split(optimizer):
    return optax.partition(
        {"a": optimizer, "b": optax.set_to_zero()}, {"w": "a", "b": "b"}
    )


WRAPPERS = {
    "alone": lambda optimizer: optimizer,
    "apply_if_finite": lambda optimizer: optax.apply_if_finite(optimizer, 5),
    "conditionally_mask": lambda optimizer: optax.transforms.conditionally_mask(
        optimizer, every_other
    ),
    "conditionally_transform": lambda optimizer: (
        optax.transforms.conditionally_transform(optimizer, every_other)
    ),
    "MultiSteps": lambda optimizer: optax.MultiSteps(
        optimizer, 2, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
    "masked": lambda optimizer: optax.masked(
        optimizer, {"w": True, "b": False}
    ),
    "partition": split,
    "named_chain": lambda optimizer: optax.named_chain(
        ("clip", optax.clip_by_global_norm(1.0)), ("ftml", optimizer)
    ),
    "flatten": optax.flatten,
    "inject_hyperparams": lambda optimizer: optax.inject_hyperparams(
        lambda scale: optax.chain(optax.scale(scale), optimizer),
        hyperparam_dtype=jnp.float32,
    )(scale=1.0),
}


def params_and_grads(dtype, grad_dtype):
    params = {"w": jnp.full((2, 3), 0.5, dtype), "b": jnp.ones(2, dtype)}
    return params, jax.tree.map(
        lambda p: jnp.full(p.shape, 0.25, grad_dtype), params
    )


def dtypes(tree):
    return jax.tree.map(lambda x: x.dtype, tree)


# optax.scale, which is injected into, promotes narrow updates to its factor.
CASES = [
    (wrapper, dtype, grad_dtype)
    for wrapper in WRAPPERS
    for dtype, grad_dtype in (("bfloat16", "bfloat16"), ("float16", "float32"))
    if wrapper != "inject_hyperparams" or grad_dtype == "float32"
]


@pytest.mark.parametrize(("wrapper", "dtype", "grad_dtype"), CASES)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_dtypes_stay(name, wrapper, dtype, grad_dtype):
    optimizer = WRAPPERS[wrapper](TRANSFORMATIONS[name]())
    params, grads = params_and_grads(dtype, grad_dtype)
    state = jax.eval_shape(optimizer.init, params)
    updates, after = jax.eval_shape(optimizer.update, grads, state, params)
    assert dtypes(updates) == dtypes(grads)
    if wrapper == "MultiSteps":
        # Older versions of Optax add gradients up in their own dtype.
        state = state._replace(acc_grads=after.acc_grads)
    assert dtypes(after) == dtypes(state)
    moved = jax.eval_shape(optax.apply_updates, params, updates)
    assert dtypes(moved) == dtypes(params)


@pytest.mark.parametrize("name", ["rounding", "master", "mxnet"])
def test_a_step_with_nan_is_skipped_and_nothing_lost(name):
    guarded = optax.apply_if_finite(TRANSFORMATIONS[name](), 5)
    alone = TRANSFORMATIONS[name]()
    params, grads = params_and_grads("bfloat16", "bfloat16")
    bad = jax.tree.map(lambda g: g.at[0].set(jnp.nan), grads)

    @functools.partial(jax.jit, static_argnums=0)
    def step(optimizer, params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    expected, state = params, alone.init(params)
    guarded_state = guarded.init(params)
    for t in range(6):
        params, guarded_state = step(
            guarded, params, guarded_state, bad if t % 2 else grads
        )
        if t % 2 == 0:
            expected, state = step(alone, expected, state, grads)
    assert guarded_state.total_notfinite == 3
    chex.assert_trees_all_equal(
        (params, guarded_state.inner_state), (expected, state)
    )


@pytest.mark.parametrize("wrapper", ["alone", "masked", "partition"])
@pytest.mark.parametrize("name", ["rounding", "master", "mxnet"])
def test_states_map_like_parameters(name, wrapper):
    optimizer = WRAPPERS[wrapper](TRANSFORMATIONS[name]())
    params, _ = params_and_grads("bfloat16", "bfloat16")
    params["w"] = params["w"].astype(jnp.float32)  # It has no copy.
    names = {"w": "w", "b": "b"}
    mapped = optax.tree_map_params(
        optimizer,
        lambda leaf, name: leaf if isinstance(leaf, optax.MaskedNode) else name,
        optimizer.init(params),
        names,
        transform_non_params=lambda _: None,
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )
    assert set(jax.tree.leaves(mapped)) <= {"w", "b"}
    assert jax.tree.leaves(mapped)
