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

import chex
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


def assert_equal(params, single):
    assert params
    expected = {form: single["params"][form] for form in params}
    chex.assert_trees_all_close(params, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("way", ["auto", "explicit", "shard_map"])
def test_sharded_training_equals_training_on_one_device(results, way):
    assert_equal(results[way]["params"], results["single"])


@pytest.mark.parametrize("way", ["auto", "explicit"])
def test_state_is_sharded_as_the_parameters_and_compiles_once(results, way):
    assert results[way]["state_is_sharded_as_params"]
    assert results[way]["compilations"] == 1


def test_devices_communicate_the_norm_alone(results):
    """That of optax.clip_by_global_norm, in one of the five forms."""
    assert results["collectives"] == [["all-reduce", 4]]


def test_two_processes_equal_one(results):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = [start("two-processes", port, index) for index in range(2)]
    for process in processes:
        assert_equal(finish(process), results["single"])
