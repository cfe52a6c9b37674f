"""Measures optimizer steps on this machine's CPU against their peers.

    python benchmarks/run.py --mxnet-python PATH --torch-python PATH

writes results/results.json, results.md and results.png. The libraries take
turns, one step each a round, in a new order every round.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys

from matplotlib import figure
from parts import trees

HERE = pathlib.Path(__file__).parent
FUSE = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
PARTS = [*trees.TREES, "compile", "growth"]
GROUPS = {
    "alone": "Alone",
    "chain": "After clip_by_global_norm and add_decayed_weights",
    "scaled": "The same, clipped by projection_l2_ball",
}
# Numbers of 4 bytes a parameter that a step can't do without: gradients and
# parameters in, parameters out, state in and out.
LEAST = {"ftml": 5, "ftml, box": 7, "adam": 7, "adamw": 7, "rmsprop": 5}
LEAST |= {"sgd": 3, "copy": 2}


class Worker:
    """A library in its process."""

    def __init__(self, label, python, library, tree, group, flags=""):
        self.label = label
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py"), library, tree, group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(flags),
        )
        names = self.process.stdout.readline()
        if not names:
            raise RuntimeError(f"{python} can't run {library}.")
        self.names = names.strip().split(";")

    def step(self, name):
        print(name, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def _environment(flags=""):
    root = str(HERE.parent)
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(
            [root, str(HERE), os.environ.get("PYTHONPATH", "")]
        ),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    }


def measure(args, tree, group):
    """Returns the median seconds of a step by library and optimizer."""
    with contextlib.ExitStack() as stack:
        workers = [
            Worker("", sys.executable, "jax", tree, group),
            Worker(" (flag)", sys.executable, "jax", tree, group, FUSE),
        ]
        if args.torch_python and group != "scaled":
            workers.append(Worker("", args.torch_python, "torch", tree, group))
        if args.mxnet_python and group == "alone":
            workers.append(Worker("", args.mxnet_python, "mxnet", tree, group))
        for worker in workers:
            stack.callback(worker.close)
        turns = [(worker, name) for worker in workers for name in worker.names]
        seconds = {name + worker.label: [] for worker, name in turns}
        for round_ in range(-args.warmup, args.rounds):
            random.Random(round_).shuffle(turns)
            for worker, name in turns:
                elapsed = worker.step(name)
                if round_ >= 0:
                    seconds[name + worker.label].append(elapsed)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _machine():
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
        env=_environment(),
    )
    return json.loads(output.stdout.splitlines()[-1])


def table(results):
    """Returns the results as Markdown."""
    lines = [
        f"{results['machine']}. Medians of {results['rounds']} rounds.",
        "(flag): with "
        f"`XLA_FLAGS={FUSE}`; *of copy* is the time in which a copy would move "
        "the bytes that the step can't do without.",
    ]
    for tree, groups in results["steps"].items():
        size = sum(math.prod(shape) for shape in trees.TREES[tree]())
        copy = groups["alone"]["copy"] / LEAST["copy"]
        for group, medians in groups.items():
            lines += ["", f"### {tree}. {GROUPS[group]}", ""]
            lines += ["| step | ms | to adam | of copy |", "|---|--:|--:|--:|"]
            for name, seconds in sorted(medians.items(), key=lambda x: x[1]):
                least = LEAST.get(name.removesuffix(" (flag)"), 0)
                least += (group != "alone") * (least > 0)
                share = f"{least * copy / seconds:.0%}" if least else ""
                lines.append(
                    f"| {name} | {1e3 * seconds:.3g} | "
                    f"{seconds / medians['adam']:.2f} | {share} |"
                )
        bandwidth = 8 * size / groups["alone"]["copy"] / 1e9
        lines += ["", f"Copy bandwidth: {bandwidth:.1f} GB/s."]
    lines += ["", "### Trace and compile", ""]
    counts = list(results["compile"]["adam"])
    lines += [
        f"| seconds for leaves: | {' | '.join(counts)} | to adam |",
        "|---|" + "--:|" * (len(counts) + 1),
    ]
    totals = {
        name: [statistics.median(map(sum, by[count])) for count in counts]
        for name, by in results["compile"].items()
    }
    for name, values in totals.items():
        base = totals["adam, chain" if name.endswith("chain") else "adam"]
        cells = " | ".join(f"{value:.3g}" for value in values)
        lines.append(f"| {name} | {cells} | {values[-1] / base[-1]:.2f} |")
    lines += ["", "### Growth", ""]
    sizes = results["growth"]["sizes"]
    lines.append(f"| ms | {' | '.join(f'{s:.0e}' for s in sizes)} |")
    lines.append("|---|" + "--:|" * len(sizes))
    for name, medians in results["growth"]["seconds"].items():
        cells = " | ".join(f"{1e3 * x:.3g}" for x in medians)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def plot(results):
    """Returns the plot: a panel of bars a tree, and the growth."""
    steps = results["steps"]
    canvas = figure.Figure(
        figsize=(4.2 * (len(steps) + 1), 7), layout="constrained"
    )
    panels = canvas.subplots(1, len(steps) + 1)
    for axes, (tree, groups) in zip(panels, steps.items(), strict=False):
        bars = {
            name + ("" if group == "alone" else f", {group}"): seconds
            for group, medians in groups.items()
            for name, seconds in medians.items()
        }
        names = sorted(bars, key=bars.get, reverse=True)
        axes.barh(
            names,
            [1e3 * bars[name] for name in names],
            color=["C0" if name.startswith("ftml") else "C7" for name in names],
        )
        axes.set(title=tree, xlabel="ms a step", xscale="log")
        axes.tick_params(axis="y", labelsize=6)
    for name, medians in results["growth"]["seconds"].items():
        panels[-1].loglog(
            results["growth"]["sizes"],
            [1e3 * x for x in medians],
            marker="o",
            label=name,
        )
    panels[-1].set(title="one leaf", xlabel="parameters", ylabel="ms a step")
    panels[-1].legend()
    return canvas


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mxnet-python", help="an interpreter with MXNet")
    parser.add_argument("--torch-python", help="an interpreter with PyTorch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="what to measure; the rest stays as it was last measured",
    )
    parser.add_argument("--largest", type=float, default=2e8)
    parser.add_argument(
        "--leaves", nargs="+", type=int, default=[10, 100, 1000]
    )
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "results")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "results.json"
    results = {"steps": {}}
    if file.exists():
        results = json.loads(file.read_text())
    results |= {"machine": _machine(), "rounds": args.rounds}
    for part in args.parts:
        if part == "compile":
            results[part] = _json("compile_time.py", args.leaves, 3)
        elif part == "growth":
            sizes = [1e3, 1e4, 1e5, 1e6, 1e7, 5e7, 1e8, 2e8]
            sizes = [size for size in sizes if size <= args.largest]
            seconds = _json("growth.py", sizes, args.rounds)
            results[part] = {"sizes": sizes, "seconds": seconds}
        else:
            results["steps"][part] = {
                group: measure(args, part, group) for group in GROUPS
            }
        file.write_text(json.dumps(results, indent=1) + "\n")
    if all(part in results | results["steps"] for part in PARTS):
        (args.output / "results.md").write_text(table(results))
        plot(results).savefig(args.output / "results.png", dpi=120)
        print(table(results))


if __name__ == "__main__":
    main()
