"""The shapes of well-known models' parameters, for the report's command."""

import jax


def _dense(inputs, outputs):
    return [(inputs, outputs), (outputs,)]


def _norm(width):
    return [(width,), (width,)]


def _conv(size, inputs, outputs):
    return [(size, size, inputs, outputs), *_norm(outputs)]


def _stage(inputs, width, blocks):
    """Returns a ResNet's stage: a shortcut, then blocks of three."""
    shapes = _conv(1, inputs, 4 * width)
    for _ in range(blocks):
        shapes += _conv(1, inputs, width) + _conv(3, width, width)
        shapes += _conv(1, width, 4 * width)
        inputs = 4 * width
    return shapes


_GPT2_BLOCK = [
    *(_norm(768) + _dense(768, 3 * 768) + _dense(768, 768)),
    *(_norm(768) + _dense(768, 4 * 768) + _dense(4 * 768, 768)),
]
# The query, key, value and output projections, then gate, up and down, each
# after the scale of a norm.
_LLAMA_BLOCK = [
    *((8192,), (8192, 8192), (8192, 1024), (8192, 1024), (8192, 8192)),
    *((8192,), (8192, 28672), (8192, 28672), (28672, 8192)),
]
_LLAMA_ENDS = [(128256, 8192), (8192,), (8192, 128256)]

SHAPES: dict[str, list[tuple[int, ...]]] = {
    # Three layers of 512 on images of 28 x 28: 6 leaves.
    "mlp": _dense(784, 512) + _dense(512, 512) + _dense(512, 10),
    # He et al. 2015: 25.6 M parameters in 161 leaves.
    "resnet50": [
        *(_conv(7, 3, 64) + _stage(64, 64, 3) + _stage(256, 128, 4)),
        *(_stage(512, 256, 6) + _stage(1024, 512, 3) + _dense(2048, 1000)),
    ],
    # GPT-2 small, Radford et al. 2019: 124 M parameters in 148 leaves.
    "gpt2": [(50257, 768), (1024, 768), *(12 * _GPT2_BLOCK), *_norm(768)],
    # Llama 3 70B, Grattafiori et al. 2024: 70.6 G parameters in 12 leaves,
    # its 80 layers stacked for jax.lax.scan, or in 723.
    "llama3-70b": [*_LLAMA_ENDS, *((80, *shape) for shape in _LLAMA_BLOCK)],
    "llama3-70b-layers": [*_LLAMA_ENDS, *(80 * _LLAMA_BLOCK)],
}


def params(
    model: str,
    dtype: jax.typing.DTypeLike,
    devices: int = 1,
    axis_type: jax.sharding.AxisType = jax.sharding.AxisType.Auto,
) -> list[jax.ShapeDtypeStruct]:
    """Returns a model's parameters, sharded over devices.

    Each is sharded along its largest axis that the devices divide.
    """
    mesh = jax.sharding.AbstractMesh(
        (devices,), ("devices",), axis_types=(axis_type,)
    )

    def param(shape):
        if devices == 1:
            return jax.ShapeDtypeStruct(shape, dtype)
        spec = [None] * len(shape)
        divisible = [size for size in shape if size % devices == 0]
        if divisible:
            spec[shape.index(max(divisible))] = "devices"
        spec = jax.sharding.PartitionSpec(*spec)
        sharding = jax.sharding.NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    return [param(shape) for shape in SHAPES[model]]
