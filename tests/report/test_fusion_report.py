"""The report, on programs whose counts are known."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ftml
from optax_ftml._report import _command
from optax_ftml._report import _hlo

SHAPES = [(64, 128), (4096,), (16, 16, 16)]
SIZE = sum(map(lambda shape: jnp.zeros(shape).size, SHAPES))


def structs(dtype=jnp.float32):
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in SHAPES]


def unfused(learning_rate):
    """Two kernels a leaf: XLA fuses no sort into what uses its result."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(
            lambda g: -learning_rate * jax.lax.sort(g), updates
        ), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def textbook(learning_rate=0.0025, b1=0.6, b2=0.999, eps=1e-8):
    """The d, v, z recursion, whose new d does not depend on the old array."""

    def init(params):
        return 0, *(optax.tree.zeros_like(params) for _ in range(3))

    def update(updates, state, params):
        count = state[0] + 1

        def leaf(g, d, v, z, theta):
            v = b2 * v + (1 - b2) * g**2
            new_d = (jnp.sqrt(v / (1 - b2**count)) + eps) * (1 - b1**count)
            new_d = new_d / learning_rate
            z = b1 * z + (1 - b1) * g - (new_d - b1 * d) * theta
            return -z / new_d - theta, new_d, v, z

        out = jax.tree.map(leaf, updates, *state[1:], params)
        inner = jax.tree.structure((0, 0, 0, 0))
        updates, *state = jax.tree.transpose(
            jax.tree.structure(params), inner, out
        )
        return updates, (count, *state)

    return optax.GradientTransformation(init, update)


def test_sgd_is_one_kernel_a_leaf_and_twelve_bytes_a_parameter():
    report = optax_ftml.fusion_report(optax.sgd(0.1), structs())
    assert report.leaves == 3
    assert report.parameters == report.device_parameters == SIZE
    assert report.kernels == report.fusions == 3
    assert report.scalar_kernels == 0
    assert report.kernels_per_leaf == 1
    assert report.copies == report.copied_bytes == 0
    assert report.temporary_bytes == report.state_bytes == 0
    assert report.collectives == ()
    assert report.moved_bytes_per_parameter == 12
    assert report.xla_bytes_accessed == pytest.approx(12 * SIZE, rel=1e-2)
    assert report.trace_seconds > 0
    assert report.compile_seconds > 0


def test_what_does_not_fuse_costs_a_kernel_and_a_temporary():
    report = optax_ftml.fusion_report(unfused(0.1), structs())
    assert report.kernels == 6
    copied_first = 4 if jax.default_backend() == "gpu" else 0
    assert report.moved_bytes_per_parameter == 20 + copied_first
    assert report.temporary_bytes >= 4 * SIZE


def test_adam_keeps_eight_bytes_and_a_count():
    report = optax_ftml.fusion_report(optax.adam(0.1), structs())
    assert report.state_bytes == 8 * SIZE + 4
    assert report.kernels % 3 == 0
    assert report.copies == 0
    assert report.moved_bytes == pytest.approx(
        report.xla_bytes_accessed, rel=1e-2
    )


def test_textbook_recursion_copies_arrays():
    report = optax_ftml.fusion_report(textbook(), structs())
    assert report.state_bytes == 12 * SIZE + 4
    assert report.copies >= 3
    assert report.copied_bytes >= 4 * SIZE


@pytest.mark.parametrize(
    ("dtype", "state_bytes"), [(jnp.float32, 4), (jnp.bfloat16, 4)]
)
def test_delta_form_keeps_one_slot(dtype, state_bytes):
    report = optax_ftml.fusion_report(optax_ftml.ftml(), structs(dtype))
    assert report.state_bytes == state_bytes * SIZE + 4
    assert report.copies == 0


@pytest.mark.parametrize(
    "prox", [optax_ftml.prox.box(-1, 1), optax_ftml.prox.elastic_net(0.1, 0.1)]
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_leader_form_copies_no_array(prox, weight_decay):
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), optax_ftml.ftml(prox=prox)
    )
    report = optax_ftml.fusion_report(optimizer, structs())
    assert report.kernels <= 9
    assert report.copies == 0
    assert report.temporary_bytes < 4 * 4096, "the smallest leaf"


def test_copy_is_counted():
    def update(updates, state, params=None):
        del params
        return updates, {"old": state["new"], "new": state["old"]}

    swap = optax.GradientTransformation(
        lambda p: {"old": p, "new": optax.tree.zeros_like(p)}, update
    )
    report = optax_ftml.fusion_report(swap, structs())
    assert report.copies >= 3
    assert report.copied_bytes >= 4 * SIZE


def test_arrays_and_structs_give_the_same_report():
    arrays = [jnp.zeros(shape) for shape in SHAPES]
    ours, theirs = (
        optax_ftml.fusion_report(optax_ftml.ftml(), params)
        for params in (arrays, structs())
    )
    assert ours.kernels == theirs.kernels
    assert ours.moved_bytes == theirs.moved_bytes


def test_prints_as_a_table_and_keeps_the_program():
    report = optax_ftml.fusion_report(optax.sgd(0.1), structs())
    rows = dict(line.split("  ", 1) for line in str(report).splitlines())
    assert rows["bytes moved a parameter"].strip() == "12.00"
    assert "ENTRY" in report.hlo
    assert "ENTRY" not in repr(report)


HLO = """HloModule step, is_scheduled=true

%fused (p0: f32[8,128]) -> (f32[8,128], f32[8,128]) {
  %p0 = f32[8,128]{1,0} parameter(0)
  %a = f32[8,128]{1,0} add(%p0, %p0)
  ROOT %t = (f32[8,128]{1,0}, f32[8,128]{1,0}) tuple(%a, %a)
}

%copies (p1: f32[8,128]) -> f32[8,128] {
  %p1 = f32[8,128]{1,0} parameter(0)
  ROOT %c = f32[8,128]{1,0} copy(%p1)
}

%body (p2: f32[8,128]) -> f32[8,128] {
  %p2 = f32[8,128]{1,0} parameter(0)
  ROOT %n = f32[8,128]{1,0} negate(%p2)
}

ENTRY %main (x: f32[8,128], s: f32[]) -> (f32[8,128], bf16[4]) {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %s = f32[]{:T(128)} parameter(1)
  %h = bf16[4]{0} constant({1, 2, 3, 4})
  %start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0}, u32[]{:S(2)}) \
copy-start(%x), backend_config={"a":"(("}
  %done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%start)
  %part = ((f32[8,128]{1,0}), f32[2,128]{1,0:S(1)}, s32[]{:S(2)}) \
slice-start(%x), slice={[0:2], [0:128]}
  %two = f32[2,128]{1,0:S(1)} slice-done(%part)
  %f = (f32[8,128]{1,0}, /*index=1*/f32[8,128]{1,0:S(1)}) \
fusion(%done), kind=kLoop, calls=%fused, metadata={op_name="a(b"}
  %f0 = f32[8,128]{1,0} get-tuple-element(%f), index=0
  %wrapped = f32[8,128]{1,0} fusion(%f0), kind=kLoop, calls=%copies
  %e = f32[]{:T(128)} exponential(%s)
  %r = f32[]{:T(128)} all-reduce(%e), replica_groups={}, to_apply=%add
  %call = f32[8,128]{1,0} call(%f0), to_apply=%body
  ROOT %out = (f32[8,128]{1,0}, bf16[4]{0}) tuple(%call, %h)
}
"""


def test_counts_of_a_program_written_by_hand():
    counts = _hlo.count(HLO)
    block = 8 * 128 * 4
    assert counts.transfers == 2
    assert counts.fusions == 2
    assert counts.kernels == 3
    assert counts.scalar_kernels == 2
    assert (counts.copies, counts.copied_bytes) == (1, block)
    assert counts.collectives == [("all-reduce", 4)]
    # Prefetches of a block and a quarter; a fusion that writes one of its two
    # results to main memory; a copy and a negation in and out; two scalar
    # instructions in and out.
    assert counts.moved_bytes == 1.25 * block + 5 * block + 16


def test_unknown_target_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'h100'.*tpu:v5e:2x2.*got 'h1000'"):
        optax_ftml.fusion_report(optax.sgd(0.1), structs(), "h1000")


def test_missing_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"libtpu.*optax-ftml\[aot\]"):
        optax_ftml.fusion_report(optax.sgd(0.1), structs(), "tpu:v5e:2x2")


def test_compiler_that_crashes_is_quoted(monkeypatch, tmp_path):
    compiler = tmp_path / "python"
    compiler.write_text("#!/bin/sh\necho 'Check failed: x' >&2\nkill -6 $$")
    compiler.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(compiler))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("jax.export.Exported.serialize", lambda self: b"")
    with pytest.raises(
        RuntimeError, match=r"'tpu:v5e:2x2'.*status -6.*\n.*failed: x"
    ):
        optax_ftml.fusion_report(optax.sgd(0.1), structs(), "tpu:v5e:2x2")


@pytest.mark.parametrize(
    ("name", "leaves", "size"),
    [
        ("mlp", 6, 669_706),
        ("resnet50", 161, 25_557_032),
        ("gpt2", 148, 124_439_808),
        ("llama3-70b", 12, 70_553_706_496),
        ("llama3-70b-layers", 723, 70_553_706_496),
    ],
)
def test_built_in_trees_have_the_published_sizes(name, leaves, size):
    shapes = jax.tree.leaves(
        _command.PARAMS[name](), is_leaf=lambda x: isinstance(x, tuple)
    )
    params = [jax.ShapeDtypeStruct(shape, jnp.int8) for shape in shapes]
    assert len(params) == leaves
    assert sum(x.size for x in params) == size


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "optax_ftml", "report", *args],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_command_prints_the_table_of_any_optimizer(tmp_path):
    file = tmp_path / "step.hlo"
    process = command(
        *("--params", "mlp", "--optimizer", "lion", "--clip-norm", "1"),
        *("--weight-decay", "0.1", "--hlo", str(file)),
    )
    assert process.returncode == 0, process.stderr
    assert "669,706 in 6 leaves" in process.stdout
    assert "ENTRY" in file.read_text()


def test_command_refuses_an_unknown_optimizer():
    process = command("--params", "mlp", "--optimizer", "adamant")
    assert process.returncode == 1
    assert "--optimizer" in process.stdout
    assert "adamant" in process.stdout
