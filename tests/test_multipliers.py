"""The multipliers, in whatever state holds them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference

BOX = optax_ftml.prox.box(-1.0, 1.0)
CENTRE = {"a": {"w": jnp.array([3.0, 0.5, -2.0])}, "b": jnp.array([0.25, 5.0])}
PARAMS = jax.tree.map(jnp.zeros_like, CENTRE)
# Minus the gradient of half the squared distance, at its end in the box.
EXPECTED = jax.tree.map(lambda c: c - jnp.clip(c, -1, 1), CENTRE)


def ftml(**options):
    return optax_ftml.ftml(0.1, prox=BOX, **options)


def train(optimizer, params=PARAMS):
    def gradient(params):
        return jax.tree.map(lambda p, c: p - c.astype(p.dtype), params, CENTRE)

    return reference.train(optimizer, gradient, params, 400)


def partition(a, b):
    return optax.partition({"x": a, "y": b}, {"a": "x", "b": "y"})


WRAPPED = {
    "alone": ftml(),
    "inject": optax.inject_hyperparams(
        optax_ftml.ftml, static_args=("prox", "seed")
    )(0.1, prox=BOX),
    "nested": optax.chain(
        optax.identity(),
        optax.MultiSteps(ftml(), 2).gradient_transformation(),
    ),
    "masks": optax.chain(
        *(optax.masked(ftml(), {"a": a, "b": not a}) for a in (True, False))
    ),
    "master of partition": optax_ftml.with_master_params(
        partition(ftml(), ftml(b1=0.9))
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_are_minus_the_gradient_at_rest(name):
    _, state = train(WRAPPED[name])
    actual = optax_ftml.multipliers(state)
    chex.assert_trees_all_close(actual, EXPECTED, atol=1e-3)


def test_of_narrow_parameters_are_in_float32():
    dtypes = {"a": {"w": "bfloat16"}, "b": "float16"}
    start = jax.tree.map(jnp.astype, PARAMS, dtypes)
    params, state = train(ftml(), start)
    actual = optax_ftml.multipliers(state)
    chex.assert_trees_all_equal_dtypes(params, start)
    chex.assert_trees_all_equal_dtypes(actual, EXPECTED)
    chex.assert_trees_all_close(actual, EXPECTED, atol=0.03)


def test_hold_what_rounding_keeps_from_the_leader():
    draw = np.random.default_rng(0).normal
    params, grads = (jnp.asarray(draw(size=50), jnp.bfloat16) for _ in "pg")
    optimizer = optax_ftml.ftml(0.1, prox=optax_ftml.prox.box(-9.0, 9.0))
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    theta, g, after = np.float64(params), np.float64(grads), np.float64(after)
    d = 0.4 * np.abs(g) / 0.1  # Of the first step; b1 is 0.6.
    leader = theta - 0.4 * g / d
    assert np.any(leader != after)
    m = d * (leader - after)
    np.testing.assert_allclose(optax_ftml.multipliers(state), m, atol=1e-5)


def test_of_masked_parameters_are_absent():
    _, state = train(partition(ftml(), optax.sgd(0.1)))
    actual = optax_ftml.multipliers(state)
    chex.assert_trees_all_close(actual["a"], EXPECTED["a"], atol=1e-3)
    assert actual["b"] == optax.MaskedNode()


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (optax_ftml.ftml(), "prox.*without a multiplier"),
        (ftml(b1=0.0), "b1 not 0.*without a multiplier"),
        (optax_ftml.proximal_adam(0.1, prox=BOX), "proximal_adam has none"),
        (optax.chain(ftml(), ftml()), "one multiplier per parameter"),
    ],
)
def test_say_why_there_is_nothing_to_read(optimizer, words):
    with pytest.raises(ValueError, match=f"state must .*{words}"):
        optax_ftml.multipliers(optimizer.init(PARAMS))


def test_with_b1_the_number_0_the_state_is_v_alone():
    params, state = train(ftml(b1=0.0))
    assert [x.shape for x in jax.tree.leaves(state)] == [(), (3,), (2,)]
    traced, _ = train(ftml(b1=jnp.float32(0.0)))
    chex.assert_trees_all_close(params, traced, atol=1e-6)
