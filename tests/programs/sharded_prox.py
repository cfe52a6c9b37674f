"""Solves each prox on eight devices and on one, and prints both as JSON.

python -m tests.programs.sharded_prox
"""

import json

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optax_ftml import prox
from optax_ftml._report import _hlo

ROWS, COLUMNS = 8, 64
FAST = {"xla_backend_optimization_level": 0}  # To compile.
RNG = np.random.default_rng(0)
# The arguments of those with an axis: of each row, and of a whole tree.
SLICED = {
    "simplex": (2.0,),
    "l1_ball": (2.0,),
    "l2_ball": (2.0,),
    "l2_sphere": (2.0,),
    "hyperplane": (0.5, 0.4),
    "box_section": (-1.0, 0.5, 0.5, 2.0),
    "group_lasso": (5.0,),
    "top_k": (9,),
}
# Where a CPU makes several sums in one reduction.
JOINT = SLICED.keys() - {"top_k"}
# Those that pass numbers of a leaf on, where it is sharded along the slice.
ORDERED = {"monotone": (), "total_variation": (0.7,)}
# What slices of a whole tree and, with what has no axis, those that are whole
# on a device are tried with.
SOME = ("simplex", "l2_ball", "box_section", "top_k")
OTHERS = {"l1": (0.3,), "affine_set": (RNG.normal(size=(2, COLUMNS)), 0.5)}


def arguments(**shapes):
    """Leaders, and step sizes over two decades."""
    leader = {k: RNG.normal(size=s) for k, s in shapes.items()}
    step_size = {k: 10 ** RNG.uniform(-2, 0, s) for k, s in shapes.items()}
    return jax.tree.map(np.float32, (leader, step_size))


def solve(f, trees, single, specs):
    """Returns the largest error, and what the devices send each other."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    shardings = {k: NamedSharding(mesh, spec) for k, spec in specs.items()}
    sharded = [jax.device_put(tree, shardings) for tree in trees]
    lowered = jax.jit(f, out_shardings=shardings).lower(*sharded)
    compiled = lowered.compile(compiler_options=FAST)
    theta = compiled(*sharded)
    errors = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), theta, single)
    return {
        "error": float(max(jax.tree.leaves(errors))),
        "collectives": _hlo.count(compiled.as_text()).collectives,
    }


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    rows = arguments(a=(ROWS, COLUMNS))
    short = arguments(a=(ROWS, 16))
    tree = arguments(a=(ROWS, COLUMNS), b=(COLUMNS,))
    results = {}

    def record(name, f, trees, **ways):
        single = jax.jit(f, compiler_options=FAST)(*trees)
        results[name] = {
            way: solve(f, trees, single, specs) for way, specs in ways.items()
        }

    for name, numbers in {**SLICED, **OTHERS, **ORDERED}.items():
        axis = {"axis": -1} if name in SLICED else {}
        f = getattr(prox, name)(*numbers, **axis)
        ways = {"along": {"a": P(None, "x")}}
        if name in SOME or name not in SLICED:
            ways["whole"] = {"a": P("x")}
        record(name, f, short if name in ORDERED else rows, **ways)
    for name in SOME:
        f = getattr(prox, name)(*SLICED[name])
        both = {"a": P(None, "x"), "b": P("x")}
        record(f"{name} of a tree", f, tree, tree=both)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
