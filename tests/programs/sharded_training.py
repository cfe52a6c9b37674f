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

STEPS = 10
SPECS = {
    "b": P("x"),
    "s": P(),
    "w": P("x", "y"),
    "w2": P(None, ("y", "x")),
    "w3": P(None, "y"),
}
SHAPES = dict.fromkeys(SPECS, (16, 8)) | {"b": (8,), "s": ()}
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


def partition(*forms):
    """Returns one optimizer in which each form has parameters of its own."""
    optimizers = {form: FORMS[form] for form in forms}
    return optax.partition(optimizers, {form: form for form in forms})


def initial(forms, place):
    """Returns parameters for each form, placed by a function of a name."""
    rng = np.random.default_rng(0)
    params = {
        name: rng.uniform(-1, 1, shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    return {form: {k: place(k, p) for k, p in params.items()} for form in forms}


def train(optimizer, params, wrap=lambda step: step):
    """Returns the parameters, the state, and how often the step compiled."""

    def step(params, state):
        # Of a function whose minimum is partly outside the box.
        grads = jax.tree.map(lambda p: jnp.sin(3 * p) + p - 0.3, params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(wrap(step), donate_argnums=(0, 1))
    state = optimizer.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    return params, state, step._cache_size()


def map_state(f, optimizer, state, params, of_others):
    """Maps over the state's slots, each with the parameter that it is like."""

    def is_masked(x):
        return isinstance(x, optax.MaskedNode)

    return optax.tree_map_params(
        optimizer,
        lambda slot, p: slot if is_masked(slot) else f(slot, p),
        state,
        params,
        transform_non_params=lambda _: of_others,
        is_leaf=is_masked,
    )


def run_jit(axis_type):
    optimizer = partition(*FORMS)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)

    def place(name, p):
        return jax.device_put(p, NamedSharding(mesh, SPECS[name]))

    def is_alike(slot, p):
        return slot.sharding.is_equivalent_to(p.sharding, p.ndim)

    # In the mesh's context init puts the scalars on it too, without which the
    # second step would compile again.
    with jax.set_mesh(mesh):
        params = initial(FORMS, place)
        first = map_state(
            is_alike, optimizer, optimizer.init(params), params, True
        )
        params, state, compilations = train(optimizer, params)
    last = map_state(is_alike, optimizer, state, params, True)
    return {
        "params": values(params),
        "state_is_sharded_as_params": jax.tree.all((first, last)),
        "compilations": compilations,
    }


def run_shard_map():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    optimizer = partition("leader", "adam")
    params = initial(("leader", "adam"), lambda name, p: jnp.asarray(p))
    specs = jax.tree.map(lambda p: P("x") if p.ndim else P(), params)
    state = optimizer.init(params)
    state_specs = map_state(lambda _, p: p, optimizer, state, specs, P())
    placed = specs, state_specs
    params, *_ = train(
        optimizer,
        params,
        lambda step: jax.shard_map(
            step, mesh=mesh, in_specs=placed, out_specs=placed
        ),
    )
    return {"params": values(params)}


def collectives():
    """What devices send each other in a step of all forms."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P("x"))
    shape = jax.ShapeDtypeStruct((64, 4), jnp.float32, sharding=sharding)
    report = optax_ftml.fusion_report(
        partition(*FORMS), dict.fromkeys(FORMS, shape)
    )
    assert report.device_parameters * 8 == report.parameters
    return report.collectives


def values(params):
    return {
        form: [np.asarray(p).ravel().tolist() for p in jax.tree.leaves(leaves)]
        for form, leaves in params.items()
    }


def one_process():
    jax.config.update("jax_num_cpu_devices", 8)
    params = initial(FORMS, lambda name, p: jnp.asarray(p))
    params, *_ = train(partition(*FORMS), params)
    return {
        "single": {"params": values(params)},
        "auto": run_jit(AxisType.Auto),
        "explicit": run_jit(AxisType.Explicit),
        "shard_map": run_shard_map(),
        "collectives": collectives(),
    }


def two_processes(port, index):
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    def place(name, p):
        sharding = NamedSharding(mesh, SPECS[name])
        return jax.make_array_from_callback(p.shape, sharding, p.__getitem__)

    optimizer = partition("leader", "chain")
    with jax.set_mesh(mesh):
        params, *_ = train(optimizer, initial(("leader", "chain"), place))
    return values(multihost_utils.process_allgather(params, tiled=True))


if __name__ == "__main__":
    command, *args = sys.argv[1:]
    run = {"one-process": one_process, "two-processes": two_processes}[command]
    print(json.dumps(run(*args)))
