"""Compares `optax_ftml.mxnet` with live MXNet, in full.

    python -m tests.verify_mxnet --environments DIRECTORY

needs a directory with two virtual environments, "mxnet1" with MXNet 1.9.1 and
"mxnet2" with MXNet 2.0.0b1, or makes them there if it finds python3.10 and
python3.8. It prints a line for each comparison and fails if one does. With
--record it also writes the sample that the ordinary tests use.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

from tests import mxnet_runs
from tests import mxnet_settings

DATA = pathlib.Path(__file__).parent / "data"
ENVIRONMENTS = {
    "mxnet1": ("python3.10", ["mxnet==1.9.1", "numpy==1.23.5"]),
    "mxnet2": ("python3.8", ["mxnet==2.0.0b1", "numpy==1.23.5"]),
}


def interpreter(directory, name):
    """Returns an environment's Python, in an environment made if need be."""
    path = pathlib.Path(directory, name, "bin", "python")
    if not path.exists():
        python, packages = ENVIRONMENTS[name]
        subprocess.run([python, "-m", "venv", path.parents[1]], check=True)
        subprocess.run([path, "-m", "pip", "install", *packages], check=True)
    return path


def run_all(settings, python1, python2):
    """Returns MXNet's weights, by the name of the run."""
    results = {}
    for run, python, order, options in (
        ("1.9.1", python1, "1.x", {}),
        ("fused", python2, "2.x", {"use_fused_step": True}),
        ("step", python2, "2.x", {"use_fused_step": False}),
    ):
        given = [
            {**s, "options": {**s["options"], **options}}
            if s["order"] == order
            else None
            for s in settings
        ]
        results[run] = mxnet_runs.run_in(python, given)
    return results


def compare(settings, results):
    """Returns (excess, number, run) of every comparison."""
    found = []
    for i, setting in enumerate(settings):
        optimizer = mxnet_settings.optimizer_of(setting)
        ours = mxnet_settings.trajectory(setting, optimizer)
        for run in mxnet_settings.runs_of(setting):
            worst = max(
                mxnet_settings.excess(
                    setting, run, ours[name], results[run][f"{i}/{name}"]
                )
                for name in ours
            )
            found.append((worst, i, run))
        if sys.stderr.isatty():
            print(f"\r{i + 1}/{len(settings)}", end="", file=sys.stderr)
    return found


def verify_settings(count, python1, python2):
    """Compares random settings."""
    settings = [mxnet_settings.random_setting(seed) for seed in range(count)]
    results = run_all(settings, python1, python2)
    found = compare(settings, results)
    for dtype in ("float16", "float32", "float64"):
        for run in results:
            some = [
                f
                for f in found
                if f[2] == run and settings[f[1]]["dtype"] == dtype
            ]
            if some:
                worst, i, _ = max(some)
                print(
                    f"{dtype}, MXNet {run}: {len(some)} settings, worst "
                    f"{worst:.3g} of what is allowed (setting {i})"
                )
    return all(worst <= 1 for worst, _, _ in found)


def record_sample(count, python1, python2):
    """Writes the sample of settings that the ordinary tests use."""
    settings = [mxnet_settings.random_setting(seed) for seed in range(count)]
    for run, results in run_all(settings, python1, python2).items():
        np.savez_compressed(
            DATA / f"mxnet_settings_{run}.npz",
            settings=json.dumps(settings),
            **results,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", required=True)
    parser.add_argument("--settings", type=int, default=1000)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    pythons = [interpreter(arguments.environments, n) for n in ENVIRONMENTS]
    if arguments.record:
        record_sample(48, *pythons)
    sys.exit(not verify_settings(arguments.settings, *pythons))


if __name__ == "__main__":
    main()
