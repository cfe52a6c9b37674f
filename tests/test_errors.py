"""Bad input: what is raised names the argument, its value and what is right."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import prox

NAN, INF = float("nan"), float("inf")


def numbers(*cases):
    return [  # Without addresses, which every process has others of.
        pytest.param(*case, id=re.sub(" at 0x[0-9a-f]+", "", str(case[0])))
        for case in cases
    ]


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    numbers(
        ({"learning_rate": -0.1}, ValueError, ("at least 0", "-0.1")),
        ({"learning_rate": NAN}, ValueError, ("at least 0", "nan")),
        ({"learning_rate": INF}, ValueError, ("finite", "inf")),
        ({"learning_rate": "0.1"}, TypeError, ("number", "schedule", "'0.1'")),
        ({"learning_rate": None}, TypeError, ("number", "schedule", "None")),
        ({"learning_rate": np.ones(2)}, ValueError, ("shape ()", "(2,)")),
        ({"learning_rate": jnp.ones(2)}, ValueError, ("shape ()", "(2,)")),
        ({"b1": 1.0}, ValueError, ("[0, 1)", "1.0")),
        ({"b1": -0.1}, ValueError, ("[0, 1)", "-0.1")),
        ({"b1": NAN}, ValueError, ("[0, 1)", "nan")),
        ({"b1": 0.9j}, TypeError, ("number", "0.9j")),
        ({"b2": 1}, ValueError, ("[0, 1)", "1")),
        ({"b2": np.float64(1.5)}, ValueError, ("[0, 1)", "1.5")),
        ({"b2": np.array(NAN)}, ValueError, ("[0, 1)", "nan")),
        ({"b2": lambda count: 0.9}, TypeError, ("number", "function")),
        ({"b2": jnp.ones((), "bfloat16")}, ValueError, ("bfloat16", "float32")),
        ({"eps": -1e-8}, ValueError, ("at least 0", "-1e-08")),
        ({"eps": NAN}, ValueError, ("at least 0", "nan")),
        ({"eps": None}, TypeError, ("number", "None")),
        ({"eps_root": -1.0}, ValueError, ("at least 0", "-1.0")),
        ({"eps_root": INF}, ValueError, ("finite", "inf")),
        ({"accumulator_dtype": jnp.int32}, ValueError, ("float32", "int32")),
        ({"accumulator_dtype": jnp.float16}, ValueError, ("float32",)),
        ({"accumulator_dtype": jnp.float64}, ValueError, ("jax_enable_x64",)),
        ({"accumulator_dtype": "floaty"}, TypeError, ("floaty",)),
        ({"seed": 0.5}, TypeError, ("integer", "0.5")),
        ({"seed": None}, TypeError, ("integer", "None")),
        ({"seed": np.ones(2, int)}, ValueError, ("shape ()", "(2,)")),
        ({"prox": 0.1}, TypeError, ("function", "0.1")),
        ({"prox": prox.non_negative}, TypeError, ("non_negative(...)",)),
        ({"prox": prox.box}, TypeError, ("box(...)",)),
        ({"prox": lambda x: x}, TypeError, ("(leader, step_size)",)),
    ),
)
def test_arguments(kwargs, error, words):
    (name,) = kwargs
    makers = [optax_ftml.ftml]
    if name != "prox":
        makers.append(
            lambda **kwargs: optax_ftml.ftml(prox=prox.non_negative(), **kwargs)
        )
    if name not in ("prox", "learning_rate"):
        makers.append(optax_ftml.scale_by_ftml)
    for make in makers:
        with pytest.raises(error, match=name) as info:
            make(**kwargs)
        for word in words:
            assert word in str(info.value)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"b1": 0.0, "b2": 0, "eps": 0, "eps_root": 0, "learning_rate": 0},
        {"b1": np.float32(0.5), "b2": np.array(0.9), "eps": jnp.float32(1)},
        {"learning_rate": jnp.bfloat16(0.1), "b1": jnp.float32(7)},
    ],
)
def test_arguments_that_are_fine(kwargs):
    optax_ftml.ftml(**kwargs)
    optax_ftml.ftml(**kwargs, prox=prox.non_negative())


def test_inject_hyperparams_in_bfloat16_says_what_to_do():
    params = jnp.ones(2, jnp.bfloat16)
    make = optax.inject_hyperparams(optax_ftml.ftml)
    with pytest.raises(ValueError, match="hyperparam_dtype"):
        make(0.1).init(params)
    optimizer = optax.inject_hyperparams(
        optax_ftml.ftml, hyperparam_dtype=jnp.float32
    )(0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates.astype(float), -0.1, rtol=0.01)


PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


@pytest.mark.parametrize("form", [None, prox.non_negative()])
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize(
    ("grads", "words"),
    [
        ({"w": jnp.ones((2, 3))}, ("missing leaf 'b'",)),
        (
            {**PARAMS, "c": jnp.ones(1)},
            ("unexpected leaf 'c'",),
        ),
        (
            {"w": jnp.ones((3, 2)), "b": jnp.ones(3)},
            ("leaf 'w'", "(2, 3)", "(3, 2)"),
        ),
        (
            # Would broadcast, without a word.
            {"w": jnp.ones((2, 3)), "b": jnp.ones(())},
            ("leaf 'b'", "(3,)", "()"),
        ),
        ([jnp.ones((2, 3)), jnp.ones(3)], ("missing", "unexpected")),
        (None, ("must be given", "None")),
    ],
)
def test_gradients_unlike_the_parameters(form, jit, grads, words):
    optimizer = optax_ftml.ftml(prox=form)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match="updates") as info:
        update(grads, state, PARAMS)
    for word in words:
        assert word in str(info.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (None, ("must be given", "update(grads, state, params)", "None")),
        ({"w": jnp.ones((2, 3))}, ("missing leaf 'b'",)),
        ({"w": jnp.ones(3), "b": jnp.ones(3)}, ("(2, 3)", "(3,)")),
    ],
)
def test_parameters_that_the_leader_form_needs(params, words):
    optimizer = optax_ftml.ftml(prox=prox.non_negative())
    with pytest.raises(ValueError, match="params") as info:
        optimizer.update(PARAMS, optimizer.init(PARAMS), params)
    for word in words:
        assert word in str(info.value)


def test_the_delta_form_needs_no_parameters():
    optimizer = optax_ftml.ftml()
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    np.testing.assert_allclose(updates["b"], -0.0025, rtol=1e-5)


@pytest.mark.parametrize("form", [None, prox.non_negative()])
@pytest.mark.parametrize("leaf", [jnp.ones(2, jnp.int32), jnp.array([True])])
def test_parameters_that_are_not_floating(form, leaf):
    with pytest.raises(TypeError, match=r"optax\.masked") as info:
        optax_ftml.ftml(prox=form).init({"table": {"ids": leaf}})
    assert "params" in str(info.value)
    assert "'table/ids'" in str(info.value)
    assert str(leaf.dtype) in str(info.value)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x, s: x["w"], ValueError, ("missing", "'b'")),
        (lambda x, s: None, ValueError, ("missing", "'b'")),
        (lambda x, s: {**x, "b": x["w"]}, ValueError, ("'b'", "(3,)")),
        (
            lambda x, s: {**x, "b": x["b"].astype(jnp.bfloat16)},
            TypeError,
            ("'b'", "float32", "bfloat16"),
        ),
    ],
)
def test_what_a_prox_returns(function, error, words):
    for b1 in (0.6, 0):
        optimizer = optax_ftml.ftml(b1=b1, prox=function)
        with pytest.raises(error, match="prox") as info:
            optimizer.init(PARAMS)
        for word in words:
            assert word in str(info.value)


def test_a_prox_may_look_at_values_outside_jit():
    def f(leader, step_size):
        return jax.tree.map(lambda x: x if x.sum() > 0 else -x, leader)

    optimizer = optax_ftml.ftml(prox=f)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert jnp.all(updates["b"] < 0)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: prox.box(1.0, 0.0), ValueError, ("lower", "1.0", "0.0")),
        (lambda: prox.box(NAN, 1.0), ValueError, ("lower", "nan")),
        (lambda: prox.box(0.0, np.array([1.0, NAN])), ValueError, ("upper",)),
        (lambda: prox.box(0.0, {"a": -1.0}), ValueError, ("lower", "-1.0")),
        (
            lambda: prox.box({"a": 0.0, "b": 0.0}, {"a": 1, "b": 2, "c": 3}),
            ValueError,
            ("lower", "upper", "structure"),
        ),
        (lambda: prox.box(None, 1.0), TypeError, ("lower", "None")),
        (lambda: prox.box(0.0, "1"), TypeError, ("upper", "'1'")),
        (lambda: prox.l1(-1.0), ValueError, ("strength", "-1.0")),
        (lambda: prox.l1(NAN), ValueError, ("strength", "nan")),
        (lambda: prox.l1(None), TypeError, ("strength", "None")),
        (lambda: prox.elastic_net(-1.0, 0.0), ValueError, ("l1", "-1.0")),
        (lambda: prox.elastic_net(0.0, -1.0), ValueError, ("l2", "-1.0")),
    ],
)
def test_prox_arguments(make, error, words):
    with pytest.raises(error, match=re.escape(words[0])) as info:
        make()
    for word in words:
        assert word in str(info.value)
