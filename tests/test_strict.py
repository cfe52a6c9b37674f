"""Everything runs under JAX's strict settings, as under its loose ones."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet
from optax_ftml import prox
from tests.prox import cases

ftml = optax_ftml.ftml
L1, SIMPLEX = prox.l1(0.01), prox.simplex()
OPTIMIZERS = {
    "ftml": lambda: ftml(0.01),
    "schedule": lambda: ftml(optax.linear_schedule(0.1, 0.0, 5)),
    "eps_root": lambda: ftml(0.01, eps=0.0, eps_root=1e-8),
    "b2=0": lambda: ftml(0.01, b2=0.0),
    "bfloat16 v": lambda: ftml(0.01, accumulator_dtype=jnp.bfloat16),
    "float64 v": lambda: ftml(0.01, accumulator_dtype=jnp.float64),
    "injected": lambda: optax.inject_hyperparams(
        ftml, hyperparam_dtype=jnp.float32
    )(0.01),
    "scale_by_ftml": lambda: optax.chain(
        optax.clip(0.5),
        optax_ftml.scale_by_ftml(accumulator_dtype=jnp.bfloat16),
        optax.add_decayed_weights(0.01),
        optax.scale_by_learning_rate(0.01),
        optax_ftml.stochastic_rounding(),
    ),
    "master": lambda: optax_ftml.with_master_params(ftml(0.01)),
    "mxnet": lambda: mxnet.ftml(
        0.01,
        wd=0.01,
        clip_gradient=1.0,
        rescale_grad=0.5,
        lr_scheduler=mxnet.FactorScheduler(step=2, factor=0.5),
    ),
    "leader, b1=0": lambda: ftml(0.01, 0, prox=SIMPLEX),
    "leader, schedule": lambda: optax.chain(
        optax.clip(0.5),
        optax.add_decayed_weights(0.01),
        ftml(optax.linear_schedule(0.1, 0.0, 2), prox=SIMPLEX),
    ),
    "leader, float64 v": lambda: ftml(
        0.01, prox=L1, accumulator_dtype=jnp.float64
    ),
    "leader, bfloat16 v": lambda: ftml(
        0.01, prox=L1, accumulator_dtype=jnp.bfloat16
    ),
    "adam": lambda: optax_ftml.proximal_adam(0.01, prox=SIMPLEX),
    "by_path": lambda: ftml(prox=prox.by_path({"a": prox.simplex(axis=-1)})),
}
PROXES = {name: case.make for name, case in cases.CONVEX.items()}
PROXES |= cases.NOT_CONVEX


@pytest.fixture(autouse=True)
def strict():
    """All of the settings at once: an error names the one that raised it."""
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.debug_infs(True),
        jax.checking_leaks(),
        jax.enable_checks(True),
    ):
        yield


def train(optimizer):
    """Three steps of a wide and of a narrow leaf, feasible or not."""
    draw = np.random.default_rng(0).normal
    shape = (3, cases.SIZE)
    zeros = np.arange(cases.SIZE) != 1  # A gradient of 0 is among them.
    params, grads = (
        {
            "a": jnp.asarray(draw(size=shape), jnp.bfloat16),
            "b": jnp.asarray(draw(size=cases.SIZE) * factor, jnp.float32),
        }
        for factor in (1, zeros)
    )
    dtypes = jax.tree.map(jnp.result_type, params)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(grads, state, params)
        # Not optax.apply_updates, which promotes where updates are wider.
        params = jax.tree.map(
            lambda p, u: (p.astype(u.dtype) + u).astype(p.dtype),
            params,
            updates,
        )
        return params, state

    for _ in range(3):
        params, state = step(params, state)
    chex.assert_tree_all_finite(params)
    assert jax.tree.map(jnp.result_type, params) == dtypes


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(x64, name):
    train(OPTIMIZERS[name]())


@pytest.mark.parametrize("name", PROXES)
def test_proxes(name):
    rng = np.random.default_rng(0)
    leader, step_size = (
        jnp.asarray(draw(size=cases.SIZE), jnp.float32)
        for draw in (rng.normal, rng.exponential)
    )
    theta = jax.jit(PROXES[name](-1))(leader, step_size)
    chex.assert_tree_all_finite(theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(theta, leader)
