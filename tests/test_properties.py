"""Properties over trees, dtypes and settings.

    pytest tests/test_properties.py --hypothesis-profile=full

generates 2,000 cases of each; without the profile there are fewer.
"""

import functools
import os
import pathlib
import subprocess
import sys

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

import optax_ftml

STEPS = 3
# Few enough trees that compiling them is not what takes the time.
TREES = [
    {"w": (2, 3), "b": (3,)},
    [(), (4, 1, 2), (5,)],
    {"a": {"b": (0, 2)}, "c": [(1,), (3, 2)]},
    (7,),
]


def is_shape(x):
    return isinstance(x, tuple) and all(isinstance(n, int) for n in x)


@st.composite
def problems(draw, dtypes=("float32", "bfloat16", "float16", "complex64")):
    """Parameters, gradients of each step with their scale, and settings."""
    tree = draw(st.sampled_from(TREES))
    dtype = jnp.dtype(draw(st.sampled_from(dtypes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-3, 3))

    def values(factor):
        def leaf(shape):
            x = factor * rng.normal(size=shape)
            x = x * (rng.random(shape) < 0.9)  # And some zeros.
            if jnp.issubdtype(dtype, jnp.complexfloating):
                x = x + 1j * factor * rng.normal(size=shape)
            return jnp.asarray(x, dtype)

        return jax.tree.map(leaf, tree, is_leaf=is_shape)

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


def delta(**settings):
    return optax_ftml.ftml(**settings)


def leader(**settings):
    return optax_ftml.ftml(**settings, prox=lambda leader, _: leader)


def low(**settings):
    return optax.chain(
        optax_ftml.ftml(**settings, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    )


FORMS = [delta, leader]


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


@hypothesis.given(problems(), st.sampled_from(FORMS))
def test_jit_equals_no_jit(problem, form):
    params, _, settings = problem
    assert_close(
        run_jitted(form, *problem), run(form, *problem), params, settings
    )


@hypothesis.given(problems(["float32"]))
def test_both_forms_agree(problem):
    params, _, settings = problem
    assert_close(
        run_jitted(leader, *problem),
        run_jitted(delta, *problem),
        params,
        settings,
    )


def every(k, form, **settings):
    return optax.MultiSteps(form(**settings), k).gradient_transformation()


every_third = [
    functools.partial(every, STEPS, form) for form in (delta, leader)
]


@hypothesis.given(problems(["float32"]), st.sampled_from([0, 1]))
def test_multisteps_equals_big_batches(problem, index):
    params, grads, settings = problem
    mean = jax.tree.map(lambda *g: sum(g) / STEPS, *grads)
    accumulated = run_jitted(every_third[index], params, grads, settings)
    big = run_jitted(FORMS[index], params, [mean], settings)
    # The two means of the gradients may differ in the last place, and where
    # they cancel in all; the updates of those leaves are left out.
    condition = jax.tree.map(
        lambda m, *g: np.abs(m) / sum(np.abs(x) for x in g) > 0.01, mean, *grads
    )

    def kept(tree):
        return jax.tree.map(
            lambda x, p, keep: np.where(keep, x, p), tree, params, condition
        )

    with np.errstate(invalid="ignore"):
        assert_close(kept(accumulated), kept(big), params, settings, 2000)


@hypothesis.given(problems(), st.sampled_from(FORMS), st.data())
def test_masked_leaves_never_move(problem, form, data):
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

    def check(a, b, p, moves):
        np.testing.assert_array_equal(a, b if moves else p)

    jax.tree.map(check, after, alone, params, moves)


@hypothesis.given(problems(), st.sampled_from(FORMS), st.data())
def test_permuting_the_tree_permutes_the_result(problem, form, data):
    params, grads, settings = problem
    leaves = jax.tree.leaves(params)
    order = data.draw(st.permutations(range(len(leaves))))

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
        run_jitted(delta, params, scaled, settings),
        run_jitted(delta, params, grads, settings),
    )


@hypothesis.given(problems(["bfloat16", "float16"]))
def test_rounding_at_random_stays_within_a_step_of_float32(problem):
    params, grads, settings = problem
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, grads))
    assert_close(
        run_jitted(low, *problem),
        jax.tree.map(
            lambda x, p: x.astype(p.dtype),
            run_jitted(delta, *wide, settings),
            params,
        ),
        params,
        settings,
        # A gap and the rounding of v, each step.
        4 * STEPS + 1,
    )


def test_sharded_equals_unsharded():
    # In a process of its own, which has eight devices.
    max_examples = str(hypothesis.settings().max_examples)
    flags = "--xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, "-m", "tests.programs.sharded", max_examples],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        cwd=pathlib.Path(__file__).parents[1],
        check=True,
    )
