"""The benchmark of devices runs, at a small size on a CPU."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "accelerator.py"


def accelerator(*args):
    process = subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_says_what_it_needs_where_there_is_no_device(tmp_path):
    assert "no GPU or TPU here" in accelerator("--output", str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_measures_every_optimizer_and_prox(tmp_path):
    accelerator(
        *("--allow-cpu", "--small", "--rounds", "2"),
        *("--output", str(tmp_path)),
    )
    (file,) = tmp_path.iterdir()
    rows = re.findall(r"^\| (.+?) \| ([\d.e-]+) \|", file.read_text(), re.M)
    names = [name for name, _ in rows]
    assert all(float(milliseconds) > 0 for _, milliseconds in rows)
    # Alone and in the chain, in float32 and in bfloat16.
    assert names.count("ftml") == names.count("sgd") == 4
    assert names.count("ftml, v and parameters at random") == 2
    assert {"box", "simplex", "group_lasso", "in_metric"} <= set(names)
