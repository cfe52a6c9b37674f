"""The benchmark of devices runs, at a small size on a CPU."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "accelerator.py"


def accelerator(*args):
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, SCRIPT, *args]
    return subprocess.check_output(command, env=env, text=True)


@pytest.mark.slow
def test_measures_every_optimizer_and_prox_where_there_is_a_device(tmp_path):
    assert "no GPU or TPU here" in accelerator("--output", tmp_path)
    assert not list(tmp_path.iterdir())
    small = ("--allow-cpu", "--small", "--rounds", "2")
    accelerator(*small, "--output", tmp_path)
    (file,) = tmp_path.iterdir()
    rows = re.findall(r"^\| (.+?) \| ([\d.e-]+) \|", file.read_text(), re.M)
    names = [name for name, _ in rows]
    assert all(float(milliseconds) > 0 for _, milliseconds in rows)
    # Alone and in the chain, in float32 and in bfloat16.
    assert names.count("ftml") == names.count("sgd") == 4
    assert names.count("ftml, v and parameters at random") == 2
    assert {"box", "simplex", "group_lasso", "in_metric"} <= set(names)
