"""The command `python -m optax_ftml report`."""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_ftml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "--params",
        choices=list(SHAPES),
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


def run(args: argparse.Namespace) -> int:
    """Prints the report, or what is wrong, and returns the exit code."""
    params = [
        param(shape, args.dtype, args.devices) for shape in SHAPES[args.params]
    ]
    try:
        optimizer = _optimizer(args.optimizer)
        print(optax_ftml.fusion_report(optimizer, params, args.target))
    except (ImportError, MemoryError, RuntimeError, ValueError) as error:
        print(error)
        return 1
    return 0


def _optimizer(text):
    names = {**vars(optax), **vars(optax_ftml)}
    try:
        optimizer = eval(text, {"jax": jax, "jnp": jnp, **names})
        if not isinstance(optimizer, optax.GradientTransformation):
            optimizer = optimizer(1e-3)
    except (AttributeError, NameError, SyntaxError, TypeError) as error:
        raise ValueError(
            "--optimizer must be the name of an optimizer, such as adam, or "
            f"an expression that makes one; got {text}: {error}"
        ) from None
    return optimizer


def param(
    shape: tuple[int, ...],
    dtype: Any,
    devices: int = 1,
    axis_type: jax.sharding.AxisType = jax.sharding.AxisType.Auto,
) -> jax.ShapeDtypeStruct:
    """Returns a parameter, sharded along its largest axis that can be."""
    if devices == 1:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    spec: list[str | None] = [None] * len(shape)
    divisible = [size for size in shape if size % devices == 0]
    if divisible:
        spec[shape.index(max(divisible))] = "devices"
    mesh = jax.sharding.AbstractMesh(
        (devices,), ("devices",), axis_types=(axis_type,)
    )
    sharding = jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec(*spec)
    )
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)


def _dense(inputs, outputs):
    return [(inputs, outputs), (outputs,)]


def _norm(width):
    return [(width,), (width,)]


def _conv(size, inputs, outputs):
    return [(size, size, inputs, outputs), *_norm(outputs)]


def _bottleneck(inputs, width):
    return [
        *_conv(1, inputs, width),
        *_conv(3, width, width),
        *_conv(1, width, 4 * width),
    ]


def _stage(inputs, width, blocks):
    return [
        *_conv(1, inputs, 4 * width),  # The shortcut.
        *_bottleneck(inputs, width),
        *((blocks - 1) * _bottleneck(4 * width, width)),
    ]


# The query, key, value and output projections, then gate, up and down, each
# after the scale of a norm.
_LLAMA_BLOCK = [
    *((8192,), (8192, 8192), (8192, 1024), (8192, 1024), (8192, 8192)),
    *((8192,), (8192, 28672), (8192, 28672), (28672, 8192)),
]
_LLAMA_ENDS = [(128256, 8192), (8192,), (8192, 128256)]

# The shapes of models' parameters.
SHAPES: dict[str, list[tuple[int, ...]]] = {
    # Three layers of 512 on images of 28 x 28: 6 leaves.
    "mlp": [*_dense(784, 512), *_dense(512, 512), *_dense(512, 10)],
    # He et al. 2015: 25.6 M parameters in 161 leaves.
    "resnet50": [
        *_conv(7, 3, 64),
        *_stage(64, 64, 3),
        *_stage(256, 128, 4),
        *_stage(512, 256, 6),
        *_stage(1024, 512, 3),
        *_dense(2048, 1000),
    ],
    # GPT-2 small, Radford et al. 2019: 124 M parameters in 148 leaves.
    "gpt2": [
        *((50257, 768), (1024, 768)),
        *(
            12
            * [
                *_norm(768),
                *_dense(768, 3 * 768),
                *_dense(768, 768),
                *_norm(768),
                *_dense(768, 4 * 768),
                *_dense(4 * 768, 768),
            ]
        ),
        *_norm(768),
    ],
    # Llama 3 70B, Grattafiori et al. 2024: 70.6 G parameters in 12 leaves,
    # its 80 layers stacked for jax.lax.scan, or in 723.
    "llama3-70b": [*_LLAMA_ENDS, *((80, *shape) for shape in _LLAMA_BLOCK)],
    "llama3-70b-layers": [*_LLAMA_ENDS, *(80 * _LLAMA_BLOCK)],
}
