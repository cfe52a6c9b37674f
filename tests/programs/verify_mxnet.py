"""Compares `optax_ftml.mxnet` with live MXNet, in full.

    python -m tests.programs.verify_mxnet --environments DIRECTORY

needs a directory with two virtual environments, "mxnet1" with MXNet 1.9.1 and
"mxnet2" with MXNet 2.0.0b1, or makes them there if it finds python3.10 and
python3.8. It prints a line for each comparison and fails if one does.
"""

import argparse
import collections
import contextlib
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

ENVIRONMENTS = {
    "mxnet1": ("python3.10", ["mxnet==1.9.1", "numpy==1.23.5"]),
    "mxnet2": ("python3.8", ["mxnet==2.0.0b1", "numpy==1.23.5"]),
}


def interpreter(directory, name):
    """Returns an environment's Python, in an environment made if need be."""
    path = pathlib.Path(directory, name, "bin", "python").absolute()
    if not path.exists():
        python, packages = ENVIRONMENTS[name]
        subprocess.run([python, "-m", "venv", path.parents[1]], check=True)
        subprocess.run([path, "-m", "pip", "install", *packages], check=True)
    return path


def verify_settings(seeds, pythons):
    """Compares random settings."""
    settings = [mxnet_settings.random_setting(seed) for seed in seeds]
    results = mxnet_runs.run_all(settings, pythons)
    found = collections.defaultdict(list)
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
            found[setting["dtype"], run].append((worst, setting["seed"]))
    for (dtype, run), excesses in sorted(found.items()):
        worst, seed = max(excesses)
        print(
            f"{dtype}, MXNet {run}: {len(excesses)} settings, worst "
            f"{worst:.3g} of what is allowed (seed {seed})"
        )
    return all(max(excesses)[0] <= 1 for excesses in found.values())


def verify_schedulers(count, pythons):
    """Compares random schedulers at updates 1 to 10,000."""
    settings = [mxnet_settings.random_schedule(seed) for seed in range(count)]
    worst = 0.0
    for python in pythons:
        theirs = mxnet_runs.run_in(python, settings)
        for i, setting in enumerate(settings):
            expected = theirs[f"{i}/learning_rate"]
            error = np.abs(mxnet_settings.learning_rates(setting) - expected)
            # Learning rates below 1e-9 move nothing.
            worst = max(worst, np.max(error / (expected + 1e-9)))
    print(f"schedulers: {count} settings, worst {worst:.3g} relative")
    # Of its logarithm in float32: a factor's power down to stop_factor_lr.
    return worst <= 2e-6


def verify_networks(pythons):
    """Goes on in MXNet from files of ours."""
    good = True
    for start in (
        "1_plain",
        "1_multi_precision",
        "2_plain",
        "2_multi_precision",
    ):
        version, kind = start.split("_", 1)
        params, states = test_state.ours_at_100(int(version), kind)
        with tempfile.TemporaryDirectory() as directory:
            mxnet.save_params(f"{directory}/net.params", params)
            mxnet.save_states(f"{directory}/net.states", states)
            script = pathlib.Path(mxnet_network.__file__)
            command = [pythons[version == "2"], script, "resume", kind]
            subprocess.run([*command, f"{directory}/net"], check=True)
            with np.load(f"{directory}/net.npz") as result:
                ours = dict(result)
        expected = mxnet.load_params(test_state.FILES / f"{start}_200.params")
        worst = max(
            np.max(np.abs(ours[name].astype(float) - x)) / np.max(np.abs(x))
            for name, x in expected.items()
        )
        print(
            f"network, MXNet {version}.x, {kind}: 100 steps here and 100 "
            f"there end {worst:.3g} from 200 there"
        )
        good &= worst <= (2e-5 if kind == "plain" else 2e-3)
    return good


def verify_guide(python2):
    """Runs the migration guide's scripts, one after the other."""
    of_mxnet, *of_jax = test_guide.guide_scripts()
    names: dict = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.chdir(directory),
    ):
        subprocess.run([python2, "-c", of_mxnet], check=True)
        for script in of_jax:
            exec(script, names)
        updates = mxnet.load_states("net.states").num_update
    print(f"guide: {updates} updates")
    return updates == 200


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 1000))
    arguments = parser.parse_args()
    pythons = [interpreter(arguments.environments, n) for n in ENVIRONMENTS]
    good = [
        verify_networks(pythons),
        verify_guide(pythons[1]),
        verify_schedulers(200, pythons),
        verify_settings(range(*arguments.seeds), pythons),
    ]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
