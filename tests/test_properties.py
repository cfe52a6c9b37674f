"""Properties over trees, dtypes and settings.

    pytest tests/test_properties.py --hypothesis-profile=full

generates 2,000 cases of each; without the profile there are fewer.
"""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from tests import reference

STEPS = 3
DTYPES = ["float32", "bfloat16", "float16", "complex64"]
# Few enough trees that compiling them is not what takes the time.
SHAPES = [(0, 2), (), (3, 2), (4, 1, 2)]


@st.composite
def problems(draw):
    """Parameters, gradients of each step with their scale, and settings."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-3, 3))
    dtypes = draw(st.sampled_from([DTYPES, DTYPES[::-1]]))

    def values(factor):
        arrays = []
        for shape, dtype in zip(SHAPES, dtypes, strict=True):
            x = factor * rng.normal(size=shape)
            x = x * (rng.random(shape) < 0.9)  # And some zeros.
            if dtype == "complex64":
                x = x + 1j * factor * rng.normal(size=shape)
            arrays.append(jnp.asarray(x, dtype))
        return dict(zip("abcd", arrays, strict=True))

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


FORMS = reference.FORMS
each = pytest.mark.parametrize("form", FORMS)


def run(make, params, grads, settings):
    optimizer = make(**settings)
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


run_jitted = jax.jit(run, static_argnums=0)


@each
@hypothesis.given(problems())
def test_jit_equals_no_jit(form, problem):
    """To within some units in the last place of parameters and of steps."""
    params, _, settings = problem
    jitted = run_jitted(FORMS[form], *problem)

    def check(a, b, p):
        assert a.dtype == b.dtype
        info = jnp.finfo(a.dtype)
        a, b, p = (np.asarray(x, np.complex128) for x in (a, b, p))
        size = np.abs(p) + np.abs(b) + float(settings["learning_rate"])
        size = np.maximum(size, float(info.tiny))  # Below, gaps are as wide.
        assert np.all(np.abs(a - b) <= 16 * float(info.eps) * size), (a, b)

    jax.tree.map(check, jitted, run(FORMS[form], *problem), params)


@each
@hypothesis.given(problems(), st.permutations("abcd"), st.integers(0, 4))
def test_leaves_know_nothing_of_each_other(form, problem, order, free):
    """Some leaves alone, under other names, with the others masked."""
    params, grads, settings = problem
    names = dict(zip(order, "abcd", strict=True))
    moves = {names[name]: i < free for i, name in enumerate(order)}

    def renamed(tree):
        return {names[name]: x for name, x in tree.items()}

    def make(**settings):
        return optax.chain(
            optax.masked(FORMS[form](**settings), moves),
            optax.masked(
                optax.set_to_zero(), lambda p: {k: not moves[k] for k in p}
            ),
        )

    after = run(make, renamed(params), [renamed(g) for g in grads], settings)
    expected = run(FORMS[form], params, grads, settings)
    for name, new in names.items():
        right = expected if moves[new] else params
        np.testing.assert_array_equal(after[new], right[name])
