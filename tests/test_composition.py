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
from tests import reference

OPTIMIZERS = {
    "delta": (optax_ftml.ftml, {}),
    "leader": (optax_ftml.ftml, {"prox": reference.free}),
    "adam": (optax_ftml.proximal_adam, {"prox": reference.free}),
}
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
each = pytest.mark.parametrize("name", OPTIMIZERS)


def make(name, *args, **kwargs):
    factory, options = OPTIMIZERS[name]
    return factory(*args, **options, **kwargs)


def inject(name, **kwargs):
    factory, options = OPTIMIZERS[name]
    static = ("prox", "seed") if factory is optax_ftml.ftml else "prox"
    return optax.inject_hyperparams(factory, static_args=static)(
        **options, **kwargs
    )


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
    return run(make(name, rate))


assert_close = functools.partial(
    chex.assert_trees_all_close, rtol=1e-5, atol=2e-6
)
WRAPPERS = {
    "alone": lambda name: make(name, 0.1),
    "schedule": lambda name: make(name, optax.linear_schedule(0.1, 0.0, 3)),
    "inject": lambda name: inject(name, **NUMBERS),
    "MultiSteps": lambda name: optax.MultiSteps(make(name, 0.1), 2),
    "apply_if_finite": lambda name: optax.apply_if_finite(make(name, 0.1), 5),
    "master": lambda name: optax_ftml.with_master_params(make(name, 0.1)),
}


@each
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_donated_step_compiles_once_and_equals_a_scan(name, wrapper):
    optimizer = WRAPPERS[wrapper](name)

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
    schedule = optax.piecewise_constant_schedule(0.1, {1: 0.5, 3: 0.2})
    rates = jnp.array([0.1, 0.05, 0.05, 0.01, 0.01, 0.01])
    optimizer = inject(name, learning_rate=0.1)

    def step(carry, i):
        params, state = carry
        state.hyperparams["learning_rate"] = rates[i]
        updates, state = optimizer.update(make_grads(i), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = PARAMS, optimizer.init(PARAMS)
    (expected, _), _ = jax.lax.scan(step, start, jnp.arange(6))
    assert_close(run(make(name, schedule))[0], expected)


@each
def test_injected_hyperparameters_equal_constants(name):
    actual, state = run(inject(name, **NUMBERS))
    assert_close(actual, run(make(name, **NUMBERS))[0])
    assert set(state.hyperparams) == set(NUMBERS)


@each
def test_every_injected_hyperparameter_has_its_effect(name):
    optimizer = inject(name, learning_rate=0.0025)
    params, state = run(optimizer, steps=3)
    update = jax.jit(optimizer.update)
    usual, _ = update(make_grads(3), state, params)
    for number, value in NUMBERS.items():
        hyperparams = {**state.hyperparams, number: jnp.float32(value)}
        changed, _ = update(
            make_grads(3), state._replace(hyperparams=hyperparams), params
        )
        difference = optax.tree.norm(optax.tree.sub(usual, changed))
        assert difference > 1e-6, number


@each
def test_masked_leaves_the_rest_alone(name):
    optimizer = optax.masked(make(name, 0.1), {"w": True, "b": False})
    actual, _ = run(optimizer)
    assert_close(actual["w"], plain(name)[0]["w"])
    # masked passes the other gradients through as they are.
    gradients = sum(make_grads(i)["b"] for i in range(6))
    assert_close(actual["b"], PARAMS["b"] + gradients)


@each
def test_partition_gives_each_leaf_its_own(name):
    optimizer = optax.partition(
        {"fast": make(name, 0.1), "slow": make(name, 0.001)},
        {"w": "fast", "b": "slow"},
    )
    fast, slow = plain(name)[0], plain(name, 0.001)[0]
    assert_close(run(optimizer)[0], {"w": fast["w"], "b": slow["b"]})


@each
def test_flatten_changes_nothing(name):
    assert_close(run(optax.flatten(make(name, 0.1)))[0], plain(name)[0])


@each
def test_multi_steps_takes_the_mean(name):
    def mean(i):
        pair = make_grads(2 * i), make_grads(2 * i + 1)
        return jax.tree.map(lambda x, y: (x + y) / 2, *pair)

    optimizer = optax.MultiSteps(make(name, 0.1), every_k_schedule=2)
    actual, _ = run(optimizer, steps=12)
    expected, _ = run(make(name, 0.1), grads=mean)
    assert_close(actual, expected)


@each
def test_apply_if_finite_skips_a_nan(name):
    def with_nan(i):
        grads = make_grads(i - (i > 3))
        return jax.tree.map(lambda g: jnp.where(i == 3, jnp.nan, g), grads)

    optimizer = optax.apply_if_finite(make(name, 0.1), 5)
    actual, state = run(optimizer, grads=with_nan, steps=7)
    assert_close((actual, state.inner_state), plain(name))
    assert state.total_notfinite == 1


@each
def test_master_params_train_as_wide_parameters(name):
    def narrow(tree):
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)

    def wide(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    start = narrow(PARAMS)
    _, state = run(
        optax_ftml.with_master_params(make(name, 0.01)),
        grads=lambda i: narrow(make_grads(i)),
        params=start,
    )
    expected, _ = run(
        make(name, 0.01),
        grads=lambda i: wide(narrow(make_grads(i))),
        params=wide(start),
    )
    assert_close(state.master, expected)


@each
def test_takes_extra_arguments_of_others(name):
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2)
    optimizer = optax.chain(make(name, 0.1), plateau)

    @jax.jit
    def update(state):
        return optimizer.update(PARAMS, state, PARAMS, value=jnp.float32(1))

    state = optimizer.init(PARAMS)
    for _ in range(6):
        _, state = update(state)
    assert optax.tree.get(state, "scale") < 1


@each
def test_vmap_over_optimizers(name):
    rates = jnp.array([0.0, 0.1, 0.001])
    actual = jax.jit(jax.vmap(lambda rate: run(make(name, rate))[0]))(rates)
    for i, expected in enumerate(
        [PARAMS, plain(name)[0], plain(name, 0.001)[0]]
    ):
        assert_close(jax.tree.map(lambda x, i=i: x[i], actual), expected)
