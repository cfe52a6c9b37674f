"""The command that prints a fusion report."""

import argparse
import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_ftml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the report's options."""
    parser.add_argument(
        "--params",
        choices=list(PARAMS),
        default="gpt2",
        help="the parameters, by their shapes alone",
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
        help="ftml, ftml-box (its leader form, projected onto [-1, 1]) or the "
        "name of one of optax's optimizers, with learning rate 1e-3",
    )
    parser.add_argument(
        "--clip-norm",
        type=float,
        help="put optax.clip_by_global_norm of this norm before it",
    )
    parser.add_argument(
        "--weight-decay",
        type=float,
        help="put optax.add_decayed_weights of this strength before it",
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
    parser.add_argument(
        "--hlo", type=pathlib.Path, help="write the compiled program here"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report."""
    params = jax.tree.map(
        lambda shape: _param(shape, args.dtype, args.devices),
        PARAMS[args.params](),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    try:
        report = optax_ftml.fusion_report(_optimizer(args), params, args.target)
    except (ImportError, MemoryError, RuntimeError, ValueError) as error:
        print(error)
        return 1
    print(report)
    if args.hlo:
        args.hlo.write_text(report.hlo)
    return 0


def _optimizer(args):
    parts = []
    if args.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(args.clip_norm))
    if args.weight_decay is not None:
        parts.append(optax.add_decayed_weights(args.weight_decay))
    if args.optimizer == "ftml":
        parts.append(optax_ftml.ftml(1e-3))
    elif args.optimizer == "ftml-box":
        parts.append(optax_ftml.ftml(1e-3, prox=optax_ftml.prox.box(-1.0, 1.0)))
    elif hasattr(optax, args.optimizer):
        parts.append(getattr(optax, args.optimizer)(1e-3))
    else:
        raise ValueError(
            "--optimizer must be ftml, ftml-box or the name of one of optax's "
            f"optimizers, such as adam; got {args.optimizer}."
        )
    return optax.chain(*parts)


def _param(shape, dtype, devices, axis_type=jax.sharding.AxisType.Auto):
    sharding = None
    if devices > 1:
        divisible = [size for size in shape if size % devices == 0]
        spec = [None] * len(shape)
        if divisible:
            spec[shape.index(max(divisible))] = "devices"
        sharding = jax.sharding.NamedSharding(
            jax.sharding.AbstractMesh(
                (devices,), ("devices",), axis_types=(axis_type,)
            ),
            jax.sharding.PartitionSpec(*spec),
        )
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)


def _dense(inputs, outputs):
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _norm(size):
    return {"scale": (size,), "bias": (size,)}


def mlp() -> Any:
    """Three layers of 512 on images of 28 x 28: 6 leaves."""
    sizes = [784, 512, 512, 10]
    return [_dense(*pair) for pair in itertools.pairwise(sizes)]


def resnet50() -> Any:
    """ResNet-50, He et al. 2015: 25.6 M parameters in 161 leaves."""

    def conv(size, inputs, outputs):
        return {"kernel": (size, size, inputs, outputs), **_norm(outputs)}

    blocks, inputs = [], 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for index in range(count):
            block = {
                "conv1": conv(1, inputs, width),
                "conv2": conv(3, width, width),
                "conv3": conv(1, width, 4 * width),
            }
            if index == 0:
                block["shortcut"] = conv(1, inputs, 4 * width)
            inputs = 4 * width
            blocks.append(block)
    return {
        "stem": conv(7, 3, 64),
        "blocks": blocks,
        "head": _dense(inputs, 1000),
    }


def gpt2() -> Any:
    """GPT-2 small, Radford et al. 2019: 124 M parameters in 148 leaves."""
    width = 768
    return {
        "tokens": (50257, width),
        "positions": (1024, width),
        "blocks": [
            {
                "norm1": _norm(width),
                "qkv": _dense(width, 3 * width),
                "out": _dense(width, width),
                "norm2": _norm(width),
                "up": _dense(width, 4 * width),
                "down": _dense(4 * width, width),
            }
            for _ in range(12)
        ],
        "norm": _norm(width),
    }


def llama3_70b(stacked: bool = True) -> Any:
    """Llama 3 70B, Grattafiori et al. 2024: 70.6 G parameters.

    In 12 leaves, layers stacked for `jax.lax.scan`, or each its own in 723.
    """
    width, hidden, heads, vocabulary, layers = 8192, 28672, 1024, 128256, 80
    block = {
        "norm1": (width,),
        "query": (width, width),
        "key": (width, heads),
        "value": (width, heads),
        "out": (width, width),
        "norm2": (width,),
        "gate": (width, hidden),
        "up": (width, hidden),
        "down": (hidden, width),
    }
    return {
        "tokens": (vocabulary, width),
        "blocks": {name: (layers, *shape) for name, shape in block.items()}
        if stacked
        else [block] * layers,
        "norm": (width,),
        "head": (width, vocabulary),
    }


# Trees of shapes.
PARAMS: dict[str, Callable[[], Any]] = {
    "mlp": mlp,
    "resnet50": resnet50,
    "gpt2": gpt2,
    "llama3-70b": llama3_70b,
    "llama3-70b-layers": functools.partial(llama3_70b, stacked=False),
}
