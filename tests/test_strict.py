"""Everything runs under JAX's strict settings, as under its loose ones."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet
from optax_ftml import prox

OPTIMIZERS = {
    "ftml": optax_ftml.ftml(0.01),
    "ftml, schedule": optax_ftml.ftml(optax.linear_schedule(0.1, 0.0, 5)),
    "ftml, eps_root": optax_ftml.ftml(0.01, eps=0.0, eps_root=1e-8),
    "ftml, b2=0": optax_ftml.ftml(0.01, b2=0.0),
    "ftml, bfloat16 v": optax_ftml.ftml(0.01, accumulator_dtype=jnp.bfloat16),
    "scale_by_ftml": optax.chain(
        optax_ftml.scale_by_ftml(), optax.scale_by_learning_rate(0.01)
    ),
    "injected": optax.inject_hyperparams(
        optax_ftml.ftml, hyperparam_dtype=jnp.float32
    )(0.01),
    "stochastic_rounding": optax.chain(
        optax_ftml.ftml(0.01), optax_ftml.stochastic_rounding()
    ),
    "with_master_params": optax_ftml.with_master_params(optax_ftml.ftml(0.01)),
    "mxnet.ftml": mxnet.ftml(
        0.01,
        wd=0.01,
        clip_gradient=1.0,
        rescale_grad=0.5,
        lr_scheduler=mxnet.FactorScheduler(step=2, factor=0.5),
    ),
}
PROXES = {
    "box": prox.box(-1.0, 1.0),
    "non_negative": prox.non_negative(),
    "l1": prox.l1(0.01),
    "l1, non_negative": prox.l1(0.01, non_negative=True),
    "elastic_net": prox.elastic_net(0.01, 0.01),
    "simplex": prox.simplex(),
    "simplex, rows": prox.simplex(axis=-1),
    "l1_ball": prox.l1_ball(),
    "l2_ball": prox.l2_ball(axis=-1),
    "hyperplane": prox.hyperplane(1.0, 1.0),
    "halfspace": prox.halfspace(1.0, 1.0, axis=-1),
    "affine_set": prox.affine_set(jnp.ones((1, 3)), jnp.ones(1)),
    "box_section": prox.box_section(0.0, 1.0, 1.0, 1.0, axis=-1),
    "monotone": prox.monotone(),
    "group_lasso": prox.group_lasso(0.01, axis=-1, l1=0.01),
    "total_variation": prox.total_variation(0.01),
    "l2_sphere": prox.l2_sphere(axis=-1),
    "top_k": prox.top_k(2, axis=-1),
    "levels": prox.levels((-1.0, 0.0, 1.0)),
    "in_metric": prox.in_metric(
        lambda x, s: optax.projections.projection_non_negative(x),
        max_iterations=10,
    ),
    "by_path": prox.by_path({"a": prox.simplex(axis=-1)}),
}
OPTIMIZERS |= {
    f"prox.{name}": optax_ftml.ftml(0.01, prox=f) for name, f in PROXES.items()
}
OPTIMIZERS["prox, b1=0"] = optax_ftml.ftml(0.01, b1=0, prox=prox.simplex())


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


@functools.cache
def trees(dtype):
    """Parameters, feasible or not, and gradients of which one is 0."""
    draw = np.random.default_rng(0).normal
    params = {"a": draw(size=(4, 3)), "b": draw(size=3)}
    grads = {"a": draw(size=(4, 3)), "b": draw(size=3) * np.array([1, 0, 1e-3])}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, grads))


def apply(p, u):
    # optax.apply_updates promotes, where updates are wider than parameters.
    return (p.astype(u.dtype) + u).astype(p.dtype)


def train(optimizer, dtype):
    """Returns the parameters after three jitted steps."""
    params, grads = trees(dtype)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(apply, params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_alone(name, dtype):
    params = train(OPTIMIZERS[name], dtype)
    chex.assert_tree_all_finite(params)
    chex.assert_trees_all_equal_dtypes(params, trees(dtype)[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["ftml", "ftml, bfloat16 v", "prox.simplex"])
def test_in_a_chain(name, dtype):
    parts = [
        optax.clip(0.5),
        optax.add_decayed_weights(0.01),
        OPTIMIZERS[name],
        optax_ftml.stochastic_rounding(),
    ]
    if name.startswith("prox"):
        parts.pop()  # The leader form is the last of its chain.
    chex.assert_tree_all_finite(train(optax.chain(*parts), dtype))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("f", [None, prox.l1(0.01), prox.simplex()])
@pytest.mark.parametrize("b1", [0, 0.6])
def test_v_wider_than_the_parameters(b1, f, dtype):
    optimizer = optax_ftml.ftml(0.01, b1, prox=f, accumulator_dtype=jnp.float64)
    params = train(optimizer, dtype)
    chex.assert_tree_all_finite(params)
    chex.assert_trees_all_equal_dtypes(params, trees(dtype)[0])
