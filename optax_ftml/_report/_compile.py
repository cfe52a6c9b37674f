"""Compiles a program for devices that need not be there.

The compiler runs as a process of its own, this file its script, because libtpu
takes its settings from the environment, keeps a lock file for as long as its
process lives, logs to standard error, and may abort.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
import time
from typing import Any
from typing import NamedTuple

import jax
from jax import export
from jax.experimental import mesh_utils
from jax.experimental import topologies

# What XLA is told about a GPU, in the terms of its GpuTargetConfigProto. From
# NVIDIA's data sheets and the compute capabilities in the CUDA programming
# guide.
_GPUS: dict[str, dict[str, Any]] = {
    "a100": {
        "name": "NVIDIA A100-SXM4-80GB",
        "capability": (8, 0),
        "core_count": 108,
        "fpus_per_core": 64,
        "clock_rate_ghz": 1.41,
        "memory_bandwidth": 2_039_000_000_000,
        "device_memory_size": 80 * 2**30,
        "l2_cache_size": 40 * 2**20,
        "shared_memory_per_core": 164 * 2**10,
        "shared_memory_per_block_optin": 163 * 2**10,
    },
    "h100": {
        "name": "NVIDIA H100 80GB HBM3",
        "capability": (9, 0),
        "core_count": 132,
        "fpus_per_core": 128,
        "clock_rate_ghz": 1.98,
        "memory_bandwidth": 3_352_000_000_000,
        "device_memory_size": 80 * 2**30,
        "l2_cache_size": 50 * 2**20,
        "shared_memory_per_core": 228 * 2**10,
        "shared_memory_per_block_optin": 227 * 2**10,
    },
}

_TARGETS = (
    f"None for the default device, {', '.join(map(repr, _GPUS))}, or 'tpu:' "
    "and a topology that libtpu knows, such as 'tpu:v5e:2x2' or "
    "'tpu:v5p:8x8x8' (v2, v3, v4, v5e, v5p, v6e and tpu7x; chips along each "
    "axis)"
)


class Compiled(NamedTuple):
    """What is wanted of a compiled program."""

    hlo: str
    temporary_bytes: int
    xla_bytes_accessed: float | None
    trace_seconds: float
    compile_seconds: float


def compile_step(
    jitted: Any, args: tuple[Any, Any], target: str | None
) -> Compiled:
    """Compiles a jitted function whose first argument is donated.

    Args:
        jitted: The function.
        args: Its arguments as shapes; for an absent target any shardings are
            over an abstract mesh.
        target: The name of a target, or None for the default device.

    Returns:
        The compiled program.

    Raises:
        ValueError: An unknown target, one that its compiler refuses, or one
            with another number of devices than the mesh has.
        ImportError: A compiler that is not installed.
        MemoryError: A program that does not fit into the device's memory.
        RuntimeError: A compiler that failed.
    """
    start = time.perf_counter()
    if target is None:
        lowered = jitted.lower(*args)
        trace_seconds = time.perf_counter() - start
        return _compile(lowered)._replace(trace_seconds=trace_seconds)
    exported = export.export(jitted, platforms=[_platform(target)])(*args)
    trace_seconds = time.perf_counter() - start
    process = subprocess.run(
        [sys.executable, "-P", __file__, target],
        input=pickle.dumps((exported.serialize(), args)),
        capture_output=True,
        env={
            **os.environ,
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "JAX_ENABLE_X64": str(int(jax.config.read("jax_enable_x64"))),
            "JAX_PLATFORMS": "cpu",
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
            "TPU_SKIP_MDS_QUERY": "1",
        },
    )
    if process.returncode:
        log = process.stderr.decode(errors="replace")[-4000:]
        raise RuntimeError(
            f"the compiler for target {target!r} ended with exit status "
            f"{process.returncode}: a fault of its own or of its installation. "
            "Try pip install --upgrade 'optax-ftml[aot]', or report what it "
            f"said last to https://github.com/openxla/xla/issues:\n{log}"
        )
    result = pickle.loads(process.stdout)
    if isinstance(result, Exception):
        raise result
    return Compiled(*result)._replace(trace_seconds=trace_seconds)


def _platform(target):
    if target in _GPUS:
        platform = "cuda"
        compilers = ["jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"]
    elif target.startswith("tpu:"):
        platform, compilers = "tpu", ["libtpu"]
    else:
        raise ValueError(f"target must be {_TARGETS}; got {target!r}.")
    missing = [] if any(map(_is_installed, compilers)) else compilers[:1]
    missing += [name for name in ["flatbuffers"] if not _is_installed(name)]
    if missing:
        raise ImportError(
            f"target {target!r} needs {' and '.join(missing)}, which "
            "pip install 'optax-ftml[aot]' installs."
        )
    return platform


def _is_installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # Nor is its parent.
        return False


def _compile(lowered, options=None):
    start = time.perf_counter()
    compiled = lowered.compile(options)
    seconds = time.perf_counter() - start
    return Compiled(
        hlo=compiled.as_text(),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        xla_bytes_accessed=(compiled.cost_analysis() or {}).get(
            "bytes accessed"
        ),
        trace_seconds=0.0,
        compile_seconds=seconds,
    )


def _compile_exported(target, serialized, args):
    exported = export.deserialize(bytearray(serialized))
    devices = _devices(target, exported.nr_devices)
    args = jax.tree.map(lambda x: _place(x, devices), args)
    lowered = jax.jit(exported.call, donate_argnums=0).lower(*args)
    # Autotuning would run kernels.
    options = {"xla_gpu_autotune_level": "0"} if target in _GPUS else None
    try:
        return _compile(lowered, options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(
            "a step of this optimizer does not fit into the memory of target "
            f"{target!r}: shard the parameters over more devices, or keep "
            f"them or the state in a narrower dtype. {error}"
        ) from None


def _devices(target, count):
    if target in _GPUS:
        return topologies.get_topology_desc(
            platform="cuda",
            topology=f"1x1x{count}",
            target_config=_target_config(**_GPUS[target]),
        ).devices
    name = target.removeprefix("tpu:")
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=name
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"target {target!r}: libtpu has no topology {name!r}; give one "
            "such as v5e:2x2 or v5p:8x8x8, a generation and its chips along "
            f"each axis. {error}"
        ) from None
    if count not in (1, len(devices)):
        raise ValueError(
            f"target {target!r} has {len(devices)} devices, the parameters' "
            f"mesh {count}: give the mesh as many."
        )
    return devices[:count]


def _target_config(name, capability, **numbers):
    lines = "\n".join(f"  {field}: {value}" for field, value in numbers.items())
    major, minor = capability
    return f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          threads_per_warp: 32
          threads_per_block_limit: 1024
          threads_per_core_limit: 2048
          registers_per_block_limit: 65536
          registers_per_core_limit: 65536
          shared_memory_per_block: 49152
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
        {lines}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 7 }}
        runtime_version {{ major: 12 minor: 8 }}
        device_description_str: "{name}"
    """


def _place(x, devices):
    if x.sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(devices[0])
    else:
        mesh = x.sharding.mesh
        sharding = jax.sharding.NamedSharding(
            jax.sharding.Mesh(
                mesh_utils.create_device_mesh(mesh.axis_sizes, devices),
                mesh.axis_names,
                axis_types=mesh.axis_types,
            ),
            x.sharding.spec,
        )
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _main():
    # What libraries print goes to standard error, and the result alone out.
    output = os.dup(1)
    os.dup2(2, 1)
    request = pickle.load(sys.stdin.buffer)
    try:
        result = tuple(_compile_exported(sys.argv[1], *request))
    except (MemoryError, ValueError) as error:
        result = error
    with os.fdopen(output, "wb") as file:
        pickle.dump(result, file)


if __name__ == "__main__":
    _main()
