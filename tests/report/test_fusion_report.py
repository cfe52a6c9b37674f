"""The report, on programs whose counts are known."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import optax_ftml
from optax_ftml import prox
from optax_ftml._report import _fusion_report

SHAPES = [(64, 128), (4096,), (16, 16, 16)]
SIZE = sum(map(math.prod, SHAPES))
PARAMS = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in SHAPES]


def sorting(learning_rate):
    """Two kernels per leaf: XLA fuses no sort into what uses its result."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda g: -learning_rate * jax.lax.sort(g), updates
        )
    )


def textbook(learning_rate=0.0025, b1=0.6, b2=0.999, eps=1e-8):
    """The d, v, z recursion, whose new d does not depend on the old array."""

    def init(params):
        return 0, *(optax.tree.zeros_like(params) for _ in range(3))

    def update(updates, state, params):
        count, d, v, z = state
        count += 1

        def next_d(v):
            denominator = jnp.sqrt(v / (1 - b2**count)) + eps
            return (1 - b1**count) / learning_rate * denominator

        def next_z(z, g, d, last_d, theta):
            return b1 * z + (1 - b1) * g - (d - b1 * last_d) * theta

        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, v, updates)
        last_d, d = d, jax.tree.map(next_d, v)
        z = jax.tree.map(next_z, z, updates, d, last_d, params)
        updates = jax.tree.map(lambda z, d, p: -z / d - p, z, d, params)
        return updates, (count, d, v, z)

    return optax.GradientTransformation(init, update)


def test_sgd_is_one_kernel_and_twelve_bytes_per_parameter():
    arrays = [jnp.zeros(x.shape, x.dtype) for x in PARAMS]
    report = optax_ftml.fusion_report(optax.sgd(0.1), arrays)
    assert report.leaves == report.kernels == report.fusions == 3
    assert report.parameters == report.device_parameters == SIZE
    assert report.kernels_per_leaf == 1
    assert report.scalar_kernels == report.copies == 0
    assert report.temporary_bytes == report.state_bytes == 0
    assert report.collectives == ()
    assert report.moved_bytes_per_parameter == 12
    assert report.xla_bytes_accessed == pytest.approx(12 * SIZE, rel=1e-2)
    assert report.trace_seconds > 0
    assert report.compile_seconds > 0

    elsewhere = dataclasses.replace(
        report, collectives=2 * (("all-reduce", 4),), xla_bytes_accessed=None
    )
    for row in (
        r"bytes moved per parameter +12\.00",
        "collectives +2 all-reduce of 4 bytes",
        "XLA's estimate of the same +none",
    ):
        assert re.search(row, str(elsewhere))
    assert "ENTRY" in report.hlo
    assert "ENTRY" not in repr(report)


def test_what_does_not_fuse_costs_a_kernel_and_a_temporary():
    report = optax_ftml.fusion_report(sorting(0.1), PARAMS)
    assert report.kernels == 6
    copied_first = 4 if jax.default_backend() == "gpu" else 0
    assert report.moved_bytes_per_parameter == 20 + copied_first
    assert report.temporary_bytes >= 4 * SIZE


def test_what_is_read_after_its_place_is_taken_is_copied():
    report = optax_ftml.fusion_report(textbook(), PARAMS)
    assert report.copies >= 3
    assert report.copied_bytes >= 4 * SIZE


@pytest.mark.parametrize(
    ("optimizer", "state_bytes", "temporary_bytes"),
    [
        (optax_ftml.ftml(), 4, 9 * SIZE),
        # Less than the smallest leaf; on a CPU older XLAs keep the leader.
        (
            optax_ftml.ftml(prox=prox.box(-1.0, 1.0)),
            8,
            4 * 4096 if jax.__version_info__ >= (0, 10) else 5 * SIZE,
        ),
    ],
)
def test_both_forms_copy_nothing(optimizer, state_bytes, temporary_bytes):
    report = optax_ftml.fusion_report(optimizer, PARAMS)
    assert report.state_bytes == state_bytes * SIZE + 4
    assert report.copies == 0
    assert report.temporary_bytes < temporary_bytes
    assert report.moved_bytes == pytest.approx(
        report.xla_bytes_accessed, rel=1e-2
    )


LAYER = {"layer": {"kernel": jnp.ones((8, 16)), "bias": jnp.ones(16)}}


@pytest.mark.parametrize(
    "optimizer",
    [
        optax_ftml.ftml(prox=prox.by_path({"*/kernel": prox.l1(0.1)})),
        optax.masked(
            optax_ftml.ftml(prox=prox.l1(0.1)),
            {"layer": {"kernel": True, "bias": False}},
        ),
        optax_ftml.with_master_params(optax.adam(0.1)),
        optax.adafactor(0.1, min_dim_size_to_factor=4),
    ],
)
def test_state_is_sharded_like_its_parameters(optimizer):
    mesh = jax.sharding.AbstractMesh((8,), ("x",))
    specs = {"kernel": P(None, "x"), "bias": P()}
    params = jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=jax.sharding.NamedSharding(mesh, spec)
        ),
        LAYER,
        {"layer": specs},
    )
    state = _fusion_report._sharded_like(
        params, jax.eval_shape(optimizer.init, params)
    )
    for x in jax.tree.leaves(state):
        name = "kernel" if x.shape == (8, 16) else "bias"
        assert x.sharding.spec == specs[name]
