"""What XLA makes of an optimizer's step."""

import collections
import dataclasses
import math
from typing import Any

import jax
import optax

from optax_ftml._report import _compile, _hlo


@dataclasses.dataclass(frozen=True)
class FusionReport:
    """What XLA made of one step, counted from the HLO of one device's program.

    Printed, it is a table.

    Attributes:
        target: The device.
        leaves: Arrays in the parameters.
        parameters: Numbers in the parameters.
        device_parameters: Numbers in one device's shards of them.
        kernels: Instructions that execute on arrays: fusions, copies,
            collectives and any other.
        fusions: How many of the kernels are fusions.
        scalar_kernels: Instructions that execute on scalars alone.
        copies: Arrays copied as they are, within one memory.
        copied_bytes: The bytes of these arrays.
        transfers: Arrays, or parts, moved between main memory and an on-chip
            one ahead of the kernel that wants them; these are no kernels.
        collectives: Kind and bytes of each collective operation's result.
        temporary_bytes: Memory that the program needs besides its arguments
            and results.
        state_bytes: Memory of one device's shards of the optimizer's state.
        moved_bytes: Bytes read from and written to main memory: each operand
            and each result of an executed instruction once, unless it is in
            on-chip memory.
        xla_bytes_accessed: XLA's own estimate, where its backend makes one; it
            adds up all operands and results whatever memory they are in, and
            what is moved between memories.
        trace_seconds: Time to trace and lower the step.
        compile_seconds: Time to compile it.
        hlo: The compiled program.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optax_ftml
        >>> params = jax.ShapeDtypeStruct((64, 64), jnp.float32)
        >>> report = optax_ftml.fusion_report(optax.sgd(0.1), params)
        >>> report.kernels, report.copies, report.moved_bytes_per_parameter
        (1, 0, 12.0)
    """

    target: str
    leaves: int
    parameters: int
    device_parameters: int
    kernels: int
    fusions: int
    scalar_kernels: int
    copies: int
    copied_bytes: int
    transfers: int
    collectives: tuple[tuple[str, int], ...]
    temporary_bytes: int
    state_bytes: int
    moved_bytes: int
    xla_bytes_accessed: float | None
    trace_seconds: float
    compile_seconds: float
    hlo: str = dataclasses.field(repr=False)

    @property
    def kernels_per_leaf(self) -> float:
        """Kernels on arrays per leaf of the parameters."""
        return self.kernels / max(self.leaves, 1)

    @property
    def state_bytes_per_parameter(self) -> float:
        """Bytes of state per parameter."""
        return self._per_parameter(self.state_bytes)

    @property
    def moved_bytes_per_parameter(self) -> float:
        """Bytes from and to main memory per parameter."""
        return self._per_parameter(self.moved_bytes)

    def _per_parameter(self, nbytes):
        return nbytes / max(self.device_parameters, 1)

    def __str__(self) -> str:
        """Returns a table."""
        state = self.state_bytes_per_parameter
        moved = self.moved_bytes_per_parameter
        estimate = "none"
        if self.xla_bytes_accessed is not None:
            estimate = f"{self._per_parameter(self.xla_bytes_accessed):.2f}"
        collectives = collections.Counter(self.collectives).items()
        rows = {
            "target": self.target,
            "parameters": f"{self.parameters:,} in {self.leaves:,} leaves",
            "parameters per device": f"{self.device_parameters:,}",
            "kernels": f"{self.kernels:,} ({self.fusions:,} fusions)",
            "kernels per leaf": f"{self.kernels_per_leaf:.2f}",
            "kernels on scalars alone": f"{self.scalar_kernels:,}",
            "copies": f"{self.copies:,} ({self.copied_bytes:,} bytes)",
            "transfers to and from on-chip memory": f"{self.transfers:,}",
            "collectives": ", ".join(
                f"{count} {kind} of {nbytes:,} bytes"
                for (kind, nbytes), count in collectives
            )
            or "none",
            "temporary memory": f"{self.temporary_bytes:,} bytes",
            "state bytes per parameter": f"{state:.2f}",
            "bytes moved per parameter": f"{moved:.2f}",
            "XLA's estimate of the same": estimate,
            "seconds to trace": f"{self.trace_seconds:.2f}",
            "seconds to compile": f"{self.compile_seconds:.2f}",
        }
        width = max(map(len, rows))
        return "\n".join(f"{k:<{width}}  {v}" for k, v in rows.items())


def fusion_report(
    optimizer: optax.GradientTransformation,
    params: Any,
    target: str | None = None,
) -> FusionReport:
    """Compiles one step of an optimizer and says what XLA made of it.

    The step is ``update`` and :func:`optax.apply_updates` under
    :func:`jax.jit`, with the parameters and the optimizer's state donated and
    gradients that have the parameters' dtypes and shardings. Nothing runs, and
    no array is made.

    Args:
        optimizer: Any optax optimizer.
        params: Arrays or :class:`jax.ShapeDtypeStruct`, with their shardings
            if they have them. For an absent target give these as
            :class:`jax.sharding.NamedSharding` over a
            :class:`jax.sharding.AbstractMesh` (or over any devices, of which
            only the mesh's shape counts). State with a parameter's shape and
            path has its sharding; other state is replicated.
        target: None for the default device, or a device that need not be
            there: ``"h100"``, ``"a100"``, or ``"tpu:"`` and the name of a
            topology, as in ``"tpu:v5e:2x2"``. These need
            ``pip install 'optax-ftml[aot]'``, and compile in a process of
            their own.

    Returns:
        A :class:`optax_ftml.FusionReport`.

    Raises:
        ValueError: An unknown ``target``, a topology that libtpu does not
            have, or a mesh of another size than the topology's.
        ImportError: The compiler for ``target`` is not installed.
        MemoryError: The step does not fit into the target's memory.
        RuntimeError: The compiler failed or crashed, with what it said last.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> params = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
        >>> report = optax_ftml.fusion_report(optax_ftml.ftml(), params)
        >>> report.copies, report.temporary_bytes < 1024
        (0, True)
        >>> print(f"{report.state_bytes_per_parameter:.2f}")
        4.00
    """
    params = jax.tree.map(lambda x: _shape(x, target), params)
    state = _sharded_like(params, jax.eval_shape(optimizer.init, params))
    # Lists of arrays, as jax.export knows no tree but JAX's own.
    donated, treedef = jax.tree.flatten((params, state))
    grads, params_treedef = jax.tree.flatten(params)

    def step(donated, grads):
        params, state = jax.tree.unflatten(treedef, donated)
        grads = jax.tree.unflatten(params_treedef, grads)
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.leaves((optax.apply_updates(params, updates), state))

    compiled = _compile.compile_step(
        jax.jit(step, donate_argnums=0), (donated, grads), target
    )
    return FusionReport(
        target=target or jax.devices()[0].device_kind,
        leaves=len(grads),
        parameters=sum(x.size for x in grads),
        device_parameters=sum(map(_device_size, grads)),
        state_bytes=sum(
            _device_size(x) * x.dtype.itemsize for x in jax.tree.leaves(state)
        ),
        **vars(_hlo.count(compiled["hlo"])),
        **compiled,
    )


def _shape(x, target):
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, jax.sharding.NamedSharding):
        sharding = None
    elif target is not None:
        sharding = jax.sharding.NamedSharding(
            sharding.mesh.abstract_mesh, sharding.spec
        )
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _sharded_like(params, state):
    """Shards what has a parameter's shape and path, and replicates the rest."""
    of_path = dict(jax.tree_util.tree_leaves_with_path(params))
    meshes = [p.sharding.mesh for p in of_path.values() if p.sharding]
    if not meshes:
        return state
    replicated = jax.sharding.NamedSharding(
        meshes[0], jax.sharding.PartitionSpec()
    )

    def shard(path, x):
        # The path ends with the parameter's: ('v', 'layer', 'kernel').
        ends = (path[start:] for start in range(len(path) + 1))
        param = next((of_path[end] for end in ends if end in of_path), x)
        sharding = param.sharding if param.shape == x.shape else None
        return x.update(sharding=x.sharding or sharding or replicated)

    return jax.tree_util.tree_map_with_path(shard, state)


def _device_size(x):
    shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
    return math.prod(shape)
