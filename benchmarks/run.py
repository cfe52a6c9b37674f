"""Measures optimizer steps on this machine's CPU against their peers.

    python benchmarks/run.py --mxnet-python PATH --torch-python PATH

writes results/results.json, results.md, steps.png and growth.png. The
libraries take turns, one step each a round, in a new order every round. Each
is in a process of its own, and once more in one that keeps the memory it frees.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

from parts import pictures, tables, turns

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
_MALLOC = "GLIBC_TUNABLES=glibc.malloc."
_KEPT = (
    "mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.trim_threshold=8589934592"
)
# As it is, and with freed memory kept for the next step, in huge pages.
ENVIRONMENTS = ["", f"{_MALLOC}hugetlb=1:glibc.malloc.{_KEPT}"]
ALLOCATORS = [
    *ENVIRONMENTS,
    f"{_MALLOC}hugetlb=1",
    f"{_MALLOC}{_KEPT}",
    "XLA_FLAGS=--xla_backend_extra_options="
    "xla_cpu_use_multi_output_fusion=true",
]


def measure_steps(args, group):
    """Returns the seconds of a step by environment and optimizer."""
    workers = []
    for environment in ENVIRONMENTS:
        workers.append((environment, sys.executable, "jax"))
        if args.torch_python:
            workers.append((environment, args.torch_python, "torch"))
    if args.mxnet_python and group == "alone":
        workers.append(("", args.mxnet_python, "mxnet"))
    measured = turns.measure(
        [turns.Worker(*worker, group) for worker in workers],
        args.rounds,
        args.warmup,
    )
    seconds = {environment: {} for environment in ENVIRONMENTS}
    for (environment, name), (median, _) in measured.items():
        seconds[environment][name] = median
    return seconds


def measure_allocators(args):
    """Returns the seconds and page faults of a step by environment."""
    results = {}
    for group in ("chain", "scaled"):
        measured = turns.measure(
            [
                turns.Worker(each, sys.executable, "jax", group, "ftml")
                for each in [*ALLOCATORS, *args.settings]
            ],
            args.rounds,
            args.warmup,
        )
        results[group] = {key[0]: values for key, values in measured.items()}
    return results


def machine():
    """Returns the machine and the versions in words."""
    with open("/proc/cpuinfo") as file:
        lines = [line for line in file if line.startswith("model name")]
    model = lines[0].split(":")[1].strip() if lines else platform.processor()
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("jax", "jaxlib", "optax")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}, {versions}"
    )


def _json(script, *args):
    output = subprocess.run(
        [sys.executable, str(HERE / "parts" / script), *map(str, args)],
        check=True,
        capture_output=True,
        text=True,
        env=turns.environment(),
    )
    return json.loads(output.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mxnet-python", help="an interpreter with MXNet")
    parser.add_argument("--torch-python", help="an interpreter with PyTorch")
    parser.add_argument(
        "--settings",
        nargs="*",
        default=[],
        help="other environments for the part allocators: 'LD_PRELOAD=PATH'",
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parts = [*tables.GROUPS, "allocators", "compile", "growth"]
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=parts,
        default=parts,
        help="what to measure; the rest stays as it was last measured",
    )
    parser.add_argument("--largest", type=float, default=2e8)
    parser.add_argument(
        "--leaves", nargs="+", type=int, default=[10, 100, 1000]
    )
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results |= {"machine": machine(), "rounds": args.rounds}
    for part in args.parts:
        if part == "compile":
            results[part] = _json("compile_time.py", args.leaves, 3)
        elif part == "growth":
            sizes = [1e3, 1e4, 1e5, 1e6, 1e7, 5e7, 1e8, 2e8]
            sizes = [size for size in sizes if size <= args.largest]
            seconds = _json("growth.py", sizes, args.rounds)
            results[part] = {"sizes": sizes, "seconds": seconds}
        elif part == "allocators":
            results[part] = measure_allocators(args)
        else:
            results[part] = measure_steps(args, part)
        file.write_text(json.dumps(results, indent=1) + "\n")
    if {"allocators", "compile", "growth"} <= set(results):
        text = tables.steps(results)
        (args.output / "results.md").write_text(text)
        print(text)
        for name in ("steps", "growth"):
            getattr(pictures, name)(results).savefig(
                args.output / f"{name}.png", dpi=150
            )


if __name__ == "__main__":
    main()
