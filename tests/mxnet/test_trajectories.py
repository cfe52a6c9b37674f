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
            setting = {**setting, "order": order}
            yield pytest.param(kind, i, setting, marks=marks)


@pytest.mark.parametrize(
    ("kind", "number", "setting"),
    [*_settings("settings"), *_settings("trajectories")],
)
def test_agrees_with_mxnet(kind, number, setting):
    errors = mxnet_settings.errors(number, setting, RECORDED[kind])
    allowed = {"settings": 1, "trajectories": 0.5}[kind]
    assert max(error for _, error in errors) <= allowed
