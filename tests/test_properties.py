"""A property over dtypes and settings.

    pytest tests/test_properties.py --hypothesis-profile=full

generates 2,000 cases for each optimizer; without the profile there are fewer.
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

# Few enough trees that compiling them is not what takes the time.
LEAVES = {
    "empty": ((0, 2), "float32"),
    "float16": ((), "float16"),
    "bfloat16": ((3, 2), "bfloat16"),
    "float32": ((4, 1, 2), "float32"),
    "complex64": ((4,), "complex64"),
}


@st.composite
def problems(draw):
    """Parameters, gradients of three steps with their scale, and settings."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-3, 3))

    def values(factor, *steps):
        def leaf(shape, dtype):
            x = factor * rng.normal(size=(*steps, *shape))
            x *= rng.random(x.shape) < 0.9  # And some zeros.
            turn = 0.6 + 0.8j if dtype == "complex64" else 1
            return jnp.asarray(turn * x, dtype)

        return {name: leaf(*kind) for name, kind in LEAVES.items()}

    number = functools.partial(st.floats, allow_nan=False)
    settings = {
        "learning_rate": draw(st.just(0.0) | number(1e-6, 0.1)),
        "b1": draw(number(0, 0.99)),
        "b2": draw(number(0, 0.9999)),
        "eps": draw(st.sampled_from([0.0, 1e-8, 1e-3])),
    }
    settings = {k: jnp.float32(x) for k, x in settings.items()}
    return values(1.0), values(scale, 3), settings


def end(optimizer, params, grads):
    state = optimizer.init(params)
    for t in range(3):
        g = jax.tree.map(lambda g, t=t: g[t], grads)
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("form", reference.FORMS)
@hypothesis.given(problems())
def test_leaves_know_nothing_of_each_other(form, problem):
    """Each alone, under another name, moves as among the others."""
    params, grads, settings = problem
    optimizer = reference.FORMS[form](**settings)
    for name, expected in end(optimizer, params, grads).items():
        alone = end(optimizer, {"x": params[name]}, {"x": grads[name]})
        np.testing.assert_array_equal(alone["x"], expected)
