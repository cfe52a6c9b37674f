"""Records the trajectories of FTML in real MXNet that the tests compare with.

    python -m tests.programs.record_mxnet --mxnet1 python3.10 --mxnet2 python3.8

writes mxnet_trajectories_*.npz beside this file, given an interpreter with
MXNet 1.9.1 and one with MXNet 2.0.0b1 (see tests/programs/mxnet_runs.py).
"""

import argparse
import json
import pathlib

import numpy as np

from tests.programs import mxnet_runs

DATA = pathlib.Path(__file__).parents[1] / "data"

SHAPES = {"weight": [3, 4], "bias": [7], "kernel": [2, 3, 1, 2], "scale": [1]}
RECORD = [1, 2, 3, 5, 10, *range(20, 201, 10)]

# The options of each, and the scale of its gradients.
TRAJECTORIES = [
    ({}, 1.0),
    ({"learning_rate": 0.1}, 1.0),
    ({"learning_rate": 1e-4}, 1.0),
    ({"learning_rate": 0.01, "beta1": 0.0}, 1.0),
    ({"learning_rate": 0.01, "beta1": 0.9}, 1.0),
    ({"learning_rate": 0.01, "beta2": 0.9}, 1.0),
    ({"learning_rate": 0.01, "beta2": 0.9999}, 1.0),
    ({"learning_rate": 0.01, "epsilon": 0.1}, 1.0),
    ({"learning_rate": 0.01, "epsilon": 1e-3}, 1e-3),
    ({"learning_rate": 0.01, "wd": 0.1}, 1.0),
    ({"learning_rate": 0.01, "clip_gradient": 0.5}, 1.0),
    ({"learning_rate": 0.01, "rescale_grad": 1 / 128}, 100.0),
    ({"learning_rate": 0.02, "wd": 0.5, "clip_gradient": 0.5}, 1.0),
    (
        {
            "learning_rate": 0.005,
            "beta1": 0.3,
            "beta2": 0.99,
            "epsilon": 1e-6,
            "wd": 0.01,
            "clip_gradient": 0.2,
            "rescale_grad": 0.25,
        },
        1.0,
    ),
]


def settings():
    """Returns them as tests/programs/mxnet_runs.py wants them."""
    return [
        {
            "options": options,
            "scheduler": None,
            "lr_mult": {},
            "wd_mult": {},
            "params": SHAPES,
            "dtype": "float32",
            "seed": seed,
            "grad_scale": grad_scale,
            "record": RECORD,
        }
        for seed, (options, grad_scale) in enumerate(TRAJECTORIES)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mxnet1", required=True, help="has MXNet 1.9.1")
    parser.add_argument("--mxnet2", required=True, help="has MXNet 2.0.0b1")
    arguments = parser.parse_args()
    for name, interpreter, options in (
        ("1.9.1", arguments.mxnet1, {"learning_rate": 0.0025}),
        ("2.0.0b1_fused", arguments.mxnet2, {"use_fused_step": True}),
        ("2.0.0b1_step", arguments.mxnet2, {"use_fused_step": False}),
    ):
        # MXNet 1.x has another default learning rate.
        given = [
            {**setting, "options": {**options, **setting["options"]}}
            for setting in settings()
        ]
        np.savez_compressed(
            DATA / f"mxnet_trajectories_{name}.npz",
            settings=json.dumps(settings()),
            **mxnet_runs.run_in(interpreter, given),
        )


if __name__ == "__main__":
    main()
