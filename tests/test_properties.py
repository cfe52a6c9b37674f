"""Properties over trees, dtypes and settings.

    pytest tests/test_properties.py --hypothesis-profile=full

generates 2,000 cases of each; without the profile there are fewer.
"""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import optax_ftml
from tests import reference

STEPS = 3
DTYPES = ["float32", "bfloat16", "float16", "complex64"]
# Few enough trees that compiling them is not what takes the time.
SHAPES = {"a": {"b": (0, 2)}, "c": [(), (3, 2)], "d": (4, 1, 2)}


def is_shape(x):
    return isinstance(x, tuple)


@st.composite
def problems(draw, dtypes=DTYPES):
    """Parameters, gradients of each step with their scale, and settings."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-3, 3))
    dtypes = draw(st.sampled_from([dtypes, dtypes[::-1]]))

    def values(factor):
        leaves, structure = jax.tree.flatten(SHAPES, is_leaf=is_shape)
        arrays = []
        for shape, dtype in zip(leaves, 4 * dtypes, strict=False):
            x = factor * rng.normal(size=shape)
            x = x * (rng.random(shape) < 0.9)  # And some zeros.
            if dtype == "complex64":
                x = x + 1j * factor * rng.normal(size=shape)
            arrays.append(jnp.asarray(x, dtype))
        return structure.unflatten(arrays)

    number = functools.partial(st.floats, allow_nan=False)
    settings = {
        "learning_rate": draw(st.just(0.0) | number(1e-6, 0.1)),
        "b1": draw(number(0, 0.99)),
        # Below, v forgets so fast that after a gradient of 0 the leader form
        # turns the last place of a parameter into a step of any size.
        "b2": draw(number(0.5, 0.9999)),
        "eps": draw(st.sampled_from([0.0, 1e-8, 1e-3])),
    }
    settings = {k: jnp.float32(x) for k, x in settings.items()}
    return values(1.0), [values(scale) for _ in range(STEPS)], settings


def leader(**settings):
    return optax_ftml.ftml(**settings, prox=reference.free)


def adam(**settings):
    return optax_ftml.proximal_adam(**settings, prox=reference.free)


def low(**settings):
    return optax.chain(
        optax_ftml.ftml(**settings, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    )


FORMS = [optax_ftml.ftml, leader, adam]


def run(make, params, grads, settings):
    optimizer = make(**settings)
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


run_jitted = jax.jit(run, static_argnums=0)


def assert_close(a, b, params, settings, ulps=16):
    """To within some units in the last place of parameters and of steps."""

    def check(a, b, p):
        a, b, p = (np.asarray(x) for x in (a, b, p))
        assert a.dtype == b.dtype
        info = jnp.finfo(a.dtype)
        eps, tiny = float(info.eps), float(info.tiny)
        a, b, p = (x.astype(np.complex128) for x in (a, b, p))
        size = np.abs(p) + np.abs(b) + float(settings["learning_rate"])
        size = np.maximum(size, tiny)  # Below, the gaps are as wide.
        assert np.all(np.abs(a - b) <= ulps * eps * size), (a, b)

    jax.tree.map(check, a, b, params)


@pytest.mark.parametrize("form", FORMS)
@hypothesis.given(problems())
def test_jit_equals_no_jit(form, problem):
    params, _, settings = problem
    assert_close(
        run_jitted(form, *problem), run(form, *problem), params, settings
    )


@hypothesis.given(problems(["float32", "complex64"]))
def test_both_forms_agree(problem):
    params, _, settings = problem
    assert_close(
        run_jitted(leader, *problem),
        run_jitted(optax_ftml.ftml, *problem),
        params,
        settings,
    )


def every_third(form, **settings):
    return optax.MultiSteps(form(**settings), STEPS).gradient_transformation()


ACCUMULATED = {form: functools.partial(every_third, form) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
@hypothesis.given(problems(["float32"]))
def test_multisteps_equals_big_batches(form, problem):
    params, grads, settings = problem
    mean = jax.tree.map(lambda *g: sum(g) / STEPS, *grads)
    accumulated = run_jitted(ACCUMULATED[form], params, grads, settings)
    big = run_jitted(form, params, [mean], settings)
    # The two means of the gradients may differ in the last place, and where
    # they cancel in all; the updates of those numbers are left out.
    is_cancelled = jax.tree.map(
        lambda m, *g: np.abs(m) <= 0.01 * sum(np.abs(x) for x in g),
        mean,
        *grads,
    )
    accumulated, big = (
        jax.tree.map(lambda x, p, off: np.where(off, p, x), *trees)
        for trees in (
            (accumulated, params, is_cancelled),
            (big, params, is_cancelled),
        )
    )
    assert_close(accumulated, big, params, settings, 2000)


@pytest.mark.parametrize("form", FORMS)
@hypothesis.given(problems(), st.data())
def test_masked_leaves_never_move(form, problem, data):
    params, grads, settings = problem
    moves = jax.tree.map(lambda _: data.draw(st.booleans()), params)
    stays = jax.tree.map(lambda x: not x, moves)

    def make(**settings):
        return optax.chain(
            optax.masked(form(**settings), moves),
            optax.masked(optax.set_to_zero(), stays),
        )

    after = run(make, params, grads, settings)
    alone = run(form, params, grads, settings)
    jax.tree.map(
        lambda a, b, p, moves: np.testing.assert_array_equal(
            a, b if moves else p
        ),
        *(after, alone, params, moves),
    )


@pytest.mark.parametrize("form", FORMS)
@hypothesis.given(problems(), st.data())
def test_permuting_the_tree_permutes_the_result(form, problem, data):
    params, grads, settings = problem
    order = data.draw(st.permutations(range(len(jax.tree.leaves(params)))))

    def permuted(tree):
        leaves = jax.tree.leaves(tree)
        return [leaves[i] for i in order]

    after = run(form, params, grads, settings)
    other = run(form, permuted(params), [permuted(g) for g in grads], settings)
    chex.assert_trees_all_equal(other, permuted(after))


@hypothesis.given(problems(["float32"]), st.integers(-20, 20))
def test_scaling_gradients_by_a_power_of_two_changes_nothing(problem, power):
    params, grads, settings = problem
    settings["eps"] = jnp.float32(0)
    scaled = jax.tree.map(lambda g: g * 2.0**power, grads)
    chex.assert_trees_all_equal(
        run_jitted(optax_ftml.ftml, params, scaled, settings),
        run_jitted(optax_ftml.ftml, params, grads, settings),
    )


@hypothesis.given(problems(["bfloat16", "float16"]))
def test_rounding_at_random_stays_within_a_step_of_float32(problem):
    params, grads, settings = problem
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, grads))
    after = run_jitted(optax_ftml.ftml, *wide, settings)
    assert_close(
        run_jitted(low, *problem),
        jax.tree.map(lambda x, p: x.astype(p.dtype), after, params),
        params,
        settings,
        # A gap and the rounding of v, each step.
        4 * STEPS + 1,
    )
