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
from optax_ftml._report import _fusion_report

SHAPES = [(64, 128), (4096,), (16, 16, 16)]
SIZE = sum(map(math.prod, SHAPES))
PARAMS = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in SHAPES]


def textbook():
    """The d, v, z recursion, whose new d does not depend on the old array."""
    b1, b2 = 0.6, 0.999

    def init(params):
        return 0, *(optax.tree.zeros_like(params) for _ in range(3))

    def update(updates, state, params):
        count, *slots = state
        count += 1

        def step(g, d, v, z, theta):
            v = b2 * v + (1 - b2) * g**2
            denominator = jnp.sqrt(v / (1 - b2**count)) + 1e-8
            last_d, d = d, (1 - b1**count) / 0.0025 * denominator
            z = b1 * z + (1 - b1) * g - (d - b1 * last_d) * theta
            return -z / d - theta, d, v, z

        steps = jax.tree.map(step, updates, *slots, params)
        updates, *slots = jax.tree.transpose(
            jax.tree.structure(params), jax.tree.structure(4 * (0,)), steps
        )
        return updates, (count, *slots)

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
    # XLA fuses no sort into what uses its result.
    sorting = optax.stateless_with_tree_map(lambda g, _: -0.1 * jax.lax.sort(g))
    report = optax_ftml.fusion_report(sorting, PARAMS)
    assert report.kernels == 6
    copied_first = 4 if jax.default_backend() == "gpu" else 0
    assert report.moved_bytes_per_parameter == 20 + copied_first
    assert report.temporary_bytes >= 4 * SIZE


def test_what_is_read_after_its_place_is_taken_is_copied():
    report = optax_ftml.fusion_report(textbook(), PARAMS)
    assert report.copies >= 3
    assert report.copied_bytes >= 4 * SIZE


# Less than the smallest leaf; on a CPU older XLAs keep the leader.
LEAST = 4 * 4096 if jax.__version_info__ >= (0, 10) else 5 * SIZE


def test_the_leader_form_copies_nothing():
    box = optax_ftml.prox.box(-1.0, 1.0)
    report = optax_ftml.fusion_report(optax_ftml.ftml(prox=box), PARAMS)
    assert report.state_bytes == 8 * SIZE + 4
    assert report.copies == 0
    assert report.temporary_bytes < LEAST
    assert report.moved_bytes == pytest.approx(
        report.xla_bytes_accessed, rel=1e-2
    )


L1 = optax_ftml.prox.l1(0.1)
IS_MASKED = {"layer": {"kernel": True, "bias": False}}


@pytest.mark.parametrize(
    "optimizer",
    [
        optax_ftml.ftml(prox=optax_ftml.prox.by_path({"*/kernel": L1})),
        optax.masked(optax_ftml.ftml(prox=L1), IS_MASKED),
        optax_ftml.with_master_params(optax.adam(0.1)),
        optax.adafactor(0.1, min_dim_size_to_factor=4),
    ],
)
def test_state_is_sharded_like_its_parameters(optimizer):
    mesh = jax.sharding.AbstractMesh((8,), ("x",))
    kernel, bias = (
        jax.ShapeDtypeStruct(
            shape, jnp.bfloat16, sharding=jax.sharding.NamedSharding(mesh, spec)
        )
        for shape, spec in [((8, 16), P(None, "x")), ((16,), P())]
    )
    params = {"layer": {"kernel": kernel, "bias": bias}}
    state = _fusion_report._sharded_like(
        params, jax.eval_shape(optimizer.init, params)
    )
    for x in jax.tree.leaves(state):
        like = kernel if x.shape == kernel.shape else bias
        shards = x.sharding.shard_shape(x.shape)
        assert shards == like.sharding.shard_shape(x.shape)
