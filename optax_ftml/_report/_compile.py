"""Compiles a step for the default device, or for one that is not here.

The compiler for an absent device runs in a process of its own, this file its
script: libtpu takes its settings from the environment, keeps a lock file for
as long as its process lives, logs to standard error, and may abort.
"""

import functools
import importlib.util
import os
import pickle
import subprocess
import sys
import time
from typing import Any

import jax
from jax import export
from jax.experimental import topologies

# XLA's GpuTargetConfigProto, from NVIDIA's data sheets and the table of compute
# capabilities in the CUDA programming guide.
_GPUS = {
    "a100": """
        cuda_compute_capability { major: 8 minor: 0 }
        core_count: 108 fpus_per_core: 64 clock_rate_ghz: 1.41
        memory_bandwidth: 2039000000000 device_memory_size: 85899345920
        l2_cache_size: 41943040
        shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912
    """,
    "h100": """
        cuda_compute_capability { major: 9 minor: 0 }
        core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
        memory_bandwidth: 3352000000000 device_memory_size: 85899345920
        l2_cache_size: 52428800
        shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
    """,
}
_GPU_CONFIG = """
    gpu_device_info {
        %s
        threads_per_warp: 32
        threads_per_block_limit: 1024 threads_per_core_limit: 2048
        registers_per_block_limit: 65536 registers_per_core_limit: 65536
        shared_memory_per_block: 49152
        block_dim_limit_x: 2147483647
        block_dim_limit_y: 65535 block_dim_limit_z: 65535
    }
    platform_name: "CUDA"
    dnn_version_info { major: 9 minor: 7 }
    runtime_version { major: 12 minor: 8 }
    device_description_str: "%s"
"""


def compile_step(
    jitted: Any, args: tuple[Any, Any], target: str | None
) -> dict[str, Any]:
    """Compiles a jitted function whose first argument is donated.

    Args:
        jitted: The function.
        args: Its arguments as shapes; for an absent target any shardings are
            over an abstract mesh.
        target: The name of a target, or None for the default device.

    Returns:
        The program, its memory and the times, by the names of the fields of
        :class:`optax_ftml.FusionReport`.

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
        traced = time.perf_counter()
        compiled = _compile(lowered)
    else:
        platforms = [_installed_platform(target)]
        exported = export.export(jitted, platforms=platforms)(*args)
        traced = time.perf_counter()
        compiled = _compile_elsewhere(target, exported.serialize(), args)
    return {"trace_seconds": traced - start, **compiled}


def _compile(lowered, options=None):
    start = time.perf_counter()
    compiled = lowered.compile(options)
    return {
        "compile_seconds": time.perf_counter() - start,
        "hlo": compiled.as_text(),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "xla_bytes_accessed": (compiled.cost_analysis() or {}).get(
            "bytes accessed"
        ),
    }


def _installed_platform(target):
    if target in _GPUS:
        platform, compilers = "cuda", ["jax_cuda12_plugin", "jax_cuda13_plugin"]
    elif target.startswith("tpu:"):
        platform, compilers = "tpu", ["libtpu"]
    else:
        raise ValueError(
            "target must be None for the default device, "
            f"{', '.join(map(repr, _GPUS))}, or 'tpu:' and a topology that "
            "libtpu knows, such as 'tpu:v5e:2x2' or 'tpu:v5p:8x8x8' (v2, v3, "
            "v4, v5e, v5p, v6e and tpu7x; chips along each axis); got "
            f"{target!r}."
        )
    find = importlib.util.find_spec
    if not (any(map(find, compilers)) and find("flatbuffers")):
        raise ImportError(
            f"target {target!r} needs {compilers[0]} and flatbuffers: "
            "pip install 'optax-ftml[aot]'"
        )
    return platform


def _compile_elsewhere(target, *request):
    process = subprocess.run(
        [sys.executable, "-P", __file__],
        input=pickle.dumps((target, *request)),
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
    return result


def _main():
    # What libraries print goes to standard error, and the result alone out.
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        result = _compile_exported(*pickle.load(sys.stdin.buffer))
    except (MemoryError, ValueError) as error:
        result = error
    with os.fdopen(output, "wb") as file:
        pickle.dump(result, file)


def _compile_exported(target, serialized, args):
    exported = export.deserialize(bytearray(serialized))
    devices = _devices(target, exported.nr_devices)

    @functools.cache
    def concrete(sharding):
        if sharding is None:
            return jax.sharding.SingleDeviceSharding(devices[0])
        mesh = jax.make_mesh(
            sharding.mesh.axis_sizes,
            sharding.mesh.axis_names,
            axis_types=sharding.mesh.axis_types,
            devices=devices,
        )
        return jax.sharding.NamedSharding(mesh, sharding.spec)

    args = jax.tree.map(lambda x: x.update(sharding=concrete(x.sharding)), args)
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
            target_config=_GPU_CONFIG % (_GPUS[target], target),
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


if __name__ == "__main__":
    _main()
