"""Runs FTML in MXNet, on settings and random gradients that both sides share.

This file needs NumPy alone to be imported, and MXNet 1.9.1 or 2.0.0b1 (and so
Python 3.8 to 3.10) to be run:

    python3.10 tests/programs/mxnet_runs.py SETTINGS.json RESULTS.npz

A setting is a dict with the keys

    options    arguments of mxnet.optimizer.FTML, without the scheduler
    scheduler  None, or the name of an MXNet scheduler and its arguments
    lr_mult, wd_mult   factors by parameter
    order      "1.x" or "2.x", whose MXNet it is for
    params     shapes by parameter
    dtype      of the parameters
    seed, grad_scale   of the parameters' start and of the gradients
    record     the numbers of the updates to record, the last one the last

and the results have an array "<number of the setting>/<parameter>", in which
the recorded weights are stacked. Without "params" and what comes after, a
setting is one of a scheduler, whose learning rates are recorded as the
parameter "learning_rate". A setting may be null, to be left out.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np


def inputs(setting):
    """Returns a setting's first weights, and its gradients for every update."""
    # The legacy generator's stream is the same in every version of NumPy.
    random = np.random.RandomState(setting["seed"])
    params = {
        name: random.standard_normal(shape).astype(setting["dtype"])
        for name, shape in setting["params"].items()
    }
    grads = [
        {
            name: (
                setting["grad_scale"] * random.standard_normal(shape)
            ).astype(setting["dtype"])
            for name, shape in setting["params"].items()
        }
        for _ in range(setting["record"][-1])
    ]
    return params, grads


def run(mx, setting):
    """Returns the recorded weights, by parameter."""
    options = dict(setting["options"])
    if setting["scheduler"]:
        name, arguments = setting["scheduler"]
        options["lr_scheduler"] = getattr(mx.lr_scheduler, name)(**arguments)
    if "params" not in setting:
        return {"learning_rate": learning_rates(mx, setting, options)}
    params, grads = inputs(setting)
    names = list(params)
    optimizer = mx.optimizer.FTML(
        param_idx2name=dict(enumerate(names)), **options
    )
    optimizer.set_lr_mult(setting["lr_mult"])
    # MXNet 1.x leaves out of weight decay what is not called "..._weight".
    optimizer.set_wd_mult({**dict.fromkeys(names, 1.0), **setting["wd_mult"]})
    updater = mx.optimizer.get_updater(optimizer)
    weights = [
        mx.nd.array(params[name], dtype=setting["dtype"]) for name in names
    ]
    recorded = {name: [] for name in names}
    for step, grad in enumerate(grads, start=1):
        for i, name in enumerate(names):
            updater(
                i, mx.nd.array(grad[name], dtype=setting["dtype"]), weights[i]
            )
            if step in setting["record"]:
                recorded[name].append(weights[i].asnumpy())
    return {name: np.stack(values) for name, values in recorded.items()}


def learning_rates(mx, setting, options):
    """Returns the recorded learning rates; the optimizer sets the base."""
    scheduler = mx.optimizer.FTML(**options).lr_scheduler
    updates = range(1, setting["record"][-1] + 1)
    values = [scheduler(update) for update in updates]
    return np.array(values)[np.array(setting["record"]) - 1]


def run_in(interpreter, settings):
    """Returns the results of running this file by another interpreter."""
    with tempfile.TemporaryDirectory() as directory:
        given = pathlib.Path(directory, "settings.json")
        given.write_text(json.dumps(settings))
        results = pathlib.Path(directory, "results.npz")
        subprocess.run([interpreter, __file__, given, results], check=True)
        with np.load(results) as arrays:
            return dict(arrays)


def main(settings_path, results_path):
    import mxnet as mx

    warnings.simplefilter("ignore")
    with open(settings_path) as file:
        settings = json.load(file)
    np.savez_compressed(
        results_path,
        **{
            f"{i}/{name}": values
            for i, setting in enumerate(settings)
            if setting
            for name, values in run(mx, setting).items()
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
