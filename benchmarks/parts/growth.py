"""Prints the median seconds of a step by number of parameters, as JSON."""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax

import optax_ftml


def main():
    sizes, rounds = json.loads(sys.argv[1]), int(sys.argv[2])
    optimizers = {"ftml": optax_ftml.ftml(1e-3), "adam": optax.adam(1e-3)}
    medians = {name: [] for name in optimizers}
    for size in sizes:
        for name, optimizer in optimizers.items():

            def step(params, state, grads, optimizer=optimizer):
                updates, state = optimizer.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            step = jax.jit(step, donate_argnums=(0, 1))
            grads, params = jnp.full(int(size), 1e-2), jnp.ones(int(size))
            state = optimizer.init(params)
            times = []
            for _ in range(rounds + 2):
                start = time.perf_counter()
                params, state = jax.block_until_ready(
                    step(params, state, grads)
                )
                times.append(time.perf_counter() - start)
            medians[name].append(statistics.median(times[2:]))
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
