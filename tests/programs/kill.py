"""Kills training processes with SIGKILL, and compares how they end.

    python -m tests.programs.kill --kills 100

A process trains a bfloat16 network with both roundings, saving after every
step as the demo does after every epoch. It is killed, half of the times at any
moment and half of them while it saves, and started again. When there have been
enough kills its end is compared, bit for bit, with that of a process that
nobody has disturbed.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

STEPS_A_LIFE = 12


@dataclasses.dataclass
class Outcome:
    """What has happened.

    Attributes:
        kills: Processes killed.
        during_saves: Those killed between the beginning and the end of a save.
        partial: Saves that a kill left half written.
        end: SHA-256 of the parameters and the state at the end.
        undisturbed_end: That of the process that nobody has disturbed.
    """

    kills: int
    during_saves: int
    partial: int
    end: str
    undisturbed_end: str


def train(directory: pathlib.Path, steps: int) -> None:
    """Trains from the last checkpoint on, and says what it is doing."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import optax_ftml
    from optax_ftml._demo import _checkpoint

    optimizer = optax.chain(
        optax_ftml.ftml(0.01, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    )

    def loss_fn(params, x, y):
        hidden = jnp.tanh(x @ params["w1"])
        return jnp.mean((hidden @ params["w2"] - y) ** 2)

    @jax.jit
    def train_step(params, state, x, y):
        grads = jax.grad(loss_fn)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(0)
    params = {
        "w1": jnp.asarray(rng.normal(size=(64, 256)) / 8, jnp.bfloat16),
        "w2": jnp.asarray(rng.normal(size=(256, 8)) / 16, jnp.bfloat16),
    }
    tree, first = (params, optimizer.init(params)), 0
    restored = _checkpoint.restore(directory, tree)
    if restored:
        first, tree, _ = restored
    for step in range(first, steps):
        rng = np.random.default_rng((1, step))
        x, y = (
            jnp.asarray(rng.normal(size=(32, n)), jnp.bfloat16) for n in (64, 8)
        )
        tree = jax.block_until_ready(train_step(*tree, x, y))
        print("saving", flush=True)
        _checkpoint.save(directory, step + 1, tree, {})
        print("saved", flush=True)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    print(f"end {digest.hexdigest()}", flush=True)


def run(directory: pathlib.Path, kills: int, seed: int) -> Outcome:
    """Kills one run, leaves another alone.

    Args:
        directory: For the checkpoints.
        kills: How many times.
        seed: Of the moments.
    """
    rng = random.Random(seed)
    # A run gets so far between two kills that it is not over too soon.
    steps = STEPS_A_LIFE * (kills + 1)
    undisturbed = _start(directory / "undisturbed", steps)
    undisturbed_end = _end(undisturbed.communicate()[0])
    during_saves = partial = 0
    for _ in range(kills):
        process = _start(directory / "killed", steps)
        line = ""
        if rng.random() < 0.1:  # While it starts and reads its checkpoint.
            time.sleep(rng.uniform(0, 2))
        else:
            lines = iter(process.stdout.readline, "")
            wanted = rng.randrange(2 * STEPS_A_LIFE - 4)
            line = next(itertools.islice(lines, wanted, None), "")
            if rng.random() < 0.5 and line.strip() == "saved":
                line = next(lines, "")
            # A save takes some milliseconds.
            time.sleep(rng.uniform(0, 0.005))
        process.kill()
        rest = line + process.communicate()[0]
        if process.returncode != -9:
            raise RuntimeError(f"it was over before it was killed: {rest}")
        during_saves += rest.split()[-1:] == ["saving"]
        partial += (directory / "killed" / "partial").exists()
    process = _start(directory / "killed", steps)
    end = _end(process.communicate()[0])
    return Outcome(kills, during_saves, partial, end, undisturbed_end)


def _start(directory, steps):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.programs.kill"),
            *("--train", directory, "--steps", str(steps)),
        ],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


def _end(output):
    last = output.splitlines()[-1]
    assert last.startswith("end "), output
    return last


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        with contextlib.suppress(BrokenPipeError):
            train(args.train, args.steps)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        outcome = run(pathlib.Path(directory), args.kills, args.seed)
    print(outcome)
    return int(outcome.end != outcome.undisturbed_end)


if __name__ == "__main__":
    sys.exit(main())
