"""Boxes and L1: rounding at the edges, arguments per leaf, tracers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_rounding_never_leaves_the_box(dtype):
    # Large steps between the edges, where theta + (edge - theta) rounds.
    lower, upper = (
        np.array(bounds)[:, None]
        for bounds in ([-1.0, 0.3, -0.2], [0.1, 0.7, 50.0])
    )
    optimizer = optax_ftml.ftml(10.0, prox=optax_ftml.prox.box(lower, upper))
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.uniform(lower, upper, size=(3, 2000)), dtype)
    lower, upper = jnp.asarray(lower, dtype), jnp.asarray(upper, dtype)
    start = jnp.clip(start, lower, upper)
    grads = jnp.asarray(rng.normal(size=(50, 3, 2000)), dtype)
    thetas = reference.trajectory(optimizer, start, grads)
    assert thetas.dtype == dtype
    assert jnp.all((thetas >= lower) & (thetas <= upper))
    at_edge = (thetas == lower) | (thetas == upper)
    assert np.all(np.mean(at_edge, axis=(0, 2)) > 0.1)


def test_l1_on_complex_parameters_shrinks_the_modulus():
    leader = jnp.array([3 + 4j, 0.3 + 0.4j])
    shrunk = optax_ftml.prox.l1(1.0)(leader, jnp.ones(2))
    np.testing.assert_allclose(shrunk, [2.4 + 3.2j, 0], rtol=1e-6)


def test_bounds_and_strengths_a_leaf_or_a_subtree():
    leader = {"a": jnp.array([-5.0, 5.0]), "b": {"c": jnp.array(5.0)}}
    ones = jax.tree.map(jnp.ones_like, leader)
    clipped = optax_ftml.prox.box(
        {"a": jnp.array([-1.0, -2.0]), "b": -1.0}, 2.0
    )(leader, ones)
    chex.assert_trees_all_equal(
        clipped, {"a": jnp.array([-1.0, 2.0]), "b": {"c": jnp.array(2.0)}}
    )
    shrunk = optax_ftml.prox.l1({"a": 1.0, "b": 0.0})(leader, ones)
    chex.assert_trees_all_equal(
        shrunk, {"a": jnp.array([-4.0, 4.0]), "b": {"c": jnp.array(5.0)}}
    )


def test_an_infeasible_start_becomes_feasible_in_one_step():
    optimizer = optax_ftml.ftml(0.1, prox=optax_ftml.prox.non_negative())
    params = jnp.array([-5.0, 5.0])
    state = optimizer.init(params)
    updates, _ = optimizer.update(jnp.ones(2), state, params)
    params = optax.apply_updates(params, updates)
    assert params[0] == 0
    assert 4.8 < params[1] < 5


def test_prox_is_traced_with_tracers_as_strengths():
    @jax.jit
    @jax.vmap
    def shrink(strength):
        return optax_ftml.prox.l1(strength)(jnp.array([2.0]), jnp.array([1.0]))

    chex.assert_trees_all_equal(
        shrink(jnp.array([0.0, 0.5, 9.0])), jnp.array([[2.0], [1.5], [0.0]])
    )
