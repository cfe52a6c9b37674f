"""Compares `optax_ftml.mxnet` with live MXNet, in full.

    python -m tests.programs.verify_mxnet --environments DIRECTORY

needs a directory with two virtual environments, "mxnet1" with MXNet 1.9.1 and
"mxnet2" with MXNet 2.0.0b1, or makes them there if it finds python3.10 and
python3.8. It prints a line for each comparison and fails if one does.
"""

import argparse
import collections
import contextlib
import itertools
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from optax_ftml import mxnet
from tests.mxnet import test_guide, test_schedulers, test_state
from tests.programs import mxnet_network, mxnet_runs, mxnet_settings

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
        for run, error in mxnet_settings.errors(i, setting, results):
            found[setting["dtype"], run].append((error, setting["seed"]))
    for (dtype, run), errors in sorted(found.items()):
        worst, seed = max(errors)
        print(
            f"{dtype}, MXNet {run}: {len(errors)} settings, worst "
            f"{worst:.3g} of what is allowed (seed {seed})"
        )
    return all(max(errors)[0] <= 1 for errors in found.values())


def verify_schedulers(pythons):
    """Compares the recorded schedulers at updates 1 to 10,000."""
    settings = test_schedulers.SETTINGS
    settings = [{**s, "record": list(range(1, 10_001))} for s in settings]
    ours = list(map(mxnet_settings.learning_rates, settings))
    worst = 0.0
    for python in pythons:
        theirs = mxnet_runs.run_in(python, dict(enumerate(settings)))
        for i, rates in enumerate(ours):
            expected = theirs[f"{i}/learning_rate"]
            # Learning rates below 1e-9 move nothing.
            error = np.abs(rates - expected) / (expected + 1e-9)
            worst = max(worst, np.max(error))
    print(f"schedulers: {len(ours)} settings, worst {worst:.3g} relative")
    # Of its logarithm in float32: a factor's power down to stop_factor_lr.
    return worst <= 2e-6


def verify_networks(pythons):
    """Goes on in MXNet from files of ours."""
    good = True
    kinds = "plain", "multi_precision"
    for version, kind in itertools.product((1, 2), kinds):
        params, states = test_state.ours_at_100(version, kind)
        with tempfile.TemporaryDirectory() as directory:
            mxnet.save_params(f"{directory}/net.params", params)
            mxnet.save_states(f"{directory}/net.states", states)
            command = [pythons[version - 1], mxnet_network.__file__, "resume"]
            subprocess.run([*command, kind, f"{directory}/net"], check=True)
            with np.load(f"{directory}/net.npz") as result:
                ours = dict(result)
        path = test_state.FILES / f"{version}_{kind}_200.params"
        expected = mxnet.load_params(path)
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
        verify_schedulers(pythons),
        verify_settings(range(*arguments.seeds), pythons),
    ]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
