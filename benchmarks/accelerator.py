"""Measures optimizer steps on this machine's GPU or TPU.

    python benchmarks/accelerator.py

writes results/accelerator_DEVICE.md. A step is compiled, donated and warm; its
time is from its first kernel's start to its last one's end, on the device's own
clock, in a trace of `jax.profiler`, and the median over the rounds. Where a
prox repeats kernels until it has converged, the profile has more of them than
the report, which counts a loop's body once. Without a
device there is nothing to measure: --allow-cpu runs it all the same, for a test
of this program.
"""

import argparse
import concurrent.futures
import itertools
import pathlib
import re
import statistics
import tempfile
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import prox as prox_benchmark
import run
from parts import trees

import optax_ftml
from optax_ftml._report import _hlo, _models

RATE = 1e-3
PAUSE = 0.02  # Seconds between steps, to tell them apart in a profile.
# The name that fusion_report has for a kind of device, to compile without it.
TARGETS = {
    "A100": "a100",
    "H100": "h100",
    "TPU v5 lite": "tpu:v5e:2x2",
    "TPU v5": "tpu:v5p:2x2x1",
    "TPU v6": "tpu:v6e:2x2",
}
HEADER = (
    "| step | ms | to adam | of copy | kernels | by the report, here | by the "
    "report, without the device | peak memory, MB |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|"
)


class Group(NamedTuple):
    """Optimizers to compare, by name, and on what."""

    optimizers: dict[str, optax.GradientTransformation]
    shapes: list[tuple[int, ...]]
    dtype: Any


def optimizers(dtype):
    """Returns the optimizers to compare, by name."""
    box = optax_ftml.prox.box(-10.0, 10.0)
    peers = {
        "adam": optax.adam(RATE),
        "adamw": optax.adamw(RATE),
        "rmsprop": optax.rmsprop(RATE),
        "sgd": optax.sgd(RATE),
        "ftml": optax_ftml.ftml(RATE),
        "ftml, box": optax_ftml.ftml(RATE, prox=box),
    }
    if dtype == jnp.bfloat16:
        low = optax_ftml.ftml(RATE, accumulator_dtype=dtype)
        rounding = optax_ftml.stochastic_rounding()
        peers["ftml, v at random"] = low
        peers["ftml, v and parameters at random"] = optax.chain(low, rounding)
    return peers


def chained(optimizer):
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-4),
        optimizer,
    )


def step_seconds(run_once, rounds):
    """Returns the median seconds of a step, and its kernels, by the device."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(rounds):
                run_once()
                time.sleep(PAUSE)
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        events = device_events(jax.profiler.ProfileData.from_file(str(file)))
    gaps = [
        later[0] - sum(event) for event, later in itertools.pairwise(events)
    ]
    longest = sorted(range(len(gaps)), key=gaps.__getitem__)[-(rounds - 1) :]
    bounds = [0, *(index + 1 for index in sorted(longest)), len(events)]
    steps = [events[start:end] for start, end in itertools.pairwise(bounds)]
    nanoseconds = [max(map(sum, step)) - step[0][0] for step in steps]
    return (
        statistics.median(nanoseconds) / 1e9,
        round(statistics.median(map(len, steps))),
    )


def device_events(profile):
    """Returns start and duration of every kernel in ns, in their order."""
    planes = [
        plane
        for plane in profile.planes
        if re.match(r"/device:(GPU|TPU):0", plane.name)
    ]
    lines = [line for plane in planes for line in plane.lines]
    # A TPU's lines nest: steps, modules, and the operations, which are wanted.
    lines = [x for x in lines if x.name == "XLA Ops"] or lines
    events = [event for line in lines for event in line.events]
    if not planes:  # On a CPU the calls; not every profiler has its kernels.
        events = [
            event
            for plane in profile.planes
            for line in plane.lines
            for event in line.events
            if "ExecuteHelper" in event.name
        ]
    return sorted((event.start_ns, event.duration_ns) for event in events)


def compile_step(optimizer, shapes, dtype):
    """Compiles a donated step of parameters, state and gradients."""

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    state = jax.eval_shape(optimizer.init, params)
    step = jax.jit(step, donate_argnums=(0, 1))
    return step.lower(params, state, params).compile()


def warm_step(step, optimizer, shapes, dtype):
    """Returns a function that runs one step, on random numbers."""

    def arrays(scale):
        key = jax.random.key(0)
        return [
            scale * jax.random.normal(jax.random.fold_in(key, i), shape, dtype)
            for i, shape in enumerate(shapes)
        ]

    params, grads = arrays(0.03), arrays(1.0)
    carry = [params, optimizer.init(params)]

    def run_once():
        carry[:] = jax.block_until_ready(step(*carry, grads))

    for _ in range(3):
        run_once()
    return run_once


def copy_bandwidth(size, rounds):
    """Returns the bytes per second at which the device copies."""
    negate = jax.jit(jnp.negative, donate_argnums=0)
    carry = [negate(jnp.ones(size))]

    def run_once():
        carry[:] = [jax.block_until_ready(negate(carry[0]))]

    seconds, _ = step_seconds(run_once, rounds)
    return 8 * size / seconds


def row(name, optimizer, group, step, absent, args, adam):
    """Returns a row of the table, and the seconds of a step."""
    counts = _hlo.count(step.as_text())  # As fusion_report, of what runs.
    memory = step.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    run_once = warm_step(step, optimizer, group.shapes, group.dtype)
    seconds, kernels = step_seconds(run_once, args.rounds)
    cells = [
        name,
        f"{1e3 * seconds:.3g}",
        f"{seconds / (adam or seconds):.2f}",
        f"{counts.moved_bytes / seconds / args.bandwidth:.0%}",
        kernels,
        counts.kernels + counts.scalar_kernels,
        absent,
        f"{peak / 1e6:.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |", seconds


def absent_kernels(optimizer, group, target):
    """Returns the kernels that fusion_report counts without the device."""
    if target is None:
        return ""
    params = [jax.ShapeDtypeStruct(x, group.dtype) for x in group.shapes]
    try:
        report = optax_ftml.fusion_report(optimizer, params, target)
    except ImportError:
        return "needs optax-ftml[aot]"
    return report.kernels + report.scalar_kernels


def table(title, group, args):
    """Returns the lines of a table: a step of each optimizer."""
    print(title, flush=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        here = pool.map(
            lambda x: compile_step(x, group.shapes, group.dtype),
            group.optimizers.values(),
        )
        elsewhere = pool.map(
            lambda x: absent_kernels(x, group, args.target),
            group.optimizers.values(),
        )
        rows = list(zip(group.optimizers.items(), here, elsewhere, strict=True))
    lines, adam = ["", f"### {title}", "", HEADER], None
    for item, step, absent in rows:
        line, seconds = row(*item, group, step, absent, args, adam)
        print(line, flush=True)
        adam = adam or seconds
        lines.append(line)
    return lines


def groups(args):
    """Returns the groups of optimizers, each a table, by title."""
    found = {}
    for tree, shapes in args.trees.items():
        for dtype in (jnp.float32, jnp.bfloat16):
            alone = optimizers(dtype)
            chain = {name: chained(x) for name, x in alone.items()}
            for place, some in {"alone": alone, "chain": chain}.items():
                title = f"{tree}, {jnp.dtype(dtype).name}, {place}"
                found[title] = Group(some, shapes, dtype)
    rows = {"adam": optax.adam(RATE)} | {
        name: optax_ftml.ftml(RATE, prox=ours)
        for name, (ours, _) in prox_benchmark.proxes(args.rows[1]).items()
    }
    title = f"Each prox, rows of {args.rows}, float32"
    return found | {title: Group(rows, [args.rows], jnp.float32)}


def measure(args):
    """Yields all tables as lines of Markdown, each when it is measured."""
    yield [
        f"# {args.device.device_kind}",
        "",
        f"{run.machine()}. Medians of {args.rounds} rounds. It copies "
        f"{args.bandwidth / 1e9:.0f} GB/s; *of copy* is the share of that at "
        "which a step moves the bytes that `fusion_report` counts. Kernels "
        "are those in the profile, beside those that the report counts, on "
        "scalars too. Peak memory is XLA's own account of the step.",
    ]
    for title, group in groups(args).items():
        if re.search(args.only, title):
            yield table(title, group, args)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--allow-cpu", action="store_true")
    parser.add_argument("--small", action="store_true", help="for a test")
    parser.add_argument("--target", help="for fusion_report; by the device")
    parser.add_argument("--only", default="", help="a pattern of titles")
    parser.add_argument("--output", type=pathlib.Path, default=run.RESULTS)
    args = parser.parse_args()
    args.device = jax.devices()[0]
    if args.device.platform == "cpu" and not args.allow_cpu:
        print(
            "There is no GPU or TPU here, and nothing was measured. On a "
            "machine with one, install JAX for it (https://docs.jax.dev/en/"
            "latest/installation.html) and optax-ftml[aot,bench]; this needs "
            "6 GB of its memory."
        )
        return
    kind = args.device.device_kind
    if args.target is None:
        known = [name for name in TARGETS if name in kind]
        args.target = TARGETS[known[0]] if known else None
    args.trees = {
        "GPT-2 small": _models.SHAPES["gpt2"],
        "1,000 small leaves": trees.many_leaves(),
    }
    args.rows = (4096, 1024)
    if args.small:
        args.trees = {"3 small leaves": trees.many_leaves(3)}
        args.rows = (8, 64)
    args.bandwidth = copy_bandwidth(2**12 if args.small else 2**27, args.rounds)
    args.output.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "_", kind.lower()).strip("_")
    file = args.output / f"accelerator_{name}.md"
    lines = []
    for some in measure(args):
        lines += some
        file.write_text("\n".join(lines) + "\n")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
