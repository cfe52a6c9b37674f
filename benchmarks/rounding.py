"""What rounding at random costs a step on this machine's CPU.

    python benchmarks/rounding.py

prints a table: a step without and with rounding, and, to compare generators,
the same step with the random words of each of JAX's generators instead.
"""

import argparse
import random
import statistics
import time
from unittest import mock

import jax
import jax.numpy as jnp
import optax

import optax_ftml
from optax_ftml._precision import _stochastic_rounding


def generator(impl):
    """Random words from `jax.random`, in the place of the package's own."""

    def words(seed, count, tree, path, like):
        del tree, path
        key = jax.random.fold_in(jax.random.key(seed, impl=impl), count)
        return jax.random.bits(key, like.shape, jnp.uint32)

    return mock.patch.object(_stochastic_rounding, "_random_words", words)


def compiled_step(optimizer, size):
    """Returns a function that runs one donated step in bfloat16."""

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, grads = (jnp.ones((size, size), jnp.bfloat16) for _ in range(2))
    carry = [params, optimizer.init(params)]
    step = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, grads)
    step = step.compile()

    def run():
        start = time.perf_counter()
        carry[:] = jax.block_until_ready(step(*carry, grads))
        return time.perf_counter() - start

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    low = optax_ftml.ftml(1e-3, accumulator_dtype=jnp.bfloat16)
    both = optax.chain(low, optax_ftml.stochastic_rounding())
    steps = {
        "to nearest, v in float32": compiled_step(
            optax_ftml.ftml(1e-3), args.size
        ),
        "v at random": compiled_step(low, args.size),
        "v and parameters at random": compiled_step(both, args.size),
    }
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        with generator(impl):
            steps[f"the same, jax.random's {impl}"] = compiled_step(
                both, args.size
            )
    seconds = {name: [] for name in steps}
    names = list(steps)
    for round_ in range(-3, args.rounds):
        random.Random(round_).shuffle(names)
        for name in names:
            elapsed = steps[name]()
            if round_ >= 0:
                seconds[name].append(elapsed)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    base = next(iter(medians.values()))
    print(f"A bfloat16 leaf of {args.size} x {args.size}, one step:\n")
    print("| rounding | ms | ratio |\n|---|--:|--:|")
    for name, median in medians.items():
        print(f"| {name} | {1e3 * median:.1f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
