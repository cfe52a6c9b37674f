"""Everything runs under JAX's strict settings, as under its loose ones."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet, prox
from tests.prox import cases

pytestmark = pytest.mark.usefixtures("strict")
ftml = optax_ftml.ftml
L1, SIMPLEX = prox.l1(0.01), prox.simplex()
FALLING = optax.linear_schedule(0.1, 0.0, 2)
BFLOAT16 = {"accumulator_dtype": jnp.bfloat16}
FLOAT64 = {"accumulator_dtype": jnp.float64}
OPTIMIZERS = {
    "delta": lambda: ftml(FALLING, **FLOAT64),
    "delta, b2=0": lambda: ftml(b2=0.0, eps=0.0, eps_root=1e-8),
    "rounding": lambda: optax.chain(
        optax.clip(0.5),
        optax_ftml.scale_by_ftml(**BFLOAT16),
        optax.add_decayed_weights(0.01),
        optax.scale_by_learning_rate(0.01),
        optax_ftml.stochastic_rounding(),
    ),
    "master of injected": lambda: optax_ftml.with_master_params(
        optax.inject_hyperparams(ftml)(0.01)
    ),
    "mxnet": lambda: mxnet.ftml(
        0.01,
        wd=0.01,
        clip_gradient=1.0,
        rescale_grad=0.5,
        lr_scheduler=mxnet.FactorScheduler(step=2, factor=0.5),
    ),
    "leader": lambda: ftml(FALLING, prox=SIMPLEX, **BFLOAT16),
    "leader, b1=0": lambda: ftml(b1=0, prox=L1, **FLOAT64),
    "adam": lambda: optax_ftml.proximal_adam(0.01, prox=SIMPLEX),
    "by_path": lambda: ftml(prox=prox.by_path({"a": prox.simplex(axis=-1)})),
}
PROXES = {name: case.make for name, case in cases.CONVEX.items()}
PROXES |= cases.NOT_CONVEX
PROXES["intersection"] = lambda axis: prox.intersection(
    prox.simplex(axis=axis), prox.box(0.0, 0.6)
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(x64, name):
    """Three steps of a wide and of a narrow leaf, feasible or not."""
    optimizer = OPTIMIZERS[name]()
    draw = np.random.default_rng(0).normal
    zeros = np.arange(cases.SIZE) != 1  # A gradient of 0 is among them.
    params, grads = (
        {
            "a": jnp.asarray(draw(size=(3, cases.SIZE)), jnp.bfloat16),
            "b": jnp.asarray(draw(size=cases.SIZE) * factor, jnp.float32),
        }
        for factor in (1, zeros)
    )

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

    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)
    chex.assert_tree_all_finite(params)


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
