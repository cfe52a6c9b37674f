"""Saves or goes on from a sharded Orbax checkpoint: a process of its own.

python -m tests.programs.orbax_sharded save|restore DIRECTORY
"""

import hashlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

import optax_ftml


def step(optimizer, params, state, seed):
    grads = jax.tree.map(
        lambda p: jax.device_put(
            np.random.default_rng(seed).normal(size=p.shape).astype(p.dtype),
            p.sharding,
        ),
        params,
    )

    @jax.jit
    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return update(params, state, grads)


def digest(tree):
    result = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        result.update(np.asarray(leaf).tobytes())
    return result.hexdigest()


def main():
    """Prints the number of devices and the digest after two steps."""
    command, directory = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    devices = len(jax.devices())
    mesh = jax.make_mesh((devices,), ("x",))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    optimizer = optax.chain(
        optax_ftml.ftml(0.01, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    )
    params = {"w": jax.device_put(jnp.ones((16, 8), jnp.bfloat16), sharding)}
    state = optimizer.init(params)
    with ocp.StandardCheckpointer() as checkpointer:
        if command == "save":
            params, state = step(optimizer, params, state, 0)
            checkpointer.save(directory / "1", (params, state))
            checkpointer.wait_until_finished()
        else:
            # The scalars too belong to all the devices from now on.
            everywhere = NamedSharding(mesh, PartitionSpec())
            state = jax.tree.map(
                lambda x: x if x.ndim else jax.device_put(x, everywhere), state
            )
            params, state = checkpointer.restore(
                directory / "1", (params, state)
            )
            assert params["w"].sharding == sharding
            v = optax.tree.get(state, "v")["w"]
            assert len(v.sharding.device_set) == devices
    params, state = step(optimizer, params, state, 1)
    print(devices, digest((params, state)))


if __name__ == "__main__":
    main()
