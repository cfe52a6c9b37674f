"""What XLA makes of both roundings at random, of bfloat16 parameters."""

import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType

import optax_ftml
from tests.aot import test_targets

OPTIMIZER = optax.chain(
    optax_ftml.ftml(1e-3, accumulator_dtype=jnp.bfloat16),
    optax_ftml.stochastic_rounding(),
)


@pytest.mark.parametrize(
    ("target", "name", "devices", "axis_type"),
    [
        ("h100", "mlp", 8, AxisType.Auto),
        ("h100", "llama3-70b", 256, AxisType.Auto),
        ("h100", "llama3-70b", 256, AxisType.Explicit),
        ("tpu:v5e:4x2", "mlp", 8, AxisType.Auto),
        ("tpu:v5e:4x2", "mlp", 8, AxisType.Explicit),
        ("tpu:v5e:16x16", "llama3-70b", 256, AxisType.Auto),
        ("tpu:v5e:16x16", "llama3-70b", 256, AxisType.Explicit),
    ],
)
def test_runs_one_kernel_per_leaf_and_sends_nothing(
    target, name, devices, axis_type
):
    report = test_targets.report(
        OPTIMIZER, target, name, jnp.bfloat16, devices, axis_type
    )
    assert report.kernels == report.fusions == report.leaves
    assert report.collectives == ()
    # Of a leaf, or of a device's part of one, there is no copy.
    assert report.copies == 0
    assert report.temporary_bytes < 64 * 1024
    assert report.state_bytes_per_parameter == pytest.approx(2, rel=1e-3)
    # Parameter and v are read and written, the gradient is read.
    assert report.moved_bytes_per_parameter == pytest.approx(10, rel=1e-2)


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("h100", jnp.bfloat16),
        ("h100", jnp.float16),
        ("tpu:v5e:2x2", jnp.bfloat16),
    ],
)
def test_a_master_copy_moves_the_fewest_bytes_there_can_be(target, dtype):
    optimizer = optax_ftml.with_master_params(optax_ftml.ftml(1e-3))
    report = test_targets.report(optimizer, target, "mlp", dtype)
    # A TPU computes the biases' copies in kernels of their own.
    assert report.kernels <= report.leaves + 3 * (target != "h100")
    assert report.copies == 0
    # Parameter, copy and v are read and written, the gradient is read.
    assert report.moved_bytes_per_parameter == pytest.approx(22, rel=1e-2)
