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
from tests import reference

NON_NEGATIVE = prox.non_negative()
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


def raises(error, *words):
    """Expects an error with all the words, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("learning_rate", -0.1, ValueError, "at least 0 and finite, got -0.1"),
        ("learning_rate", np.inf, ValueError, "at least 0 and finite, got inf"),
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
    with raises(error, f"{name} must be", words):
        optax_ftml.ftml(**{"prox": NON_NEGATIVE, name: value})
    if name not in ("prox", "learning_rate"):
        with raises(error, f"{name} must be", words):
            optax_ftml.scale_by_ftml(**{name: value})


def test_a_schedule_that_returns_no_number():
    optimizer = optax_ftml.ftml(lambda count: None)
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


def test_inject_hyperparams_in_bfloat16_says_what_to_do():
    optimizer = optax.inject_hyperparams(optax_ftml.ftml)(0.1)
    with raises(ValueError, "b2", "hyperparam_dtype=jnp.float32"):
        optimizer.init(jnp.ones(2, jnp.bfloat16))


@pytest.mark.parametrize("form", [None, NON_NEGATIVE])
@pytest.mark.parametrize(
    ("tree", "words"),
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
def test_trees_unlike_the_parameters(form, tree, words):
    optimizer = optax_ftml.ftml(prox=form)
    state = optimizer.init(PARAMS)
    with raises(ValueError, "updates", *words):
        optimizer.update(tree, state, PARAMS)
    if form is not None:  # The delta form needs no parameters.
        with raises(ValueError, "params", *words):
            optimizer.update(PARAMS, state, tree)


@pytest.mark.parametrize("make", reference.FORMS.values())
@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_parameters_that_are_not_floating(make, dtype):
    leaf, words = jnp.ones(2, dtype), f"of {dtype}"
    with raises(TypeError, "params", "optax.masked", "'table/ids'", words):
        make(0.1).init({"table": {"ids": leaf}})
    with raises(TypeError, "params", "optax.masked", "single array", words):
        make(0.1).init(leaf)


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
        optimizer = make(0.1, prox=lambda x, s: result_of(x))
        with raises(error, "prox's result", *words):
            optimizer.init(PARAMS)


def test_a_prox_may_look_at_values_outside_jit():
    def f(leader, step_size):
        return jax.tree.map(lambda x: x if x.sum() > 0 else -x, leader)

    optimizer = optax_ftml.ftml(prox=f)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert jnp.all(updates["b"] < 0)
