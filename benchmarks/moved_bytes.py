"""Bytes that a step moves on this machine's CPU, from the compiled program.

    python benchmarks/moved_bytes.py

prints a table of the bytes moved per parameter and of the temporaries, for the
tree of 68 M parameters; with XLA_FLAGS set, as the flags make them.
"""

import jax
import jax.numpy as jnp
from parts import trees, worker

import optax_ftml


def main():
    params = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in trees.transformer()
    ]
    print("| step | moved B/param | temporaries [MB] |\n|---|--:|--:|")
    for group in ("alone", "chain", "scaled"):
        optimizers = worker.jax_optimizers(group)
        for name in optimizers:
            if name not in ("ftml", "ftml, box", "ftml, decoupled", "adam"):
                continue
            report = optax_ftml.fusion_report(optimizers[name], params)
            print(
                f"| {name}, {group} | {report.moved_bytes_per_parameter:.1f} | "
                f"{report.temporary_bytes / 1e6:.1f} |"
            )


if __name__ == "__main__":
    main()
