"""The multipliers, in whatever state holds them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_ftml

BOX = optax_ftml.prox.box(-1.0, 1.0)
PARAMS = {"w": jnp.zeros(3), "b": jnp.zeros(2)}
CENTRE = {"w": jnp.array([3.0, 0.5, -2.0]), "b": jnp.array([0.25, 5.0])}
# Minus the gradient of half the squared distance, at its end in the box.
EXPECTED = {"w": jnp.array([2.0, 0.0, -1.0]), "b": jnp.array([0.0, 4.0])}


def ftml(**options):
    return optax_ftml.ftml(0.1, prox=BOX, **options)


def train(optimizer, steps=400, params=PARAMS):
    @jax.jit
    def step(_, carry):
        params, state = carry
        grads = jax.tree.map(jnp.subtract, params, CENTRE)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))


WRAPPED = {
    "alone": ftml,
    "chain": lambda: optax.chain(optax.clip_by_global_norm(100.0), ftml()),
    "inject": lambda: optax.inject_hyperparams(
        optax_ftml.ftml, static_args=("prox", "seed")
    )(0.1, prox=BOX),
    "multi": lambda: optax.MultiSteps(ftml(), 2).gradient_transformation(),
    "finite": lambda: optax.apply_if_finite(ftml(), 5),
    "master": lambda: optax_ftml.with_master_params(ftml()),
    "nested": lambda: optax.chain(
        optax.identity(), optax.chain(optax.apply_if_finite(ftml(), 5))
    ),
    "masks": lambda: optax.chain(
        *(optax.masked(ftml(), {"w": w, "b": not w}) for w in (True, False))
    ),
    "partition": lambda: optax.partition(
        {"a": ftml(), "b": ftml(b1=0.9)}, {"w": "a", "b": "b"}
    ),
    "master of partition": lambda: optax_ftml.with_master_params(
        optax.partition({"a": ftml(), "b": ftml()}, {"w": "a", "b": "b"})
    ),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED.keys())
def test_are_minus_the_gradient_at_rest(make):
    _, state = train(make())
    actual = optax_ftml.multipliers(state)
    for name, expected in EXPECTED.items():
        np.testing.assert_allclose(actual[name], expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_of_narrow_parameters_are_in_float32(dtype):
    start = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    params, state = train(ftml(), params=start)
    actual = optax_ftml.multipliers(state)
    for name, expected in EXPECTED.items():
        assert params[name].dtype == dtype
        assert actual[name].dtype == jnp.float32
        np.testing.assert_allclose(actual[name], expected, atol=0.03)


def test_of_masked_parameters_are_absent():
    optimizer = optax.partition(
        {"box": ftml(), "free": optax.sgd(0.1)}, {"w": "box", "b": "free"}
    )
    _, state = train(optimizer)
    actual = optax_ftml.multipliers(state)
    np.testing.assert_allclose(actual["w"], EXPECTED["w"], atol=1e-3)
    assert actual["b"] == optax.MaskedNode()


def test_labels_may_be_prefixes_of_the_tree():
    params = {"a": dict(PARAMS), "b": dict(PARAMS)}

    def train_step(state, params):
        grads = jax.tree.map(jnp.subtract, params, {"a": CENTRE, "b": CENTRE})
        updates, state = optimizer.update(grads, state, params)
        return state, optax.apply_updates(params, updates)

    optimizer = optax.partition(
        {"x": ftml(), "y": ftml(b1=0.9)}, {"a": "x", "b": "y"}
    )
    state = optimizer.init(params)
    for _ in range(400):
        state, params = jax.jit(train_step)(state, params)
    actual = optax_ftml.multipliers(state)
    for part in ("a", "b"):
        for name, expected in EXPECTED.items():
            np.testing.assert_allclose(actual[part][name], expected, atol=1e-3)


def test_of_many_optimizers_are_read_at_once():
    optimizer = ftml()
    stacked = jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS)
    state = jax.vmap(optimizer.init)(stacked)
    assert optax_ftml.multipliers(state)["w"].shape == (2, 3)


def test_are_read_from_flax_s_optimizer():
    class Model(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.zeros(3))

    model = Model()
    optimizer = nnx.Optimizer(model, ftml(), wrt=nnx.Param)
    for _ in range(400):
        grads = nnx.state(model, nnx.Param)
        grads = jax.tree.map(lambda w: w - CENTRE["w"], grads)
        optimizer.update(model, grads)
    (actual,) = jax.tree.leaves(optax_ftml.multipliers(optimizer.opt_state))
    np.testing.assert_allclose(actual, EXPECTED["w"], atol=1e-3)


@pytest.mark.parametrize("at", [0, 7, 30])
def test_a_learning_rate_of_0_leaves_them_as_they_are(at):
    optimizer = optax_ftml.ftml(
        lambda count: jnp.where(count == at, 0.0, 0.3), prox=BOX
    )
    params, state = jax.tree.map(jnp.array, PARAMS), optimizer.init(PARAMS)
    for step in range(40):
        before = optax_ftml.multipliers(state)
        grads = jax.tree.map(jnp.subtract, params, CENTRE)
        updates, state = optimizer.update(grads, state, params)
        if step == at:
            chex.assert_trees_all_equal(
                updates, jax.tree.map(jnp.zeros_like, updates)
            )
            chex.assert_trees_all_equal(optax_ftml.multipliers(state), before)
        params = optax.apply_updates(params, updates)
    if at == 30:  # What is at its bound stays there, although g points inside.
        inwards = jax.tree.map(lambda p: 0.1 * jnp.sign(p), params)
        updates, _ = optimizer.update(inwards, state, params)
        np.testing.assert_array_equal(params["b"][1] + updates["b"][1], 1.0)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (optax_ftml.ftml(), ("without a multiplier", "prox")),
        (ftml(b1=0.0), ("without a multiplier", "b1")),
        (optax_ftml.proximal_adam(0.1, prox=BOX), ("proximal_adam",)),
        (optax.chain(ftml(), ftml()), ("one multiplier per parameter",)),
    ],
)
def test_say_why_there_is_nothing_to_read(optimizer, words):
    with pytest.raises(ValueError, match="state must") as info:
        optax_ftml.multipliers(optimizer.init(PARAMS))
    for word in words:
        assert word in str(info.value)


def test_with_b1_the_number_0_the_state_is_v_alone():
    params, state = train(ftml(b1=0.0))
    assert [x.shape for x in jax.tree.leaves(state)] == [(), (2,), (3,)]
    traced, _ = train(ftml(b1=jnp.float32(0.0)))
    for name in PARAMS:
        np.testing.assert_allclose(params[name], traced[name], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_b1_the_number_0_one_slot_is_enough(dtype):
    params = {"w": jax.ShapeDtypeStruct((256, 256), dtype)}
    report = optax_ftml.fusion_report(ftml(b1=0.0), params)
    assert report.state_bytes_per_parameter == pytest.approx(4, rel=1e-3)
    assert report.copies == 0
