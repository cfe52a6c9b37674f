"""The multipliers, in whatever state holds the leader."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED.keys())
def test_are_minus_the_gradient_at_rest(make):
    params, state = train(make())
    actual = optax_ftml.multipliers(state, params)
    for name, expected in EXPECTED.items():
        np.testing.assert_allclose(actual[name], expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_of_narrow_parameters_are_in_float32(dtype):
    start = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    params, state = train(ftml(), params=start)
    actual = optax_ftml.multipliers(state, params)
    for name, expected in EXPECTED.items():
        assert params[name].dtype == dtype
        assert actual[name].dtype == jnp.float32
        np.testing.assert_allclose(actual[name], expected, atol=0.03)


def test_of_masked_parameters_are_absent():
    optimizer = optax.partition(
        {"box": ftml(), "free": optax.sgd(0.1)}, {"w": "box", "b": "free"}
    )
    params, state = train(optimizer)
    actual = optax_ftml.multipliers(state, params)
    np.testing.assert_allclose(actual["w"], EXPECTED["w"], atol=1e-3)
    assert actual["b"] == optax.MaskedNode()


@pytest.mark.parametrize(
    ("optimizer", "steps", "words"),
    [
        (optax_ftml.ftml(), 1, ("no", "without a prox")),
        (ftml(b1=0.0), 1, ("no", "b1")),
        (ftml(), 0, ("0 steps",)),
        (optax_ftml.ftml(0.0, prox=BOX), 2, ("2 steps", "learning rate of 0")),
        (optax.chain(ftml(), ftml()), 1, ("one leader a parameter",)),
    ],
)
def test_say_why_there_is_nothing_to_read(optimizer, steps, words):
    params, state = train(optimizer, steps)
    with pytest.raises(ValueError, match="state must") as info:
        optax_ftml.multipliers(state, params)
    for word in words:
        assert word in str(info.value)


def test_are_nan_under_jit_where_there_is_nothing_to_read():
    state = ftml().init(PARAMS)
    actual = jax.jit(optax_ftml.multipliers)(state, PARAMS)
    assert jnp.all(jnp.isnan(actual["w"]))


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
