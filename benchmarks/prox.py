"""Measures steps with a constraint or a penalty on this machine's CPU.

    python benchmarks/prox.py

writes results/prox.json, prox.md and prox.png. A step is jitted and donated:
FTML with a prox in its own metric, beside Adam with the Euclidean projection of
Optax (or, where it has none and a line does, that line) after it, and beside a
step of proxmin's adaprox, which solves in its metric too, with NumPy. The two
JAX steps take turns.
"""

import argparse
import json
import math
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import run
from optax import projections
from parts import euclidean, pictures, tables, trees

import optax_ftml
from optax_ftml import prox

LEAVES = {
    "rows of (4096, 1024)": lambda: [(4096, 1024)],
    "4 M numbers as one slice": lambda: [(2**22,)],
    "68 M in 52 leaves": trees.transformer,
}
ROWS, SLICE, TREE = LEAVES
GROWTH = ["simplex", "l2_ball", "group_lasso"]
# Seconds a step; on the large tree they would take minutes.
SLOW = ["monotone", "total_variation", "in_metric"]


def proxes(length):
    """Returns the proxes along the last axis, and what is done after Adam.

    Args:
        length: How long the slices are, or None if they differ.
    """
    rows = euclidean.rows
    pairs = {
        "none": (None, None),
        "box": (
            prox.box(-0.03, 0.03),
            euclidean.each(
                lambda x: projections.projection_box(x, -0.03, 0.03)
            ),
        ),
        "non_negative": (
            prox.non_negative(),
            projections.projection_non_negative,
        ),
        "l1": (prox.l1(0.1), euclidean.each(euclidean.soft_threshold(1e-4))),
        "elastic_net": (
            prox.elastic_net(0.1, 0.1),
            euclidean.each(
                lambda x: euclidean.soft_threshold(1e-4)(x) / (1 + 1e-4)
            ),
        ),
        "simplex": (
            prox.simplex(axis=-1),
            rows(projections.projection_simplex),
        ),
        "l1_ball": (
            prox.l1_ball(5.0, axis=-1),
            rows(lambda x: projections.projection_l1_ball(x, 5.0)),
        ),
        "l2_ball": (
            prox.l2_ball(0.5, axis=-1),
            rows(lambda x: projections.projection_l2_ball(x, 0.5)),
        ),
        "hyperplane": (
            prox.hyperplane(1.0, 1.0, axis=-1),
            rows(
                lambda x: projections.projection_hyperplane(
                    x, jnp.ones_like(x), 1.0
                )
            ),
        ),
        "halfspace": (
            prox.halfspace(1.0, -1.0, axis=-1),
            rows(
                lambda x: projections.projection_halfspace(
                    x, jnp.ones_like(x), -1.0
                )
            ),
        ),
        "box_section": (prox.box_section(-0.03, 0.03, 1.0, 1.0, axis=-1), None),
        "monotone": (prox.monotone(), None),
        "group_lasso": (
            prox.group_lasso(10.0, axis=-1),
            euclidean.each(euclidean.group_shrinkage(1e-2)),
        ),
        "sparse group_lasso": (prox.group_lasso(10.0, axis=-1, l1=0.1), None),
        "total_variation": (prox.total_variation(0.1), None),
        "l2_sphere": (
            prox.l2_sphere(0.5, axis=-1),
            rows(lambda x: projections.projection_l2_sphere(x, 0.5)),
        ),
        "top_k": (prox.top_k(10, axis=-1), None),
        "levels": (prox.levels(jnp.array([-0.03, 0.0, 0.03])), None),
        "in_metric": (
            prox.in_metric(
                lambda tree, _: rows(
                    lambda x: projections.projection_l2_ball(x, 0.5)
                )(tree)
            ),
            None,
        ),
    }
    if length is not None:
        matrix = np.random.default_rng(0).normal(size=(2, length))
        pairs["affine_set"] = (prox.affine_set(matrix, np.ones(2)), None)
    return pairs


def make_step(optimizer, project=None):
    """Returns the jitted step."""

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params if project is None else project(params)), state

    return jax.jit(step, donate_argnums=(0, 1))


def arrays(shapes, seed, scales=(1.0, 1.0)):
    """Returns normal numbers, times scales between two, as a list of leaves."""
    rng = np.random.default_rng(seed)
    low, high = np.log(scales)
    return [
        jnp.asarray(rng.standard_normal(s, np.float32))
        * jnp.exp(jnp.asarray(rng.uniform(low, high, s[-1]), jnp.float32))
        for s in shapes
    ]


def measure(shapes, pair, rounds, warmup=2):
    """Returns what the steps of FTML and of Adam take."""
    theirs_name = "adam" if pair[0] is None or pair[1] else None
    steps = {"ftml": make_step(optax_ftml.ftml(1e-3, prox=pair[0]))}
    inits = {"ftml": optax_ftml.ftml(1e-3, prox=pair[0]).init}
    if theirs_name:
        steps["adam"] = make_step(optax.adam(1e-3), pair[1])
        inits["adam"] = optax.adam(1e-3).init
    grads = [arrays(shapes, seed, (0.1, 10)) for seed in range(3)]
    results, carries = {}, {}
    for name, step in steps.items():
        params = jax.tree.map(lambda x: 0.03 * x, arrays(shapes, 9))
        carries[name] = params, inits[name](params)
        compiled = step.lower(*carries[name], grads[0]).compile()
        results[name] = {
            "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
            "moved_bytes": compiled.cost_analysis()["bytes accessed"],
        }
        steps[name] = compiled
    seconds = {name: [] for name in steps}
    for round_ in range(-warmup, rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            carries[name] = jax.block_until_ready(
                step(*carries[name], grads[round_ % 3])
            )
            if round_ >= 0:
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        results[name]["seconds"] = statistics.median(times)
    return results


def growth(lengths, rounds):
    """Returns the seconds of a step on 4 M numbers by length of the slices."""
    return {
        name: [
            {
                who: values["seconds"]
                for who, values in measure(
                    [(2**22 // length, length)], proxes(None)[name], rounds
                ).items()
            }
            for length in lengths
        ]
        for name in GROWTH
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", help="proxes, all by default")
    parts = [*LEAVES, "growth", "adaprox"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--output", type=pathlib.Path, default=run.RESULTS)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "prox.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results |= {"machine": run.machine(), "rounds": args.rounds}
    for part in args.parts:
        if part == "growth":
            lengths = [2**n for n in (4, 7, 10, 13, 16, 19, 22)]
            seconds = growth(lengths, args.rounds)
            results[part] = {"lengths": lengths, "seconds": seconds}
        elif part == "adaprox":
            results[part] = euclidean.adaprox_seconds((4096, 1024))
        else:
            shapes = LEAVES[part]()
            pairs = proxes(None if len(shapes) > 1 else shapes[0][-1])
            measured = results.setdefault(part, {"steps": {}})
            measured["size"] = sum(map(math.prod, shapes))
            if part == TREE:
                pairs = {k: v for k, v in pairs.items() if k not in SLOW}
            for name in args.only or pairs:
                step = measure(shapes, pairs[name], args.rounds)
                measured["steps"][name] = step
                print(part, name, step, flush=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    if set(parts) <= set(results):
        text = tables.proxes(results)
        (args.output / "prox.md").write_text(text)
        print(text)
        pictures.proxes(results).savefig(args.output / "prox.png", dpi=150)


if __name__ == "__main__":
    main()
