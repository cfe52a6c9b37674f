"""Every optimizer inside Optax's own parts.

Each is compared with a computation that does not go through the part: by hand,
by another route, or by what Optax documents of the wrapper.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
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
GRADS = jax.tree.map(lambda p: RNG.normal(size=(12, *p.shape)), PARAMS)
FORMS = reference.FORMS
OTHERS = {
    "without memory": lambda rate: FORMS["leader"](rate, b1=0),
    "rounding": lambda rate: optax.chain(
        optax_ftml.ftml(rate, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    ),
    "master": lambda rate: optax_ftml.with_master_params(FORMS["delta"](rate)),
    "mxnet": lambda rate: mxnet.ftml(rate, wd=0.1, multi_precision=True),
}
falling = optax.piecewise_constant_schedule(0.1, {1: 0.5, 3: 0.2})


def make_grads(i, params=PARAMS):
    return jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype)[i], GRADS, params)


def mean_of_two(i, params):
    pair = make_grads(2 * i, params), make_grads(2 * i + 1, params)
    return jax.tree.map(lambda x, y: (x + y) / 2, *pair)


def third_is_bad(bad):
    """The same with one more, which is not finite."""

    def grads(i, params):
        usual = make_grads(i - (i > 3), params)
        return jax.tree.map(lambda g: jnp.where(i == 3, bad, g), usual)

    return grads


def end(optimizer, params=PARAMS, grads=make_grads, steps=6):
    """Parameters and state after some steps, in one compiled loop."""
    seen = reference.run(optimizer, params, grads, steps)
    return jax.tree.map(lambda x: x[-1], (seen[0], seen[2]))


def donated_end(optimizer, params=PARAMS, grads=make_grads, steps=6):
    """The same by steps that compile once, and with each array's buffer."""

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


@functools.cache
def plain(make, rate=0.1):
    return end(make(rate))[0]


def inject(make, **kwargs):
    static = {"prox", "seed"} & inspect.signature(make).parameters.keys()
    return optax.inject_hyperparams(make, static_args=static)(**kwargs)


def partition(make):
    optimizers = {"fast": make(0.1), "slow": make(0.001)}
    expected = {"w": plain(make)["w"], "b": plain(make, 0.001)["b"]}
    return optax.partition(optimizers, {"w": "fast", "b": "slow"}), expected


def masked(make):
    optimizer = optax.masked(make(0.1), {"w": True, "b": False})
    # It passes the other gradients through as they are.
    grads = sum(make_grads(i)["b"] for i in range(6))
    expected = {"w": plain(make)["w"], "b": PARAMS["b"] + grads}
    return optimizer, expected


def multi_steps(make):
    return optax.MultiSteps(make(0.1), 2), end(make(0.1), grads=mean_of_two)[0]


# An optimizer within another, and the parameters at its end.
WRAPPED = {
    "alone": lambda make: (make(0.1), plain(make)),
    "flatten": lambda make: (optax.flatten(make(0.1)), plain(make)),
    "injected": lambda make: (
        inject(make, **NUMBERS),
        end(make(**NUMBERS))[0],
    ),
    "injected schedule": lambda make: (
        inject(make, learning_rate=falling),
        end(make(falling))[0],
    ),
    "masked": masked,
    "MultiSteps": multi_steps,
    "partition": partition,
}
assert_close = functools.partial(
    chex.assert_trees_all_close, rtol=1e-5, atol=2e-6
)


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("name", FORMS)
def test_steps_within_another_transformation(name, wrapper):
    optimizer, expected = WRAPPED[wrapper](FORMS[name])
    steps = 12 if wrapper == "MultiSteps" else 6
    assert_close(donated_end(optimizer, steps=steps)[0], expected)


@pytest.mark.parametrize("name", FORMS | OTHERS)
def test_apply_if_finite_skips_a_bad_gradient(name):
    """And loses nothing of the state, also not of what low precision needs."""
    make = (FORMS | OTHERS)[name]
    params = PARAMS
    if name in OTHERS:
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    for bad in (np.nan, np.inf):
        params_after, state = donated_end(
            optax.apply_if_finite(make(0.1), 5), params, third_is_bad(bad), 7
        )
        assert state.total_notfinite == 1
        actual = params_after, state.inner_state
        assert_close(actual, donated_end(make(0.1), params))
