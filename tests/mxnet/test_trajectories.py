"""FTML in plain Optax terms is what real MXNet computes."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests.programs import mxnet_runs

DATA = pathlib.Path(__file__).parents[1] / "data"


def _chain(order, options):
    """Returns MXNet's rule, by hand."""
    clip = options.get("clip_gradient")
    clip = optax.clip(clip) if clip else optax.identity()
    decay = optax.add_decayed_weights(options.get("wd", 0.0))
    return optax.chain(
        optax.scale(options.get("rescale_grad", 1.0)),
        *((decay, clip) if order == "1.x" else (clip, decay)),
        optax_ftml.ftml(
            learning_rate=options.get("learning_rate", 0.0025),
            b1=options.get("beta1", 0.6),
            b2=options.get("beta2", 0.999),
            eps=options.get("epsilon", 1e-8),
        ),
    )


def _trajectory(optimizer, setting):
    params, grads = mxnet_runs.inputs(setting)

    def step(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    grads = jax.tree.map(lambda *g: jnp.stack(g), *grads)
    start = (params, optimizer.init(params))
    _, params = jax.jit(lambda: jax.lax.scan(step, start, grads))()
    return jax.tree.map(lambda p: p[np.array(setting["record"]) - 1], params)


@pytest.mark.parametrize(
    ("order", "runs"),
    [("1.x", ["1.9.1"]), ("2.x", ["2.0.0b1_fused", "2.0.0b1_step"])],
)
def test_agrees_with_mxnet(order, runs):
    recorded = [np.load(DATA / f"mxnet_trajectories_{run}.npz") for run in runs]
    settings = json.loads(str(recorded[0]["settings"]))
    assert len(settings) >= 12
    for i, setting in enumerate(settings):
        optimizer = _chain(order, setting["options"])
        for name, params in _trajectory(optimizer, setting).items():
            for expected in (arrays[f"{i}/{name}"] for arrays in recorded):
                assert params.dtype == expected.dtype == np.float32
                size = np.max(np.abs(expected))
                np.testing.assert_allclose(
                    params,
                    expected,
                    rtol=0,
                    atol=1e-5 * size,
                    err_msg=f"{name} with {setting['options']}",
                )
