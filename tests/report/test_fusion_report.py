"""The report, on programs whose counts are known."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet
from optax_ftml import prox
from optax_ftml._report import _fusion_report

SHAPES = [(64, 128), (4096,), (16, 16, 16)]
SIZE = sum(map(math.prod, SHAPES))


def structs(dtype=jnp.float32):
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in SHAPES]


def unfused(learning_rate):
    """Two kernels per leaf: XLA fuses no sort into what uses its result."""

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


def test_sgd_is_one_kernel_and_twelve_bytes_per_parameter():
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
    ("f", "temporary_bytes"),
    [
        # Less than the smallest leaf.
        (prox.box(-1.0, 1.0), 4 * 4096),
        # A CPU's kernels share the step sizes, and some XLA's the leader.
        (prox.elastic_net(0.1, 0.1), 9 * SIZE),
    ],
    ids=["box", "elastic_net"],
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_leader_form_copies_no_array(f, temporary_bytes, weight_decay):
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), optax_ftml.ftml(prox=f)
    )
    report = optax_ftml.fusion_report(optimizer, structs())
    assert report.copies == 0
    assert report.temporary_bytes < temporary_bytes


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
    assert rows["bytes moved per parameter"].strip() == "12.00"
    assert "ENTRY" in report.hlo
    assert "ENTRY" not in repr(report)


BOUNDS = {"layer": {"kernel": jnp.ones((8, 16)), "bias": jnp.ones(16)}}


@pytest.mark.parametrize(
    "optimizer",
    [
        optax_ftml.ftml(),
        optax_ftml.ftml(prox=prox.by_path({"*/kernel": prox.l1(0.1)})),
        optax_ftml.ftml(prox=prox.box(0.0, BOUNDS)),
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.masked(
                optax_ftml.ftml(prox=prox.l1(0.1)),
                {"layer": {"kernel": True, "bias": False}},
            ),
        ),
        mxnet.ftml(lr_mult={"layer/bias": 2.0}),
        optax_ftml.with_master_params(optax.adam(0.1)),
        optax.adafactor(0.1, min_dim_size_to_factor=4),
    ],
)
def test_state_is_sharded_like_its_parameters(optimizer):
    mesh = jax.sharding.AbstractMesh((8,), ("x",))
    specs = {
        "kernel": jax.sharding.PartitionSpec(None, "x"),
        "bias": jax.sharding.PartitionSpec(),
    }
    params = jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=jax.sharding.NamedSharding(mesh, spec)
        ),
        BOUNDS,
        {"layer": specs},
    )
    state = _fusion_report._sharded_like(
        params, jax.eval_shape(optimizer.init, params)
    )
    for x in jax.tree.leaves(state):
        assert (
            x.sharding.spec == specs["kernel" if x.shape == (8, 16) else "bias"]
        )
