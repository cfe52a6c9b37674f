"""Slices sharded over eight devices: the same points, and little is sent."""

import json
import pathlib
import subprocess
import sys

from tests.programs import sharded_prox


def test_sharded_slices_are_the_same_and_only_their_sums_are_sent():
    # One test, so that one worker runs the program.
    output = subprocess.check_output(
        [sys.executable, "-m", "tests.programs.sharded_prox"],
        cwd=pathlib.Path(__file__).parents[2],
        text=True,
    )
    results = json.loads(output.splitlines()[-1])
    assert results.keys() > sharded_prox.SLICED.keys()
    for name, ways in results.items():
        base = name.removesuffix(" of a tree")
        for way, result in ways.items():
            where = f"{name}, sharded {way}: {result}"
            assert result["error"] < 2e-6, where
            kinds = {"all-reduce"}
            # Where a CPU makes several sums in one reduction, the devices
            # gather those of each device instead of adding them up on the way.
            if base in sharded_prox.JOINT:
                kinds.add("all-gather")
            slices = sharded_prox.ROWS if way == "along" else 1
            if way == "whole":
                assert result["collectives"] == [], where
            elif base not in sharded_prox.ORDERED:
                sent = result["collectives"]
                assert {kind for kind, _ in sent} <= kinds, where
                assert all(n <= slices * 8 * 4 for _, n in sent), where
