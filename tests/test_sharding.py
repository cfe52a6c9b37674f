"""Training on 8 devices, and in two processes, equals training on one."""

import os
import pathlib
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ftml

LEAVES = {
    "b": ((8,), P("x")),
    "s": ((), P()),
    "w": ((16, 8), P("x", "y")),
    "w2": ((8, 16), P(None, ("y", "x"))),
    "w3": ((8, 24), P(None, "y")),
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


def make_mesh(axis_type):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)


def partition(forms):
    """One optimizer in which each form has parameters of its own."""
    return optax.partition(
        {form: FORMS[form] for form in forms}, {form: form for form in forms}
    )


def make_params(forms, mesh=None):
    """Parameters for each form, on one device or sharded over a mesh's."""

    def leaf(shape, spec):
        p = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        if mesh is None:
            return jnp.asarray(p)
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(p.shape, sharding, p.__getitem__)

    return {
        form: {name: leaf(*kind) for name, kind in LEAVES.items()}
        for form in forms
    }


def train(params):
    """The parameters and state after ten steps, and how often they compiled."""
    optimizer = partition(params)

    def step(params, state):
        # Of a function whose minimum is partly outside the box.
        grads = jax.tree.map(lambda p: jnp.sin(3 * p) + p - 0.3, params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    step = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(10):
        params, state = step(params, state)
    return params, state, step._cache_size()


def assert_equal(params, single):
    expected = {form: single[form] for form in params}
    chex.assert_trees_all_close(params, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.usefixtures("eight_devices")
def test_jit_over_shardings_and_the_state_is_sharded_alike():
    single, *_ = train(make_params(FORMS))
    # In the mesh's context init puts the scalars on it too, without which the
    # second step would compile again.
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = make_mesh(axis_type)
        with jax.set_mesh(mesh):
            params, state, compilations = train(make_params(FORMS, mesh))
        assert compilations == 1
        assert_equal(params, single)
        shardings = {p.shape: p.sharding for p in params["delta"].values()}
        for x in jax.tree.leaves(state):
            assert x.sharding.is_equivalent_to(shardings[x.shape], x.ndim)


@pytest.mark.usefixtures("eight_devices")
def test_devices_communicate_the_norm_alone():
    """That of optax.clip_by_global_norm, in one of the five forms."""
    sharding = NamedSharding(make_mesh(AxisType.Auto), P(("x", "y")))
    shape = jax.ShapeDtypeStruct((64, 4), jnp.float32, sharding=sharding)
    report = optax_ftml.fusion_report(
        partition(FORMS), dict.fromkeys(FORMS, shape)
    )
    assert report.device_parameters * 8 == report.parameters
    assert report.collectives == (("all-reduce", 4),)


@pytest.mark.slow
def test_two_processes():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    program = "tests.programs.two_processes"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", program, str(port), str(index)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
            cwd=pathlib.Path(__file__).parents[1],
        )
        for index in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
