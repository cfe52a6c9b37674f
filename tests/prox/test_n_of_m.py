"""n_of_m against all candidates, ties, and leaves that do not fit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox
from tests.prox import cases


def test_it_is_the_best_of_all_supports(x64):
    rng = np.random.default_rng(0)
    leader, step_size = cases.draw(rng, shape=(10, 4))
    theta = jax.jit(prox.n_of_m(2, 4))(leader, step_size)
    masks = [
        np.isin(np.arange(4), some)
        for some in itertools.combinations(range(4), 2)
    ]
    for row, x, s in zip(theta, leader, step_size, strict=True):
        costs = [np.sum(np.where(mask, 0, x**2 / s)) for mask in masks]
        best = masks[int(np.argmin(costs))]
        np.testing.assert_array_equal(row, np.where(best, x, 0))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_of_equals_the_first_are_kept(axis):
    theta = prox.n_of_m(2, 4, axis=axis)(jnp.ones((8, 8)), jnp.ones((8, 8)))
    one_line = np.tile([1.0, 1, 0, 0], 2)
    expected = np.broadcast_to(one_line, (8, 8))
    expected = expected.T if axis == 0 else expected
    np.testing.assert_array_equal(theta, expected)


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ((5, 4), ValueError, "n must be at most m"),
        ((-1, 4), ValueError, "n must"),
        ((0, 0), ValueError, "m must"),
        ((2.0, 4), TypeError, "n must"),
    ],
)
def test_impossible_arguments_are_named(arguments, error, word):
    with pytest.raises(error, match=word):
        prox.n_of_m(*arguments)


def test_a_leaf_whose_length_is_no_multiple_is_named():
    with pytest.raises(ValueError, match=r"m=4 .*\(6,\)"):
        prox.n_of_m(2, 4)(jnp.ones(6), jnp.ones(6))
