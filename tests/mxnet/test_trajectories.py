"""MXNet's FTML under its own arguments is what real MXNet computes."""

import json
import pathlib

import numpy as np
import pytest

from tests.programs import mxnet_runs, mxnet_settings

DATA = pathlib.Path(__file__).parents[1] / "data"
RECORDED = {
    kind: {
        run: np.load(DATA / f"mxnet_{kind}_{run}.npz")
        for run in mxnet_runs.RUNS
    }
    for kind in ("settings", "trajectories")
}


def _settings(kind):
    """Yields the recorded settings, of which the gate alone runs them all."""
    settings = json.loads(str(RECORDED[kind]["step"]["settings"]))
    for i, setting in enumerate(settings):
        orders = [setting["order"]] if "order" in setting else ["1.x", "2.x"]
        for order in orders:
            marks = pytest.mark.slow if i % 4 else ()
            yield pytest.param(i, {**setting, "order": order}, marks=marks)


@pytest.mark.parametrize(("number", "setting"), list(_settings("settings")))
def test_random_settings_agree_with_mxnet(number, setting):
    results = RECORDED["settings"]
    for _, error in mxnet_settings.errors(number, setting, results):
        assert error <= 1


@pytest.mark.parametrize(("number", "setting"), list(_settings("trajectories")))
def test_long_trajectories_agree_with_mxnet(number, setting):
    results = RECORDED["trajectories"]
    for _, error in mxnet_settings.errors(number, setting, results):
        assert error <= 0.5
