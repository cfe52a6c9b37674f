"""MXNet's learning-rate schedulers give MXNet's learning rates."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import mxnet
from tests.programs import mxnet_settings

DATA = pathlib.Path(__file__).parents[1] / "data"
RECORDED = np.load(DATA / "mxnet_schedulers.npz")
SETTINGS = json.loads(str(RECORDED["settings"]))


def test_agrees_with_mxnet():
    for i, setting in enumerate(SETTINGS):
        np.testing.assert_allclose(
            mxnet_settings.learning_rates(setting),
            RECORDED[f"{i}/learning_rate"],
            rtol=1e-6,
            atol=1e-15,  # which moves nothing
            err_msg=str(setting),
        )


def test_the_last_count_is_the_end():
    last = jnp.iinfo(jnp.int32).max
    assert jax.jit(mxnet.CosineScheduler(100))(last) == 0
    assert mxnet.FactorScheduler(7, 0.9)(last) == jnp.float32(1e-8)
    assert mxnet.FactorScheduler(7, 0.0, stop_factor_lr=0)(last) == 0


@pytest.mark.parametrize(
    ("match", "kind", "arguments"),
    [
        ("step .*0", "Factor", {"step": 0}),
        (r"factor .*\[0, 1\].*1.1", "Factor", {"step": 1, "factor": 1.1}),
        (r"step .*\[\]", "MultiFactor", {"step": []}),
        ("increasing", "MultiFactor", {"step": [3, 3]}),
        ("step .*0", "MultiFactor", {"step": [0, 3]}),
        ("max_update .*2.5", "Cosine", {"max_update": 2.5}),
        ("pwr .*-1", "Poly", {"max_update": 9, "pwr": -1}),
        ("base_lr .*nan", "Poly", {"max_update": 9, "base_lr": np.nan}),
        ("begin_lr .*0.2", "Poly", {"max_update": 9, "warmup_begin_lr": 0.2}),
        ("mode .*'x'", "Poly", {"max_update": 9, "warmup_mode": "x"}),
    ],
)
def test_arguments_are_checked(match, kind, arguments):
    with pytest.raises(ValueError, match=match):
        getattr(mxnet, f"{kind}Scheduler")(**arguments)
