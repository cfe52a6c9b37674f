"""Every optimizer inside Optax's own parts, compiled once and with donation.

Each is compared with a computation that does not go through the part.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import reference

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1])}
RNG = np.random.default_rng(0)
GRADS = jax.tree.map(lambda p: RNG.normal(size=(12, *p.shape)), PARAMS)
each_form = pytest.mark.parametrize("make", reference.FORMS.values())
assert_close = functools.partial(
    chex.assert_trees_all_close, rtol=1e-5, atol=2e-6
)


def make_grads(i, params):
    return jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype)[i], GRADS, params)


def expected(optimizer, grads=make_grads):
    """The parameters after six steps, in one compiled loop."""
    thetas, *_ = reference.run(optimizer, PARAMS, grads, 6)
    return jax.tree.map(lambda x: x[-1], thetas)


def end(optimizer, params=PARAMS, grads=make_grads, steps=6):
    """Parameters and state after some steps."""
    update = optax.with_extra_args_support(optimizer).update

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @chex.assert_max_traces(n=1)
    def step(params, state, i):
        others = {"value": jnp.float32(1)}  # Which some transformations want.
        updates, state = update(grads(i, params), state, params, **others)
        return optax.apply_updates(params, updates), state

    chex.clear_trace_counter()
    params = jax.tree.map(jnp.copy, params)
    state = optimizer.init(params)
    for i in range(steps):
        params, state = step(params, state, jnp.int32(i))
    return params, state


@each_form
def test_injected_numbers_and_schedules(make):
    falling = optax.piecewise_constant_schedule(0.1, {1: 0.5, 3: 0.2})
    numbers = {"b1": 0.5, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-3}
    static = {"prox", "seed"} & inspect.signature(make).parameters.keys()
    injected = optax.inject_hyperparams(make, static_args=static)
    after, _ = end(injected(falling, **numbers))
    assert_close(after, expected(make(falling, **numbers)))


@each_form
def test_multi_steps_make_the_step_of_the_mean(make):
    def mean_of_two(i, params):
        pair = make_grads(2 * i, params), make_grads(2 * i + 1, params)
        return jax.tree.map(lambda x, y: (x + y) / 2, *pair)

    after, _ = end(optax.MultiSteps(make(0.1), 2), steps=12)
    assert_close(after, expected(make(0.1), mean_of_two))


@pytest.mark.parametrize("name", reference.OPTIMIZERS)
def test_apply_if_finite_skips_a_bad_gradient(name):
    """And loses nothing of the state, also not of what low precision needs."""
    optimizer = reference.OPTIMIZERS[name](0.1)
    params = PARAMS
    if name not in reference.FORMS:
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)

    def third_is_bad(i, params):
        grads = make_grads(i - (i > 3), params)
        return grads | {"b": jnp.where(i == 3, np.inf, grads["b"])}

    after, state = end(
        optax.apply_if_finite(optimizer, 5), params, third_is_bad, 7
    )
    assert state.total_notfinite == 1
    assert_close((after, state.inner_state), end(optimizer, params))
