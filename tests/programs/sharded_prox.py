"""Solves each prox on eight devices and on one, and prints both as JSON.

python -m tests.programs.sharded_prox
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optax_ftml import prox
from optax_ftml._report import _hlo

ROWS, COLUMNS = 8, 64
FAST = {"xla_backend_optimization_level": 0}  # To compile.
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=COLUMNS)
MATRIX = RNG.normal(size=(2, COLUMNS))
# Those with an axis: of each row, and of a whole tree.
SLICED = {
    "simplex": lambda axis: prox.simplex(2.0, axis=axis),
    "l1_ball": lambda axis: prox.l1_ball(2.0, axis=axis),
    "l2_ball": lambda axis: prox.l2_ball(2.0, axis=axis),
    "l2_sphere": lambda axis: prox.l2_sphere(2.0, axis=axis),
    "hyperplane": lambda axis: prox.hyperplane(0.5, 0.4, axis=axis),
    "box_section": lambda axis: prox.box_section(
        -1.0, 0.5, 0.5, 2.0, axis=axis
    ),
    "group_lasso": lambda axis: prox.group_lasso(5.0, axis=axis),
    "top_k": lambda axis: prox.top_k(9, axis=axis),
}
# Where a CPU makes several sums in one reduction.
JOINT = (
    *("l2_ball", "l2_sphere", "group_lasso"),
    *("simplex", "l1_ball", "hyperplane", "box_section"),
)
TREES = ("simplex", "l2_ball", "box_section", "top_k")
FIXED = {
    "l1": prox.l1(0.3),
    "affine_set": prox.affine_set(MATRIX, 0.5),
}
# Those that pass numbers of a leaf on, where it is sharded along the slice.
ORDERED = {
    "monotone": prox.monotone(),
    "total_variation": prox.total_variation(0.7),
}


# What the slices that are whole on a device are tried with.
WHOLE = ("simplex", "l2_ball", "box_section", "top_k", *FIXED, *ORDERED)


def arguments(**shapes):
    """Leaders, and step sizes over two decades."""
    leader = {k: RNG.normal(size=s) for k, s in shapes.items()}
    step_size = {k: 10 ** RNG.uniform(-2, 0, s) for k, s in shapes.items()}
    return jax.tree.map(np.float32, (leader, step_size))


def solve(f, trees, single, specs):
    """Returns the largest error, and what the devices send each other."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    shardings = {k: NamedSharding(mesh, spec) for k, spec in specs.items()}
    sharded = [
        {k: jax.device_put(x, shardings[k]) for k, x in tree.items()}
        for tree in trees
    ]
    lowered = jax.jit(f, out_shardings=shardings).lower(*sharded)
    compiled = lowered.compile(compiler_options=FAST)
    theta = compiled(*sharded)
    return {
        "error": max(
            float(jnp.max(jnp.abs(np.asarray(theta[k]) - single[k])))
            for k in theta
        ),
        "collectives": _hlo.count(compiled.as_text()).collectives,
    }


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    rows = arguments(a=(ROWS, COLUMNS))
    short = arguments(a=(ROWS, 16))
    tree = arguments(a=(ROWS, COLUMNS), b=(COLUMNS,))
    by_row = {name: make(-1) for name, make in SLICED.items()} | FIXED
    along, whole = {"a": P(None, "x")}, {"a": P("x")}
    both = {"a": P(None, "x"), "b": P("x")}
    problems = {name: (f, rows, {"along": along}) for name, f in by_row.items()}
    problems |= {
        name: (f, short, {"along": along}) for name, f in ORDERED.items()
    }
    for name in WHOLE:
        problems[name][2]["whole"] = whole
    problems |= {
        f"{name} of a tree": (SLICED[name](None), tree, {"tree": both})
        for name in TREES
    }
    results = {}
    for name, (f, trees, ways) in problems.items():
        single = jax.jit(f, compiler_options=FAST)(*trees)
        results[name] = {
            way: solve(f, trees, single, specs) for way, specs in ways.items()
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
