"""Bad input: what is raised names the argument, its value and what is right."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet
from optax_ftml import prox

NAN, INF = float("nan"), float("inf")
NON_NEGATIVE = prox.non_negative()


def raises(error, *words):
    """Expects an error with all the words, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("learning_rate", -0.1, ValueError, ["at least 0", "-0.1"]),
        ("learning_rate", INF, ValueError, ["finite", "inf"]),
        ("learning_rate", "0.1", TypeError, ["number", "schedule", "'0.1'"]),
        ("learning_rate", None, TypeError, ["number", "schedule", "None"]),
        ("learning_rate", np.ones(2), ValueError, ["shape ()", "(2,)"]),
        ("learning_rate", jnp.ones(2), ValueError, ["shape ()", "(2,)"]),
        ("b1", 1.0, ValueError, ["[0, 1)", "1.0"]),
        ("b1", -0.1, ValueError, ["[0, 1)", "-0.1"]),
        ("b1", 0.9j, TypeError, ["number", "0.9j"]),
        ("b2", np.float64(1.5), ValueError, ["[0, 1)", "1.5"]),
        ("b2", np.array(NAN), ValueError, ["[0, 1)", "nan"]),
        ("b2", abs, TypeError, ["number", "function"]),
        ("b2", jnp.ones((), "bfloat16"), ValueError, ["float32", "bfloat16"]),
        ("eps", -1e-8, ValueError, ["at least 0", "-1e-08"]),
        ("eps", NAN, ValueError, ["at least 0", "nan"]),
        ("eps_root", None, TypeError, ["number", "None"]),
        ("eps_root", INF, ValueError, ["finite", "inf"]),
        ("accumulator_dtype", jnp.int32, ValueError, ["float32", "int32"]),
        ("accumulator_dtype", jnp.float16, ValueError, ["float32", "float16"]),
        ("accumulator_dtype", jnp.float64, ValueError, ["jax_enable_x64"]),
        ("accumulator_dtype", "floaty", TypeError, ["float32", "floaty"]),
        ("seed", 0.5, TypeError, ["integer", "0.5"]),
        ("seed", np.ones(2, int), ValueError, ["shape ()", "(2,)"]),
        ("prox", 0.1, TypeError, ["function", "0.1"]),
        ("prox", prox.box, TypeError, ["box(...)", "box itself"]),
        ("prox", lambda x: x, TypeError, ["(leader, step_size)"]),
        ("prox", lambda x, scale=1: x, TypeError, ["without defaults"]),
    ],
)
def test_arguments_of_optimizers(name, value, error, words):
    makers = [lambda **kwargs: optax_ftml.ftml(prox=NON_NEGATIVE, **kwargs)]
    if name == "prox":
        makers = []
    if name not in ("prox", "learning_rate"):
        makers.append(optax_ftml.scale_by_ftml)
    for make in [optax_ftml.ftml, *makers]:
        with raises(error, f"{name} must be", *words):
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
    optax_ftml.ftml(**kwargs, prox=form).init(jnp.ones(1))


@pytest.mark.parametrize("form", [None, NON_NEGATIVE])
@pytest.mark.parametrize("rate", [None, "0.1"])
def test_a_schedule_that_returns_no_number(form, rate):
    optimizer = optax_ftml.ftml(lambda count: rate, prox=form)
    state = optimizer.init(jnp.ones(1))
    with raises(TypeError, "learning_rate", "schedule that", repr(rate)):
        optimizer.update(jnp.ones(1), state, jnp.ones(1))


@pytest.mark.parametrize(
    ("make", "kwargs"),
    [
        (optax_ftml.ftml, {"accumulator_dtype": jnp.bfloat16}),
        (optax_ftml.ftml, {"prox": NON_NEGATIVE}),
        (optax_ftml.ftml, {"prox": prox.in_metric(lambda x, s: x)}),
        (optax_ftml.ftml, {"prox": prox.by_path({"*": NON_NEGATIVE})}),
        (
            mxnet.ftml,
            {"lr_scheduler": mxnet.FactorScheduler(9), "learning_rate": None},
        ),
    ],
)
def test_inject_hyperparams_needs_static_args(make, kwargs):
    """Optax takes for a schedule what can be called, and calls it."""
    name, *_ = kwargs
    params = {"a": jnp.ones(2)}
    with raises(TypeError, name, "static_args"):
        optax.inject_hyperparams(make)(**kwargs).init(params)
    make = optax.inject_hyperparams(make, static_args=name)
    state = make(**kwargs).init(params)
    assert name not in state.hyperparams


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


PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


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
    ("function", "error", "words"),
    [
        (lambda x, s: x["w"], ValueError, ["missing", "'b'"]),
        (lambda x, s: None, ValueError, ["missing", "'b'"]),
        (lambda x, s: {**x, "b": x["w"]}, ValueError, ["'b'", "(3,)"]),
        (
            lambda x, s: {**x, "b": x["b"].astype(jnp.bfloat16)},
            TypeError,
            ["'b'", "float32", "bfloat16"],
        ),
    ],
)
def test_what_a_prox_returns(function, error, words):
    for b1 in (0.6, 0):
        with raises(error, "prox's result", *words):
            optax_ftml.ftml(b1=b1, prox=function).init(PARAMS)


def test_a_prox_may_look_at_values_outside_jit():
    def f(leader, step_size):
        return jax.tree.map(lambda x: x if x.sum() > 0 else -x, leader)

    optimizer = optax_ftml.ftml(prox=f)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert jnp.all(updates["b"] < 0)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: prox.box(1.0, 0.0), ValueError, ["lower", "1.0", "0.0"]),
        (lambda: prox.box(NAN, 1.0), ValueError, ["lower", "nan"]),
        (lambda: prox.box(0.0, np.array([1.0, NAN])), ValueError, ["upper"]),
        (lambda: prox.box(0.0, {"a": -1.0}), ValueError, ["lower", "-1.0"]),
        (
            lambda: prox.box({"a": 0.0, "b": 0.0}, {"a": 1, "b": 2, "c": 3}),
            ValueError,
            ["lower", "structure of upper"],
        ),
        (lambda: prox.box(None, 1.0), TypeError, ["lower", "None"]),
        (lambda: prox.box(0.0, "1"), TypeError, ["upper", "'1'"]),
        (lambda: prox.l1(-1.0), ValueError, ["strength", "at least 0", "-1.0"]),
        (lambda: prox.l1(NAN), ValueError, ["strength", "nan"]),
        (lambda: prox.simplex(axis="0"), TypeError, ["axis", "int", "'0'"]),
        (lambda: prox.simplex(axis=()), TypeError, ["axis", "int", "()"]),
        (lambda: prox.simplex(axis=(0, 0)), ValueError, ["axis", "distinct"]),
        (lambda: prox.simplex(axis={0: 1}), TypeError, ["axis", "path"]),
        (lambda: prox.simplex(axis={"a": (1, 1)}), ValueError, ["distinct"]),
        (lambda: prox.top_k(1.5), TypeError, ["k must be an integer", "1.5"]),
        (lambda: prox.top_k(-1), ValueError, ["k must be at least 0", "-1"]),
    ],
)
def test_arguments_of_proxes(make, error, words):
    with raises(error, *words):
        make()


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (prox.box({"b": 0.0}, 1.0), ["lower", "missing a", "unexpected b"]),
        (prox.l1(np.ones(3)), ["strength", "(2, 2)", "leaf 'a'", "(3,)"]),
        (prox.simplex(np.ones(3), axis=0), ["total", "(1, 2)", "leaf 'a'"]),
        # A list is a tree.
        (prox.box([0, 0], 1.0), ["lower", "list is a tree", "jnp.array"]),
        (prox.l2_ball([1.0, 2.0], axis=0), ["radius", "a list is a tree"]),
        (prox.hyperplane([1.0, 2.0], 1.0), ["normal", "a list is a tree"]),
    ],
)
def test_what_does_not_fit_the_parameters(f, words):
    tree = {"a": jnp.ones((2, 2))}
    with raises(ValueError, *words):
        optax_ftml.ftml(prox=f).init(tree)


def test_a_list_of_numbers_fits_a_list_of_parameters():
    f = prox.box([0.0, -0.5], 1.0)
    after = f([-jnp.ones(2), -jnp.ones(2)], [jnp.ones(2), jnp.ones(2)])
    np.testing.assert_array_equal(after, [[0, 0], [-0.5, -0.5]])
