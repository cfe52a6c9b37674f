"""Sharded training on 8 devices, and in two processes, equals training on one.

In processes of their own, because the number of devices is fixed when JAX
starts.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parent / "programs" / "sharded_training.py"


def start(*args):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )


def finish(process):
    output, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def results():
    return finish(start("one-process"))


FORMS = ["delta", "leader", "adam", "low", "chain"]
WAYS = [("auto", form) for form in FORMS]
WAYS += [("explicit", "leader"), ("explicit", "chain")]


@pytest.mark.parametrize(("way", "form"), [*WAYS, ("shard_map", "leader")])
def test_sharded_training_equals_training_on_one_device(results, way, form):
    for sharded, single in zip(
        results[way][form]["params"],
        results["single"][form]["params"],
        strict=True,
    ):
        np.testing.assert_allclose(sharded, single, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(("way", "form"), WAYS)
def test_state_is_sharded_as_the_parameters_and_compiles_once(
    results, way, form
):
    shardings = results[way][form]
    assert shardings["initial"] == shardings["expected"]
    assert shardings["final"] == shardings["expected"]
    assert results[way][form]["compilations"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_devices_communicate_the_norm_alone(results, form):
    collectives = [["all-reduce", 4]] if form == "chain" else []
    assert results["report"][form] == {
        "collectives": collectives,
        "parameters": 256,
        "device_parameters": 32,
    }


def test_two_processes_equal_one(results):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = [start("two-processes", port, index) for index in range(2)]
    both = [finish(process) for process in processes]
    for result in both:
        for form, leaves in result.items():
            for ours, theirs in zip(
                leaves, results["auto"][form]["params"], strict=True
            ):
                np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-7)
