"""What XLA makes of the step for an H100, a TPU and TPU pods.

Needs the `aot` extra and is therefore run by name: pytest tests/aot
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ftml
from optax_ftml import __main__
from optax_ftml._report import _models
from tests.report import test_fusion_report

FORMS = {
    "delta": optax_ftml.ftml(),
    "leader": optax_ftml.ftml(prox=optax_ftml.prox.box(-1.0, 1.0)),
}
STATE_BYTES = {"delta": 4, "leader": 8}
every_form = pytest.mark.parametrize("form", FORMS)
every_pod = pytest.mark.parametrize(
    ("target", "devices"), [("tpu:v5e:16x16", 256), ("tpu:v5p:8x8x8", 512)]
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


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("h100", jnp.float32),
        ("h100", jnp.bfloat16),
        ("tpu:v5e:2x2", jnp.float32),
    ],
)
@every_form
def test_a_step_is_one_kernel_per_leaf_and_the_fewest_bytes(
    form, target, dtype
):
    alone = report(FORMS[form], target, "gpt2", dtype)
    assert alone.kernels == alone.fusions == alone.leaves == 148
    is_tpu = target.startswith("tpu")
    assert alone.scalar_kernels <= {"delta": 2, "leader": 3}[form] + 10 * is_tpu
    assert alone.copies == 0
    assert alone.temporary_bytes < 64 * 1024
    state_bytes = STATE_BYTES[form]
    assert alone.state_bytes_per_parameter == pytest.approx(state_bytes, 1e-4)
    # Parameters and state are read and written, the gradients are read.
    least = 3 * jnp.dtype(dtype).itemsize + 2 * state_bytes
    assert alone.moved_bytes_per_parameter == pytest.approx(least, 1e-2)
    # XLA counts the transfers to on-chip memory and the reading from it.
    if is_tpu:
        assert alone.transfers > 0
        assert alone.xla_bytes_accessed > alone.moved_bytes


@every_form
def test_h100_runs_a_chain_in_two_passes(form):
    chained = report(chain(FORMS[form]), "h100", "gpt2")
    assert chained.kernels < 355
    assert chained.copies == 0
    assert chained.temporary_bytes < 128 * 1024
    # Over the step alone, one more reading of the gradients, for their norm.
    least = 16 + 2 * STATE_BYTES[form]
    assert chained.moved_bytes_per_parameter == pytest.approx(least, 1e-2)


def test_h100_copies_in_the_textbook_recursion():
    textbook = report(test_fusion_report.textbook(), "h100", "gpt2")
    assert textbook.copies == 148
    assert textbook.temporary_bytes > 150e6
    assert textbook.state_bytes_per_parameter == pytest.approx(12)


@every_pod
@every_form
def test_pods_communicate_nothing(target, devices, form):
    pod = report(FORMS[form], target, "llama3-70b", jnp.float32, devices)
    assert pod.parameters == devices * pod.device_parameters
    assert pod.collectives == ()
    assert pod.kernels == pod.leaves
    assert pod.temporary_bytes < 16e6
    state_bytes = STATE_BYTES[form]
    assert pod.state_bytes_per_parameter == pytest.approx(state_bytes, 1e-4)


@every_pod
def test_pods_communicate_the_norm_of_a_chain(target, devices):
    optimizer = chain(FORMS["delta"])
    pod = report(optimizer, target, "llama3-70b", jnp.float32, devices)
    assert pod.collectives == (("all-reduce", 4),)
    assert pod.temporary_bytes < 16e6


def test_gpus_are_sharded_over_as_many_as_the_mesh_has():
    sgd = report(chain(optax.sgd(0.1)), "h100", "mlp", jnp.float32, 2)
    assert [kind for kind, _ in sgd.collectives] == ["all-reduce"]
    assert sgd.device_parameters < sgd.parameters


def test_unknown_topology_is_refused_in_libtpu_s_words():
    with pytest.raises(ValueError, match=r"no topology 'v99:2x2'.*Invalid TPU"):
        report(optax.sgd(0.1), "tpu:v99:2x2", "mlp")


def test_mesh_of_another_size_is_refused():
    with pytest.raises(ValueError, match="4 devices, the parameters' mesh 2"):
        report(optax.sgd(0.1), "tpu:v5e:2x2", "mlp", jnp.float32, 2)


def test_step_that_does_not_fit_in_memory_says_so():
    params = jax.ShapeDtypeStruct((2**33,), jnp.float32)
    with pytest.raises(MemoryError, match=r"shard.*more devices"):
        optax_ftml.fusion_report(optax.sgd(0.1), params, "tpu:v5e:2x2")


def test_command_prints_what_to_do_and_no_traceback(capsys):
    target = ["--params", "llama3-70b", "--target", "tpu:v5e:2x2"]
    assert __main__.main(["report", *target]) == 1
    assert "shard the parameters over more devices" in capsys.readouterr().out
