"""Slices sharded over eight devices: the same points, and little is sent."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.programs import sharded_prox

ONE_UNKNOWN = [*sharded_prox.SLICED, *sharded_prox.FIXED]
ALL = [*ONE_UNKNOWN, *sharded_prox.ORDERED]


@pytest.fixture(scope="module")
def results():
    output = subprocess.run(
        [sys.executable, "-m", "tests.programs.sharded_prox"],
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


WAYS = [(name, way) for name in ALL for way in ("along", "whole")]
TREES = [(f"{name} of a tree", "tree") for name in sharded_prox.TREES]


@pytest.mark.parametrize(("name", "way"), WAYS + TREES)
def test_the_same_as_on_one_device(results, name, way):
    assert results[name][way]["error"] < 2e-6


@pytest.mark.parametrize(
    ("name", "way"), [(name, "along") for name in ONE_UNKNOWN] + TREES
)
def test_with_one_unknown_sums_of_slices_are_all_that_is_sent(
    results, name, way
):
    # Where a CPU makes several sums in one reduction, the devices gather those
    # of each device instead of adding them up on the way.
    sent = results[name][way]["collectives"]
    kinds = {"all-reduce"}
    if name.removesuffix(" of a tree") in sharded_prox.JOINT:
        kinds.add("all-gather")
    slices = sharded_prox.ROWS if way == "along" else 1
    assert {kind for kind, _ in sent} <= kinds
    assert all(nbytes <= slices * 8 * 4 for _, nbytes in sent)


@pytest.mark.parametrize("name", ALL)
def test_whole_slices_send_nothing(results, name):
    assert results[name]["whole"]["collectives"] == []
