"""Prints the seconds to trace and to compile a step, as JSON."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import optax
from parts import trees

import optax_ftml


def main():
    counts, rounds = json.loads(sys.argv[1]), int(sys.argv[2])
    optimizers = {
        "ftml": optax_ftml.ftml(1e-3),
        "ftml, box": optax_ftml.ftml(
            1e-3, prox=optax_ftml.prox.box(-10.0, 10.0)
        ),
        "adam": optax.adam(1e-3),
        "sgd": optax.sgd(1e-3),
    }
    for name in list(optimizers):
        optimizers[f"{name}, chain"] = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.add_decayed_weights(1e-4),
            optimizers[name],
        )
    seconds = {name: {count: [] for count in counts} for name in optimizers}
    for count in counts:
        params = [
            jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in trees.many_leaves(count)
        ]
        for _ in range(rounds):
            for name, optimizer in optimizers.items():
                jax.clear_caches()
                state = jax.eval_shape(optimizer.init, params)

                def step(params, state, grads, optimizer=optimizer):
                    updates, state = optimizer.update(grads, state, params)
                    return optax.apply_updates(params, updates), state

                start = time.perf_counter()
                lowered = jax.jit(step, donate_argnums=(0, 1)).lower(
                    params, state, params
                )
                traced = time.perf_counter()
                lowered.compile()
                end = time.perf_counter()
                seconds[name][count].append([traced - start, end - traced])
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
