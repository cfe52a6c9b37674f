"""MXNet's FTML under its own arguments is what real MXNet computes."""

import json
import pathlib

import numpy as np
import pytest

from tests.programs import mxnet_runs, mxnet_settings

DATA = pathlib.Path(__file__).parents[1] / "data"
RECORDED = {
    (kind, run): np.load(DATA / f"mxnet_{kind}_{run}.npz")
    for kind in ("trajectories", "settings")
    for run in mxnet_runs.RUNS
}


def _settings(kind):
    """Yields the recorded settings, of which the gate runs those after 12."""
    settings = json.loads(str(RECORDED[kind, "step"]["settings"]))
    for i, setting in enumerate(settings):
        orders = [setting["order"]] if "order" in setting else ["1.x", "2.x"]
        for order in orders:
            marks = pytest.mark.slow if i >= 12 else ()
            yield pytest.param(i, {**setting, "order": order}, marks=marks)


def _worst(kind, number, setting):
    """Returns the largest error, in units of what is allowed."""
    excesses = []
    ours = mxnet_settings.trajectory(setting)
    for run in mxnet_settings.runs_of(setting):
        for name, values in ours.items():
            theirs = RECORDED[kind, run][f"{number}/{name}"]
            assert values.dtype == theirs.dtype == setting["dtype"]
            excesses.append(mxnet_settings.excess(setting, run, values, theirs))
    return max(excesses)


@pytest.mark.parametrize(("number", "setting"), list(_settings("settings")))
def test_random_settings_agree_with_mxnet(number, setting):
    assert _worst("settings", number, setting) <= 1


@pytest.mark.parametrize(("number", "setting"), list(_settings("trajectories")))
def test_long_trajectories_agree_with_mxnet(number, setting):
    assert _worst("trajectories", number, setting) <= 0.5
