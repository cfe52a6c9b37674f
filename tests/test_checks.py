"""Bad input: what is raised names the argument, its value and what is right."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet, prox

INF = float("inf")
NON_NEGATIVE = prox.non_negative()
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


def raises(error, *words):
    """Expects an error with all the words, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("learning_rate", -0.1, ValueError, "at least 0 and finite, got -0.1"),
        ("learning_rate", INF, ValueError, "at least 0 and finite, got inf"),
        ("learning_rate", "0.1", TypeError, "or a schedule, got '0.1'"),
        ("b1", 1.0, ValueError, "in [0, 1), got 1.0"),
        ("b1", 0.9j, TypeError, "a number or an array of shape (), got 0.9j"),
        ("b2", np.float64(-0.1), ValueError, "in [0, 1), got -0.1"),
        ("b2", np.array(np.nan), ValueError, "in [0, 1), got nan"),
        ("b2", np.ones(2), TypeError, "shape (), got array([1., 1.])"),
        ("b2", abs, TypeError, "a number or an array of shape (), got <built"),
        ("eps", -1e-8, ValueError, "at least 0 and finite, got -1e-08"),
        ("eps_root", np.nan, ValueError, "at least 0 and finite, got nan"),
        ("accumulator_dtype", "float16", ValueError, "float64, got 'float16'"),
        ("accumulator_dtype", jnp.float64, ValueError, "with jax_enable_x64"),
        ("accumulator_dtype", "floaty", ValueError, "float64, got 'floaty'"),
        ("seed", 0.5, TypeError, "an integer, got 0.5"),
        ("seed", np.ones(2, int), TypeError, "an integer, got array([1, 1])"),
        ("prox", 0.1, TypeError, "a function, got 0.1"),
        ("prox", prox.box, TypeError, "box(...) returns, got box itself"),
        ("prox", lambda x: x, TypeError, "a function of (leader, step_size)"),
        ("prox", lambda x, scale=1: x, TypeError, "without defaults"),
    ],
)
def test_arguments_of_optimizers(name, value, error, words):
    makers = [optax_ftml.ftml]
    if name != "prox":
        makers.append(functools.partial(optax_ftml.ftml, prox=NON_NEGATIVE))
    if name not in ("prox", "learning_rate"):
        makers.append(optax_ftml.scale_by_ftml)
    for make in makers:
        with raises(error, f"{name} must be", words):
            make(**{name: value})


@pytest.mark.parametrize("form", [None, NON_NEGATIVE])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"b1": 0.0, "b2": 0, "eps": 0, "eps_root": 0, "learning_rate": 0},
        {"b1": np.float32(0.5), "b2": np.array(0.9), "eps": jnp.float32(1)},
        {"learning_rate": jnp.bfloat16(0.1), "b1": jnp.float32(7)},
        {"learning_rate": lambda count: np.float32(0.1), "seed": np.int8(1)},
    ],
)
def test_arguments_that_are_fine(kwargs, form):
    optimizer = optax_ftml.ftml(**kwargs, prox=form)
    optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)), jnp.ones(1))


@pytest.mark.parametrize("form", [None, NON_NEGATIVE])
def test_a_schedule_that_returns_no_number(form):
    optimizer = optax_ftml.ftml(lambda count: None, prox=form)
    state = optimizer.init(jnp.ones(1))
    with raises(TypeError, "learning_rate(count) must be a number", "None"):
        optimizer.update(jnp.ones(1), state, jnp.ones(1))


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (optax_ftml.ftml, "accumulator_dtype", jnp.bfloat16),
        (optax_ftml.ftml, "prox", NON_NEGATIVE),
        (optax_ftml.ftml, "prox", prox.in_metric(lambda x, s: x)),
        (optax_ftml.ftml, "prox", prox.by_path({"*": NON_NEGATIVE})),
        (
            functools.partial(mxnet.ftml, learning_rate=None),
            *("lr_scheduler", mxnet.FactorScheduler(9)),
        ),
    ],
)
def test_inject_hyperparams_needs_static_args(make, name, value):
    """Optax takes for a schedule what can be called, and calls it."""
    with raises((TypeError, ValueError), name, "static_args"):
        optax.inject_hyperparams(make)(**{name: value}).init(PARAMS)
    make = optax.inject_hyperparams(make, static_args=name)
    assert name not in make(**{name: value}).init(PARAMS).hyperparams


def test_inject_hyperparams_in_bfloat16_says_what_to_do():
    params = jnp.ones(2, jnp.bfloat16)
    make = optax.inject_hyperparams(optax_ftml.ftml)
    with raises(ValueError, "b2", "hyperparam_dtype=jnp.float32"):
        make(0.1).init(params)
    optimizer = optax.inject_hyperparams(
        optax_ftml.ftml, hyperparam_dtype=jnp.float32
    )(0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates.astype(float), -0.1, rtol=0.01)


@pytest.mark.parametrize("form", [None, NON_NEGATIVE])
@pytest.mark.parametrize(
    ("grads", "words"),
    [
        ({"w": PARAMS["w"]}, ["missing leaf 'b'"]),
        ({**PARAMS, "c": jnp.ones(1)}, ["unexpected leaf 'c'"]),
        ({**PARAMS, "w": jnp.ones((3, 2))}, ["leaf 'w'", "(2, 3)", "(3, 2)"]),
        # Would broadcast, without a word.
        ({**PARAMS, "b": jnp.ones(())}, ["leaf 'b'", "(3,)", "()"]),
        (jnp.ones(3), ["missing leaf 'b'", "unexpected the single array"]),
        (None, ["given", "update(grads, state, params)", "None"]),
    ],
)
def test_trees_unlike_the_parameters(form, grads, words):
    optimizer = optax_ftml.ftml(prox=form)
    state = optimizer.init(PARAMS)
    with raises(ValueError, "updates", *words):
        jax.eval_shape(optimizer.update, grads, state, PARAMS)
    if form is None:  # It needs no parameters.
        optimizer.update(PARAMS, state)
    else:
        with raises(ValueError, "params", *words):
            optimizer.update(PARAMS, state, grads)


@pytest.mark.parametrize("form", [None, NON_NEGATIVE])
@pytest.mark.parametrize("leaf", [jnp.ones(2, jnp.int32), jnp.array([True])])
def test_parameters_that_are_not_floating(form, leaf):
    init = optax_ftml.ftml(prox=form).init
    words = f"of {leaf.dtype}"
    with raises(TypeError, "params", "optax.masked", "'table/ids'", words):
        init({"table": {"ids": leaf}})
    with raises(TypeError, "params", "optax.masked", "single array", words):
        init(leaf)


@pytest.mark.parametrize(
    ("result_of", "error", "words"),
    [
        (lambda x: x["w"], ValueError, ["missing leaf 'b'"]),
        (lambda x: None, ValueError, ["missing leaf 'b'"]),
        (lambda x: {**x, "b": x["w"]}, ValueError, ["'b'", "(3,)", "(2, 3)"]),
        (
            lambda x: optax.tree.cast(x, jnp.bfloat16),
            *(TypeError, ["'b'", "float32", "bfloat16"]),
        ),
    ],
)
def test_what_a_prox_returns(result_of, error, words):
    for make in (optax_ftml.ftml, optax_ftml.proximal_adam):
        optimizer = make(0.1, b1=0, prox=lambda x, s: result_of(x))
        with raises(error, "prox's result", *words):
            optimizer.init(PARAMS)


def test_a_prox_may_look_at_values_outside_jit():
    def f(leader, step_size):
        return jax.tree.map(lambda x: x if x.sum() > 0 else -x, leader)

    optimizer = optax_ftml.ftml(prox=f)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert jnp.all(updates["b"] < 0)
