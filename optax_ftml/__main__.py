"""The command `python -m optax_ftml report`."""

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

import optax_ftml
from optax_ftml._report import _models


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report, or what is wrong, and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m optax_ftml",
        description="Says what XLA makes of one step of an optimizer, also "
        "for a device that is not here.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("command", choices=["report"])
    parser.add_argument(
        "--params",
        choices=list(_models.SHAPES),
        default="gpt2",
        help="the model whose parameters' shapes are taken",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of the parameters and gradients",
    )
    parser.add_argument(
        "--optimizer",
        default="ftml",
        help="the name of one of this package's or optax's optimizers, with "
        "learning rate 1e-3, or an expression of such names, as in "
        "'chain(clip_by_global_norm(1.0), ftml(prox=prox.box(-1.0, 1.0)))'",
    )
    parser.add_argument(
        "--target",
        help="h100, a100, or tpu: and a topology, as in tpu:v5e:2x2; the "
        "default device if it is left out",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        help="shard every parameter over that many devices of the target, "
        "along its largest axis that they divide",
    )
    args = parser.parse_args(argv)
    params = _models.params(args.params, args.dtype, args.devices)
    try:
        optimizer = _optimizer(args.optimizer)
        print(optax_ftml.fusion_report(optimizer, params, args.target))
    except (ImportError, MemoryError, RuntimeError, ValueError) as error:
        print(error)
        return 1
    return 0


def _optimizer(text):
    names = {"jax": jax, "jnp": jnp, **vars(optax), **vars(optax_ftml)}
    try:
        optimizer = eval(text, names)
        if not isinstance(optimizer, optax.GradientTransformation):
            optimizer = optimizer(1e-3)
    except (AttributeError, NameError, SyntaxError, TypeError) as error:
        raise ValueError(
            "--optimizer must be the name of an optimizer, such as adam, or "
            f"an expression that makes one; got {text}: {error}"
        ) from None
    return optimizer


if __name__ == "__main__":
    sys.exit(main())
