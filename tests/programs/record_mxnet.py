"""Records again what real MXNet computes, for the tests to compare with.

    python -m tests.programs.record_mxnet PYTHON1 PYTHON2

runs the settings in tests/data/mxnet_*.npz, which say there what they are, in
an interpreter with MXNet 1.9.1 and one with MXNet 2.0.0b1 (see
tests/programs/mxnet_runs.py), and writes the results into the same files. For
other settings write them there first.
"""

import json
import pathlib
import sys

import numpy as np

from tests.programs import mxnet_runs

DATA = pathlib.Path(__file__).parents[1] / "data"


def main(*pythons):
    for kind in ("trajectories", "settings"):
        paths = {
            run: DATA / f"mxnet_{kind}_{run}.npz" for run in mxnet_runs.RUNS
        }
        settings = str(np.load(paths["step"])["settings"])
        results = mxnet_runs.run_all(json.loads(settings), pythons)
        for run, path in paths.items():
            np.savez_compressed(path, settings=settings, **results[run])
    path = DATA / "mxnet_schedulers.npz"
    settings = str(np.load(path)["settings"])
    by_number = dict(enumerate(json.loads(settings)))
    results = mxnet_runs.run_in(pythons[0], by_number)
    np.savez_compressed(path, settings=settings, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
