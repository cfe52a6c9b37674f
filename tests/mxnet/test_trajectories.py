"""FTML in plain Optax terms is what real MXNet computes."""

import json
import pathlib

import numpy as np
import optax
import pytest

import optax_ftml
from tests.programs import mxnet_settings

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


@pytest.mark.parametrize(
    ("order", "runs"),
    [("1.x", ["1.9.1"]), ("2.x", ["2.0.0b1_fused", "2.0.0b1_step"])],
)
def test_agrees_with_mxnet(order, runs):
    recorded = [np.load(DATA / f"mxnet_trajectories_{run}.npz") for run in runs]
    settings = json.loads(str(recorded[0]["settings"]))
    for i, setting in enumerate(settings):
        optimizer = _chain(order, setting["options"])
        ours = mxnet_settings.trajectory(setting, optimizer)
        for arrays in recorded:
            for name, params in ours.items():
                theirs = arrays[f"{i}/{name}"]
                assert params.dtype == theirs.dtype == np.float32
                atol = 1e-5 * np.max(np.abs(theirs))
                message = f"{name} with {setting['options']}"
                np.testing.assert_allclose(
                    params, theirs, rtol=0, atol=atol, err_msg=message
                )
