"""What XLA makes of the step for an H100, a TPU and TPU pods.

Needs the `aot` extra and is therefore run by name: pytest tests/aot
"""

import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType

import optax_ftml
from optax_ftml import __main__
from optax_ftml._report import _models
from tests.report import test_fusion_report

FORMS = {
    "delta": optax_ftml.ftml(),
    "leader": optax_ftml.ftml(prox=optax_ftml.prox.box(-1.0, 1.0)),
    "rounding": optax.chain(
        optax_ftml.ftml(accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    ),
}
STATE_BYTES = {"delta": 4, "leader": 8, "rounding": 2}


def chain(optimizer):
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-4),
        optimizer,
    )


def report(optimizer, target, model, dtype=jnp.float32, *sharding):
    params = _models.params(model, dtype, *sharding)
    return optax_ftml.fusion_report(optimizer, params, target)


@pytest.mark.parametrize(
    ("form", "target", "model", "dtype", "sharding"),
    [
        ("delta", "h100", "gpt2", jnp.float32, []),
        ("leader", "h100", "gpt2", jnp.float32, []),
        ("leader", "h100", "mlp", jnp.bfloat16, []),
        ("delta", "tpu:v5e:2x2", "gpt2", jnp.float32, []),
        ("leader", "tpu:v5e:2x2", "mlp", jnp.bfloat16, []),
        ("rounding", "h100", "mlp", jnp.bfloat16, [8]),
        ("rounding", "tpu:v5e:4x2", "mlp", jnp.bfloat16, [8]),
        ("delta", "tpu:v5e:16x16", "llama3-70b", jnp.float32, [256]),
        ("leader", "tpu:v5p:8x8x8", "llama3-70b", jnp.float32, [512]),
        *(
            ("rounding", target, "llama3-70b", jnp.bfloat16, [256, axis_type])
            for target in ("h100", "tpu:v5e:16x16")
            for axis_type in (AxisType.Auto, AxisType.Explicit)
        ),
    ],
)
def test_a_step_is_one_kernel_per_leaf_and_the_fewest_bytes(
    form, target, model, dtype, sharding
):
    step = report(FORMS[form], target, model, dtype, *sharding)
    assert step.kernels == step.fusions == step.leaves
    assert step.scalar_kernels <= 14
    assert step.collectives == ()
    # Of a leaf, or of a device's part of one, there is no copy.
    assert step.copies == 0
    assert step.temporary_bytes < 64 * 1024
    state_bytes = STATE_BYTES[form]
    assert step.state_bytes_per_parameter == pytest.approx(state_bytes, 1e-3)
    # Parameters and state are read and written, the gradients are read.
    least = 3 * jnp.dtype(dtype).itemsize + 2 * state_bytes
    assert step.moved_bytes_per_parameter == pytest.approx(least, 1e-2)
    if sharding:
        devices = sharding[0]
        assert step.parameters <= devices * step.device_parameters
    if target == "tpu:v5e:2x2":
        # XLA counts the transfers to on-chip memory and the reading from it.
        assert step.transfers > 0
        assert step.xla_bytes_accessed > step.moved_bytes


@pytest.mark.parametrize(
    ("target", "dtype"),
    [("h100", jnp.float16), ("tpu:v5e:2x2", jnp.bfloat16)],
)
def test_a_master_copy_moves_the_fewest_bytes_there_can_be(target, dtype):
    optimizer = optax_ftml.with_master_params(optax_ftml.ftml(1e-3))
    step = report(optimizer, target, "mlp", dtype)
    # A TPU computes the biases' copies in kernels of their own.
    assert step.kernels <= step.leaves + 3 * (target != "h100")
    assert step.copies == 0
    # Parameter, copy and v are read and written, the gradient is read.
    assert step.moved_bytes_per_parameter == pytest.approx(22, rel=1e-2)


@pytest.mark.parametrize("form", ["delta", "leader"])
def test_h100_runs_a_chain_in_two_passes(form):
    chained = report(chain(FORMS[form]), "h100", "gpt2")
    assert chained.kernels < 355
    assert chained.copies == 0
    assert chained.temporary_bytes < 128 * 1024
    # Over the step alone, one more reading of the gradients, for their norm.
    least = 16 + 2 * STATE_BYTES[form]
    assert chained.moved_bytes_per_parameter == pytest.approx(least, 1e-2)


def test_h100_copies_in_the_textbook_recursion():
    textbook = report(test_fusion_report.textbook(), "h100", "mlp")
    assert textbook.copies == 6
    assert textbook.temporary_bytes > 4e5
    assert textbook.state_bytes_per_parameter == pytest.approx(12)


@pytest.mark.parametrize(
    ("target", "devices"),
    [("tpu:v5e:16x16", 256), ("tpu:v5p:8x8x8", 512), ("h100", 2)],
)
def test_devices_communicate_the_norm_of_a_chain(target, devices):
    model = "mlp" if target == "h100" else "llama3-70b"
    step = report(chain(FORMS["delta"]), target, model, jnp.float32, devices)
    assert [kind.removesuffix("-start") for kind, _ in step.collectives] == [
        "all-reduce"
    ]
    assert step.temporary_bytes < 16e6
    assert step.device_parameters < step.parameters


def test_unknown_topology_is_refused_in_libtpu_s_words():
    with pytest.raises(ValueError, match=r"no topology 'v99:2x2'.*Invalid TPU"):
        report(optax.sgd(0.1), "tpu:v99:2x2", "mlp")


def test_mesh_of_another_size_is_refused():
    with pytest.raises(ValueError, match="4 devices, the parameters' mesh 2"):
        report(optax.sgd(0.1), "tpu:v5e:2x2", "mlp", jnp.float32, 2)


def test_command_says_what_to_do_where_it_does_not_fit_in_memory(capsys):
    target = ["--params", "llama3-70b", "--target", "tpu:v5e:2x2"]
    assert __main__.main(["report", *target]) == 1
    assert "shard the parameters over more devices" in capsys.readouterr().out
