"""Runs FTML in MXNet, on settings and random gradients that both sides share.

This file needs NumPy alone to be imported, and MXNet 1.9.1 or 2.0.0b1 (and so
Python 3.8 to 3.10) to be run:

    python3.10 tests/programs/mxnet_runs.py SETTINGS.json RESULTS.npz

A setting is a dict with the keys

    options    arguments of mxnet.optimizer.FTML, without the scheduler
    scheduler  None, or the name of an MXNet scheduler and its arguments
    lr_mult, wd_mult   factors by parameter
    order      "1.x" or "2.x", whose MXNet it is for; both without it
    params     shapes by parameter
    dtype      of the parameters
    seed, grad_scale   of the parameters' start and of the gradients
    record     the numbers of the updates to record, the last one the last

and the results have an array "<number of the setting>/<parameter>", in which
the recorded weights are stacked. Without "params" and what comes after, a
setting is one of a scheduler, whose learning rates are recorded as the
parameter "learning_rate".
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np

# The version of MXNet of each run, and its options.
RUNS = {
    "1.9.1": ("1.x", {}),
    "fused": ("2.x", {"use_fused_step": True}),
    "step": ("2.x", {"use_fused_step": False}),
}


def inputs(setting):
    """Returns a setting's first weights, and its gradients for every update."""
    # The legacy generator's stream is the same in every version of NumPy.
    random = np.random.RandomState(setting["seed"])

    draw, dtype = random.standard_normal, setting["dtype"]
    shapes = setting["params"]

    def normal(scale):
        return {n: np.array(scale * draw(shapes[n]), dtype) for n in shapes}

    updates = setting["record"][-1]
    return normal(1.0), [normal(setting["grad_scale"]) for _ in range(updates)]


def run(mx, setting):
    """Returns the recorded weights or learning rates, by parameter."""
    # MXNet 1.x has another default learning rate.
    options = {"learning_rate": 0.0025, **setting["options"]}
    if setting["scheduler"]:
        name, arguments = setting["scheduler"]
        options["lr_scheduler"] = getattr(mx.lr_scheduler, name)(**arguments)
    record = np.array(setting["record"]) - 1
    if "params" not in setting:
        # The optimizer sets the scheduler's base.
        scheduler = mx.optimizer.FTML(**options).lr_scheduler
        rates = [scheduler(n + 1) for n in range(setting["record"][-1])]
        return {"learning_rate": np.array(rates)[record]}
    params, grads = inputs(setting)
    names = dict(enumerate(params))
    optimizer = mx.optimizer.FTML(param_idx2name=names, **options)
    optimizer.set_lr_mult(setting["lr_mult"])
    # MXNet 1.x leaves out of weight decay what is not called "..._weight".
    optimizer.set_wd_mult({**dict.fromkeys(params, 1.0), **setting["wd_mult"]})
    updater = mx.optimizer.get_updater(optimizer)
    weights = {n: mx.nd.array(x, dtype=x.dtype) for n, x in params.items()}
    history = {name: [] for name in params}
    for grad in grads:
        for i, name in names.items():
            g = mx.nd.array(grad[name], dtype=setting["dtype"])
            updater(i, g, weights[name])
            history[name].append(weights[name].asnumpy())
    return {name: np.stack(history[name])[record] for name in params}


def run_in(interpreter, settings):
    """Returns the results of running this file by another interpreter.

    Args:
        interpreter: One with MXNet.
        settings: The settings by number.
    """
    with tempfile.TemporaryDirectory() as directory:
        given = pathlib.Path(directory, "settings.json")
        given.write_text(json.dumps(settings))
        results = pathlib.Path(directory, "results.npz")
        subprocess.run([interpreter, __file__, given, results], check=True)
        with np.load(results) as arrays:
            return dict(arrays)


def run_all(settings, pythons):
    """Returns the results of each run.

    Args:
        settings: The settings.
        pythons: Interpreters with MXNet 1.9.1 and with MXNet 2.0.0b1.
    """
    results = {}
    for name, (order, options) in RUNS.items():
        given = {
            i: {**setting, "options": {**setting["options"], **options}}
            for i, setting in enumerate(settings)
            if setting.get("order", order) == order
        }
        results[name] = run_in(pythons[order == "2.x"], given)
    return results


def main(settings_path, results_path):
    import mxnet as mx

    warnings.simplefilter("ignore")
    settings = json.loads(pathlib.Path(settings_path).read_text())
    results = {
        f"{i}/{name}": values
        for i, setting in settings.items()
        for name, values in run(mx, setting).items()
    }
    np.savez_compressed(results_path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
