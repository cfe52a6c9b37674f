"""Every optimizer inside Optax's own parts.

Each test compares with a computation that does not go through the part under
test: by hand, by another route, or by what Optax documents of the wrapper.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import optax_ftml
from optax_ftml import mxnet
from tests import reference

NUMBERS = {
    "learning_rate": 0.1,
    "b1": 0.5,
    "b2": 0.9,
    "eps": 1e-3,
    "eps_root": 1e-3,
}
PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1])}
RNG = np.random.default_rng(0)
GRADS = jax.tree.map(
    lambda p: RNG.normal(size=(12, *p.shape)).astype(np.float32), PARAMS
)
FORMS = reference.FORMS
each = pytest.mark.parametrize("name", FORMS)
assert_close = functools.partial(
    chex.assert_trees_all_close, rtol=1e-5, atol=2e-6
)


def inject(name, **kwargs):
    make = FORMS[name]
    static = ("prox", "seed") if name != "adam" else "prox"
    return optax.inject_hyperparams(make, static_args=static)(**kwargs)


def make_grads(i):
    return jax.tree.map(lambda g: jnp.asarray(g)[i], GRADS)


def run(optimizer, grads=make_grads, steps=6, params=PARAMS):
    """Returns parameters and state after some steps."""

    def step(carry, i):
        params, state = carry
        updates, state = optimizer.update(grads(i), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, jnp.arange(steps))[0]


@functools.cache
def plain(name, rate=0.1):
    return run(FORMS[name](rate))


WRAPPERS = {
    "alone": lambda make: make(0.1),
    "schedule": lambda make: make(optax.linear_schedule(0.1, 0.0, 3)),
    "inject": lambda make: optax.inject_hyperparams(lambda x: make(x))(0.1),
    "MultiSteps": lambda make: optax.MultiSteps(make(0.1), 2),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(0.1), 5),
    "master": lambda make: optax_ftml.with_master_params(make(0.1)),
}
MAKERS = FORMS | {
    "without memory": lambda rate: FORMS["leader"](rate, b1=0),
    "rounding": lambda rate: optax.chain(
        optax_ftml.ftml(rate, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    ),
    "mxnet": lambda rate: mxnet.ftml(rate, wd=0.1, clip_gradient=1.0),
}
WRAPPED = [(name, wrapper) for name in FORMS for wrapper in WRAPPERS]
WRAPPED += [(name, "inject") for name in MAKERS if name not in FORMS]


@pytest.mark.parametrize(("name", "wrapper"), WRAPPED)
def test_a_donated_step_compiles_once_and_equals_a_scan(name, wrapper):
    """Donation is an error where two arrays share a buffer."""
    optimizer = WRAPPERS[wrapper](MAKERS[name])

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @chex.assert_max_traces(n=1)
    def step(params, state, i):
        updates, state = optimizer.update(make_grads(i), state, params)
        return optax.apply_updates(params, updates), state

    chex.clear_trace_counter()
    params = jax.tree.map(jnp.copy, PARAMS)
    state = optimizer.init(params)
    for i in range(6):
        params, state = step(params, state, jnp.int32(i))
    assert_close((params, state), run(optimizer))


@each
def test_schedule_counts_from_zero(name):
    rates = jnp.array([0.1, 0.05, 0.05, 0.01, 0.01, 0.01])
    schedule = optax.piecewise_constant_schedule(0.1, {1: 0.5, 3: 0.2})
    optimizer = inject(name, learning_rate=lambda t: rates[t])
    assert_close(run(FORMS[name](schedule))[0], run(optimizer)[0])


@each
def test_injected_hyperparameters_equal_constants_and_have_their_effect(name):
    optimizer = inject(name, **NUMBERS)
    actual, state = run(optimizer)
    assert_close(actual, run(FORMS[name](**NUMBERS))[0])
    assert set(state.hyperparams) == set(NUMBERS)
    update = jax.jit(optimizer.update)
    usual, _ = update(make_grads(6), state, actual)
    for number in NUMBERS:
        hyperparams = {**state.hyperparams, number: jnp.float32(0.01)}
        changed, _ = update(
            make_grads(6), state._replace(hyperparams=hyperparams), actual
        )
        difference = optax.tree.norm(optax.tree.sub(usual, changed))
        assert difference > 1e-6, number


@each
def test_masked_and_partition_give_each_leaf_its_own(name):
    optimizer = optax.masked(FORMS[name](0.1), {"w": True, "b": False})
    fast, slow = plain(name)[0], plain(name, 0.001)[0]
    actual, _ = run(optimizer)
    # masked passes the other gradients through as they are.
    gradients = sum(make_grads(i)["b"] for i in range(6))
    assert_close(actual, {"w": fast["w"], "b": PARAMS["b"] + gradients})

    optimizer = optax.partition(
        {"fast": FORMS[name](0.1), "slow": FORMS[name](0.001)},
        {"w": "fast", "b": "slow"},
    )
    assert_close(run(optimizer)[0], {"w": fast["w"], "b": slow["b"]})


@each
def test_flatten_changes_nothing(name):
    assert_close(run(optax.flatten(FORMS[name](0.1)))[0], plain(name)[0])


@each
def test_multi_steps_takes_the_mean(name):
    def mean(i):
        pair = make_grads(2 * i), make_grads(2 * i + 1)
        return jax.tree.map(lambda x, y: (x + y) / 2, *pair)

    optimizer = optax.MultiSteps(FORMS[name](0.1), every_k_schedule=2)
    actual, _ = run(optimizer, steps=12)
    expected, _ = run(FORMS[name](0.1), grads=mean)
    assert_close(actual, expected)


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_apply_if_finite_skips_a_bad_gradient(name, bad):
    def with_bad(i):
        grads = make_grads(i - (i > 3))
        return jax.tree.map(lambda g: jnp.where(i == 3, bad, g), grads)

    optimizer = optax.apply_if_finite(FORMS[name](0.1), 5)
    actual, state = run(optimizer, grads=with_bad, steps=7)
    assert_close((actual, state.inner_state), plain(name))
    assert state.total_notfinite == 1


@each
def test_takes_extra_arguments_of_others(name):
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2)
    optimizer = optax.chain(FORMS[name](0.1), plateau)

    @jax.jit
    def update(state):
        return optimizer.update(PARAMS, state, PARAMS, value=jnp.float32(1))

    state = optimizer.init(PARAMS)
    for _ in range(6):
        _, state = update(state)
    assert optax.tree.get(state, "scale") < 1


@each
def test_vmap_over_optimizers(name):
    rates = jnp.array([0.1, 0.001])
    actual = jax.jit(jax.vmap(lambda rate: run(FORMS[name](rate))[0]))(rates)
    for i, rate in enumerate((0.1, 0.001)):
        expected, _ = plain(name, rate)
        assert_close(jax.tree.map(lambda x, i=i: x[i], actual), expected)


@pytest.mark.parametrize("order", ["1.x", "2.x"])
def test_mxnet_s_rules_are_optax_s_own_in_a_chain(order):
    rules = [optax.clip(0.5), optax.add_decayed_weights(0.3)]
    if order == "1.x":
        rules.reverse()
    chain = optax.chain(optax.scale(2.0), *rules, optax_ftml.ftml(0.1))
    optimizer = mxnet.ftml(
        0.1, wd=0.3, clip_gradient=0.5, rescale_grad=2.0, order=order
    )
    assert_close(run(optimizer)[0], run(chain)[0])
