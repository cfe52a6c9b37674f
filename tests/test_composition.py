"""Every optimizer inside Optax's own parts.

Each test compares with a computation that does not go through the part under
test: by hand, by another route, or by what Optax documents of the wrapper.
"""

import functools

import chex
import jax
import jax.numpy as jnp
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


def make_grads(step):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step))
    return {
        "w": jax.random.normal(keys[0], (2, 2)),
        "b": jax.random.normal(keys[1], (1,)),
    }


def run(optimizer, grads=make_grads, steps=6, params=PARAMS):
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(grads(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5)


WRAPPERS = {
    "alone": lambda name: make(name, 0.1),
    "schedule": lambda name: make(name, optax.linear_schedule(0.1, 0.0, 3)),
    "array": lambda name: make(name, jnp.float32(0.1)),
    "chain": lambda name: optax.chain(optax.clip(0.4), make(name, 0.1)),
    "injected": lambda name: inject(name, **NUMBERS),
    "masked": lambda name: optax.masked(make(name, 0.1), dict(w=True, b=False)),
    "MultiSteps": lambda name: optax.MultiSteps(make(name, 0.1), 2),
    "apply_if_finite": lambda name: optax.apply_if_finite(make(name, 0.1), 5),
    "flatten": lambda name: optax.flatten(make(name, 0.1)),
    "master": lambda name: optax_ftml.with_master_params(make(name, 0.1)),
}


@each
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_jit_compiles_once_donates_and_equals_no_jit(name, wrapper):
    optimizer = WRAPPERS[wrapper](name)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @chex.assert_max_traces(n=1)
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    chex.clear_trace_counter()
    params = jax.tree.map(jnp.copy, PARAMS)
    state = optimizer.init(params)
    for i in range(4):
        params, state = step(params, state, make_grads(i))
    assert_close((params, state), run(optimizer, steps=4))
    if wrapper in ("flatten", "master"):  # Both do nothing here.
        assert_close(params, run(make(name, 0.1), steps=4)[0])


@each
def test_scan_equals_a_loop(name):
    optimizer = make(name, 0.1)

    def step(carry, i):
        params, state = carry
        updates, state = optimizer.update(make_grads(i), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = PARAMS, optimizer.init(PARAMS)
    actual, _ = jax.lax.scan(step, start, jnp.arange(6))
    assert_close(actual, run(optimizer))


@each
def test_schedule_counts_from_zero(name):
    schedule = optax.piecewise_constant_schedule(0.1, {1: 0.5, 3: 0.2})
    params = PARAMS
    optimizer = inject(name, learning_rate=0.1)
    state = optimizer.init(params)
    for step, rate in enumerate([0.1, 0.05, 0.05, 0.01, 0.01, 0.01]):
        state.hyperparams["learning_rate"] = jnp.float32(rate)
        updates, state = optimizer.update(make_grads(step), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(run(make(name, schedule))[0], params)


@each
def test_injected_hyperparameters_equal_constants(name):
    actual, state = run(inject(name, **NUMBERS))
    assert_close(actual, run(make(name, **NUMBERS))[0])
    assert set(state.hyperparams) == set(NUMBERS)


@each
def test_every_injected_hyperparameter_has_its_effect(name):
    optimizer = inject(name, learning_rate=0.0025)
    params, state = run(optimizer, steps=3)
    usual, _ = optimizer.update(make_grads(3), state, params)
    for number, value in NUMBERS.items():
        hyperparams = {**state.hyperparams, number: jnp.float32(value)}
        changed, _ = optimizer.update(
            make_grads(3), state._replace(hyperparams=hyperparams), params
        )
        difference = optax.tree.norm(optax.tree.sub(usual, changed))
        assert difference > 1e-6, number


@each
def test_masked_leaves_the_rest_alone(name):
    optimizer = optax.masked(make(name, 0.1), {"w": True, "b": False})
    actual, _ = run(optimizer)
    assert_close(actual["w"], run(make(name, 0.1))[0]["w"])
    # masked passes the other gradients through as they are.
    gradients = sum(make_grads(step)["b"] for step in range(6))
    assert_close(actual["b"], PARAMS["b"] + gradients)


@each
def test_partition_gives_each_leaf_its_own(name):
    fast, slow = make(name, 0.1), make(name, 0.001)
    optimizer = optax.partition(
        {"fast": fast, "slow": slow}, {"w": "fast", "b": "slow"}
    )
    expected = {"w": run(fast)[0]["w"], "b": run(slow)[0]["b"]}
    assert_close(run(optimizer)[0], expected)


@each
def test_multi_steps_takes_the_mean(name):
    def mean(step):
        pair = make_grads(2 * step), make_grads(2 * step + 1)
        return jax.tree.map(lambda x, y: (x + y) / 2, *pair)

    optimizer = optax.MultiSteps(make(name, 0.1), every_k_schedule=2)
    actual, _ = run(optimizer, steps=12)
    assert_close(actual, run(make(name, 0.1), grads=mean)[0])


@each
def test_apply_if_finite_skips_a_nan(name):
    def with_nan(step):
        if step == 3:
            return optax.tree.full_like(make_grads(step), jnp.nan)
        return make_grads(step - (step > 3))

    optimizer = optax.apply_if_finite(make(name, 0.1), 5)
    actual, state = run(optimizer, grads=with_nan, steps=7)
    assert_close((actual, state.inner_state), run(make(name, 0.1)))
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
        grads=lambda step: narrow(make_grads(step)),
        params=start,
    )
    expected, _ = run(
        make(name, 0.01),
        grads=lambda step: wide(narrow(make_grads(step))),
        params=wide(start),
    )
    assert_close(state.master, expected)


@each
def test_takes_extra_arguments_of_others(name):
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2)
    optimizer = optax.chain(make(name, 0.1), plateau)
    state = optimizer.init(PARAMS)
    first = make(name, 0.1)
    expected, _ = first.update(make_grads(0), first.init(PARAMS), PARAMS)
    for step in range(6):
        updates, state = optimizer.update(
            make_grads(step), state, PARAMS, value=jnp.asarray(1.0)
        )
        if step == 0:
            assert_close(updates, expected)
    assert optax.tree.get(state, "scale") < 1


@each
def test_vmap_over_optimizers(name):
    rates = jnp.array([0.0, 0.01, 0.1])
    actual = jax.vmap(lambda rate: run(make(name, rate))[0])(rates)
    for i, rate in enumerate(rates):
        one = jax.tree.map(lambda x, i=i: x[i], actual)
        assert_close(one, run(make(name, float(rate)))[0])
