"""A property over trees, dtypes and settings.

    pytest tests/test_properties.py --hypothesis-profile=full

generates 2,000 cases for each optimizer; without the profile there are fewer.
"""

import functools

import hypothesis
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
FORMS = reference.FORMS


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
        "b2": draw(number(0, 0.9999)),
        "eps": draw(st.sampled_from([0.0, 1e-8, 1e-3])),
    }
    settings = {k: jnp.float32(x) for k, x in settings.items()}
    return values(1.0), [values(scale) for _ in range(STEPS)], settings


def run(optimizer, params, grads):
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("form", FORMS)
@hypothesis.given(problems(), st.permutations("abcd"), st.integers(0, 4))
def test_leaves_know_nothing_of_each_other(form, problem, order, free):
    """Some leaves alone, under other names, with the others masked."""
    params, grads, settings = problem
    optimizer = FORMS[form](**settings)
    names = dict(zip(order, "abcd", strict=True))
    moves = {names[name]: i < free for i, name in enumerate(order)}
    stays = {name: not i for name, i in moves.items()}

    def renamed(tree):
        return {names[name]: x for name, x in tree.items()}

    partly = optax.chain(
        optax.masked(optimizer, moves), optax.masked(optax.set_to_zero(), stays)
    )
    after = run(partly, renamed(params), list(map(renamed, grads)))
    expected = run(optimizer, params, grads)
    for name, new in names.items():
        right = expected if moves[new] else params
        np.testing.assert_array_equal(after[new], right[name])
