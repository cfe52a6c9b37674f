"""Trains on sharded parameters and prints what came out, as JSON.

Run by test_sharding, as `sharded_training.py one-process` or
`sharded_training.py two-processes PORT INDEX`.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ftml

STEPS = 20
SPECS = {
    "b": P("x"),
    "s": P(),
    "w": P("x", "y"),
    "w2": P(None, ("y", "x")),
    "w3": P(None, "y"),
}
BOX = optax_ftml.prox.box(-0.5, 0.5)
FORMS = {
    "delta": optax_ftml.ftml(0.01),
    "leader": optax_ftml.ftml(0.01, prox=BOX),
    "adam": optax_ftml.proximal_adam(0.01, prox=BOX),
    "low": optax_ftml.ftml(0.01, accumulator_dtype=jnp.bfloat16),
    "chain": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-2),
        optax_ftml.ftml(0.01),
    ),
}
EXPLICIT = ("leader", "chain")


def initial():
    rng = np.random.default_rng(0)
    shapes = {"b": (8,), "s": ()}
    return {
        name: rng.uniform(-1, 1, shapes.get(name, (16, 8))).astype(np.float32)
        for name in SPECS
    }


def gradients(params):
    # Of a function whose minimum is partly outside the box.
    return jax.tree.map(lambda p: jnp.sin(3 * p) + p - 0.3, params)


def make_step(optimizer):
    def step(params, state):
        updates, state = optimizer.update(gradients(params), state, params)
        return optax.apply_updates(params, updates), state

    return step


def train(step, params, state):
    for _ in range(STEPS):
        params, state = step(params, state)
    return params, state


def specs(state, params):
    """Returns the specs of the state's arrays that are like a parameter."""
    return sorted(
        str((leaf.shape, tuple(leaf.sharding.spec)))
        for leaf in jax.tree.leaves(state)
        if leaf.shape in {p.shape for p in jax.tree.leaves(params)}
        and leaf.ndim
    )


def run_jit(optimizer, axis_type):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    # In the mesh's context init puts the scalars on it too, without which the
    # second step would compile again.
    with jax.set_mesh(mesh):
        params = {
            name: jax.device_put(p, NamedSharding(mesh, SPECS[name]))
            for name, p in initial().items()
        }
        state = optimizer.init(params)
        step = jax.jit(make_step(optimizer), donate_argnums=(0, 1))
        slots = len(jax.tree.leaves(state)) // len(SPECS)
        expected = specs([params] * slots, params)
        first = specs(state, params)
        params, state = train(step, params, state)
    return {
        "params": values(params),
        "initial": first,
        "final": specs(state, params),
        "expected": expected,
        "compilations": step._cache_size(),
    }


def run_report(optimizer):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params = jax.device_put(jnp.ones((64, 4)), NamedSharding(mesh, P("x")))
    report = optax_ftml.fusion_report(optimizer, params)
    return {
        "collectives": report.collectives,
        "parameters": report.parameters,
        "device_parameters": report.device_parameters,
    }


def run_shard_map(optimizer):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params = initial()
    placed = {name: P("x") if name != "s" else P() for name in SPECS}
    state = optimizer.init(params)
    state_specs = optax.tree_map_params(
        optimizer,
        lambda _, spec: spec,
        state,
        placed,
        transform_non_params=lambda _: P(),
    )
    step = jax.jit(
        jax.shard_map(
            make_step(optimizer),
            mesh=mesh,
            in_specs=(placed, state_specs),
            out_specs=(placed, state_specs),
        )
    )
    params, _ = train(step, params, state)
    return {"params": values(params)}


def values(params):
    return [np.asarray(p).ravel().tolist() for p in jax.tree.leaves(params)]


def one_process():
    jax.config.update("jax_num_cpu_devices", 8)
    ways = ("single", "auto", "explicit", "shard_map", "report")
    results = {way: {} for way in ways}
    for form, optimizer in FORMS.items():
        step, params = jax.jit(make_step(optimizer)), initial()
        params, _ = train(step, params, optimizer.init(params))
        results["single"][form] = {"params": values(params)}
        results["auto"][form] = run_jit(optimizer, AxisType.Auto)
        results["report"][form] = run_report(optimizer)
        if form in EXPLICIT:
            results["explicit"][form] = run_jit(optimizer, AxisType.Explicit)
    results["shard_map"]["leader"] = run_shard_map(FORMS["leader"])
    return results


def two_processes(port, index):
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
    results = {}
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    for form in EXPLICIT:
        optimizer = FORMS[form]
        params = {
            name: jax.make_array_from_callback(
                p.shape,
                NamedSharding(mesh, SPECS[name]),
                lambda index, p=p: p[index],
            )
            for name, p in initial().items()
        }
        state = jax.jit(optimizer.init)(params)
        step = jax.jit(make_step(optimizer), donate_argnums=(0, 1))
        params, _ = train(step, params, state)
        results[form] = values(
            multihost_utils.process_allgather(params, tiled=True)
        )
    return results


if __name__ == "__main__":
    command, *args = sys.argv[1:]
    run = {"one-process": one_process, "two-processes": two_processes}[command]
    print(json.dumps(run(*args)))
