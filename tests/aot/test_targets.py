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
from tests import reference
from tests.report import test_fusion_report

# Each with the dtype of its parameters, and its state's bytes per parameter.
FORMS = {
    "delta": (optax_ftml.ftml(), jnp.float32, 4),
    "delta, bfloat16": (optax_ftml.ftml(), jnp.bfloat16, 4),
    "leader": (
        optax_ftml.ftml(prox=optax_ftml.prox.box(-1.0, 1.0)),
        *(jnp.float32, 8),
    ),
    "rounding": (reference.OPTIMIZERS["rounding"](1e-3), jnp.bfloat16, 2),
    "master": (
        optax_ftml.with_master_params(optax_ftml.ftml(1e-3)),
        *(jnp.bfloat16, 8),
    ),
}
every_pod = pytest.mark.parametrize(
    ("target", "devices", "axis_type"),
    [
        ("tpu:v5e:16x16", 256, AxisType.Auto),
        ("tpu:v5p:8x8x8", 512, AxisType.Explicit),
        ("h100", 256, AxisType.Auto),
    ],
)


def chain(optimizer):
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-4),
        optimizer,
    )


def report(optimizer, target, model, dtype=jnp.float32, *sharding):
    params = _models.params(model, dtype, *sharding)
    return optax_ftml.fusion_report(optimizer, params, target)


@pytest.mark.parametrize("target", ["h100", "tpu:v5e:2x2"])
@pytest.mark.parametrize("form", FORMS)
def test_a_step_is_one_kernel_per_leaf_and_the_fewest_bytes(form, target):
    optimizer, dtype, state_bytes = FORMS[form]
    # Random bits of large leaves take long to compile.
    model = "mlp" if form in ("rounding", "master") else "gpt2"
    alone = report(optimizer, target, model, dtype)
    is_tpu = target.startswith("tpu")
    if is_tpu and form == "master":  # Its biases' copies have their own.
        assert alone.kernels <= alone.leaves + 3
    else:
        assert alone.kernels == alone.fusions == alone.leaves
    if form != "rounding":  # Which makes a key for each leaf.
        limit = 3 if form == "leader" else 2
        assert alone.scalar_kernels <= limit + 10 * is_tpu
    assert alone.copies == 0
    assert alone.temporary_bytes < 64 * 1024
    assert alone.state_bytes_per_parameter == pytest.approx(state_bytes, 1e-3)
    # Parameters and state are read and written, the gradients are read.
    least = 3 * jnp.dtype(dtype).itemsize + 2 * state_bytes
    assert alone.moved_bytes_per_parameter == pytest.approx(least, 1e-2)
    # XLA counts the transfers to on-chip memory and the reading from it.
    if is_tpu and model == "gpt2":
        assert alone.transfers > 0
        assert alone.xla_bytes_accessed > alone.moved_bytes


@pytest.mark.parametrize("form", ["delta", "leader"])
def test_h100_runs_a_chain_in_two_passes(form):
    optimizer, _, state_bytes = FORMS[form]
    chained = report(chain(optimizer), "h100", "gpt2")
    assert chained.kernels < 355
    assert chained.copies == 0
    assert chained.temporary_bytes < 128 * 1024
    # Over the step alone, one more reading of the gradients, for their norm.
    least = 16 + 2 * state_bytes
    assert chained.moved_bytes_per_parameter == pytest.approx(least, 1e-2)


def test_h100_copies_in_the_textbook_recursion():
    textbook = report(test_fusion_report.textbook(), "h100", "gpt2")
    assert textbook.copies == 148
    assert textbook.temporary_bytes > 150e6
    assert textbook.state_bytes_per_parameter == pytest.approx(12)


@every_pod
@pytest.mark.parametrize("form", ["delta", "leader", "rounding"])
def test_many_devices_communicate_nothing(target, devices, axis_type, form):
    optimizer, dtype, state_bytes = FORMS[form]
    sharding = devices, axis_type
    pod = report(optimizer, target, "llama3-70b", dtype, *sharding)
    assert pod.parameters == devices * pod.device_parameters
    assert pod.collectives == ()
    assert pod.kernels == pod.leaves
    assert pod.temporary_bytes < 16e6
    assert pod.state_bytes_per_parameter == pytest.approx(state_bytes, 1e-3)


@every_pod
def test_many_devices_communicate_the_norm_of_a_chain(
    target, devices, axis_type
):
    optimizer, dtype, _ = FORMS["delta"]
    sharding = devices, axis_type
    pod = report(chain(optimizer), target, "llama3-70b", dtype, *sharding)
    assert pod.collectives == (("all-reduce", 4),)
    assert pod.temporary_bytes < 16e6


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("tpu:v99:2x2", r"no topology 'v99:2x2'.*Invalid TPU"),
        ("tpu:v5e:2x2", "4 devices, the parameters' mesh 2"),
    ],
)
def test_what_is_no_such_target_is_refused(target, words):
    with pytest.raises(ValueError, match=words):
        report(optax.sgd(0.1), target, "mlp", jnp.float32, 2)


def test_command_prints_what_to_do_and_no_traceback(capsys):
    target = ["--params", "llama3-70b", "--target", "tpu:v5e:2x2"]
    assert __main__.main(["report", *target]) == 1
    assert "shard the parameters over more devices" in capsys.readouterr().out
