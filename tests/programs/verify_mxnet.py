"""Compares `optax_ftml.mxnet` with live MXNet, in full.

    python -m tests.programs.verify_mxnet --environments DIRECTORY

needs a directory with two virtual environments, "mxnet1" with MXNet 1.9.1 and
"mxnet2" with MXNet 2.0.0b1, or makes them there if it finds python3.10 and
python3.8. It prints a line for each comparison and fails if one does. With
--record it also writes the sample that the ordinary tests use.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from optax_ftml import mxnet
from tests.mxnet import test_guide
from tests.mxnet import test_state
from tests.programs import mxnet_network
from tests.programs import mxnet_runs
from tests.programs import mxnet_settings

DATA = pathlib.Path(__file__).parents[1] / "data"
FILES = DATA / "mxnet_files"
SAMPLED_UPDATES = sorted(
    {*range(1, 10), *(int(1.4**i) for i in range(28)), *range(700, 10_001, 700)}
    | {10_000}
)
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


def verify_schedulers(count, python1, python2):
    """Compares random schedulers at updates 1 to 10,000."""
    settings = [mxnet_settings.random_schedule(seed) for seed in range(count)]
    worst = 0.0
    for python in (python1, python2):
        for i, values in mxnet_runs.run_in(python, settings).items():
            ours = mxnet_settings.learning_rates(settings[int(i.split("/")[0])])
            # Learning rates below 1e-9 move nothing.
            error = np.abs(ours - values) / (values + 1e-9)
            worst = max(worst, np.max(error))
    print(f"schedulers: {count} settings, worst {worst:.3g} relative")
    return worst <= 1e-6


def verify_networks(python1, python2):
    """Goes on in MXNet from files of ours."""
    good = True
    for version, python in ((1, python1), (2, python2)):
        for kind in ("plain", "multi_precision"):
            with tempfile.TemporaryDirectory() as directory:
                params, states = test_state.ours_at_100(version, kind)
                paths = [
                    pathlib.Path(directory, name)
                    for name in ("net.params", "net.states", "result.npz")
                ]
                mxnet.save_params(paths[0], params)
                mxnet.save_states(paths[1], states)
                script = pathlib.Path(mxnet_network.__file__)
                subprocess.run(
                    [python, script, "resume", kind, *paths], check=True
                )
                with np.load(paths[2]) as result:
                    ours = dict(result)
            expected = mxnet.load_params(FILES / f"{version}_{kind}_200.params")
            worst = max(
                np.max(np.abs(ours[name].astype(float) - expected[name]))
                / np.max(np.abs(expected[name]))
                for name in expected
            )
            print(
                f"network, MXNet {version}.x, {kind}: 100 steps here and 100 "
                f"there end {worst:.3g} from 200 there"
            )
            good &= worst <= (2e-5 if kind == "plain" else 2e-3)
    return good


def verify_guide(python2):
    """Runs the migration guide's scripts, one after the other."""
    of_mxnet, of_jax, transposed = test_guide.guide_scripts()
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.chdir(directory),
    ):
        subprocess.run([python2, "-c", of_mxnet], check=True)
        names: dict = {}
        exec(of_jax, names)
        exec(transposed, names)
        updates = mxnet.load_states("net.states").num_update
    print(f"guide: {updates} updates")
    return updates == 200


def record_sample(count, python1, python2):
    """Writes the sample of settings that the ordinary tests use."""
    settings = [mxnet_settings.random_setting(seed) for seed in range(count)]
    for run, results in run_all(settings, python1, python2).items():
        np.savez_compressed(
            DATA / f"mxnet_settings_{run}.npz",
            settings=json.dumps(settings),
            **results,
        )
    schedules = [
        {**mxnet_settings.random_schedule(seed), "record": SAMPLED_UPDATES}
        for seed in range(200)
    ]
    np.savez_compressed(
        DATA / "mxnet_schedulers.npz",
        settings=json.dumps(schedules),
        **mxnet_runs.run_in(python1, schedules),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", required=True)
    parser.add_argument("--settings", type=int, default=1000)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    pythons = [
        interpreter(arguments.environments, n).absolute() for n in ENVIRONMENTS
    ]
    if arguments.record:
        record_sample(48, *pythons)
    good = [
        verify_schedulers(200, *pythons),
        verify_networks(*pythons),
        verify_guide(pythons[1]),
        verify_settings(arguments.settings, *pythons),
    ]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
