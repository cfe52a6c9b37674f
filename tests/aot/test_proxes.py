"""What devices send each other for a prox, compiled for H100s and a TPU.

Needs the `aot` extra and is therefore run by name: pytest tests/aot
"""

import jax
import jax.numpy as jnp
import pytest

import optax_ftml
from optax_ftml import prox

ROWS, COLUMNS = 64, 512
ONE_UNKNOWN = {
    "simplex": prox.simplex(axis=-1),
    "l2_ball": prox.l2_ball(axis=-1),
    "top_k": prox.top_k(9, axis=-1),
}
ALONG_A_LINE = {
    "monotone": prox.monotone(),
    "total_variation": prox.total_variation(0.1),
}
every_target = pytest.mark.parametrize("target", ["h100", "tpu:v5e:4x2"])


def collectives(f, target, *spec):
    mesh = jax.sharding.AbstractMesh(
        (8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    sharding = jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec(*spec)
    )
    params = jax.ShapeDtypeStruct(
        (ROWS, COLUMNS), jnp.float32, sharding=sharding
    )
    optimizer = optax_ftml.ftml(prox=f)
    return optax_ftml.fusion_report(optimizer, params, target).collectives


@every_target
@pytest.mark.parametrize("name", ONE_UNKNOWN)
def test_sums_of_slices_are_all_that_is_sent(name, target):
    sent = collectives(ONE_UNKNOWN[name], target, None, "x")
    assert sent
    assert all(kind.startswith("all-reduce") for kind, _ in sent)
    assert all(nbytes <= ROWS * 8 * 4 for _, nbytes in sent)


@every_target
@pytest.mark.parametrize("name", ONE_UNKNOWN | ALONG_A_LINE)
def test_whole_slices_send_nothing(name, target):
    f = (ONE_UNKNOWN | ALONG_A_LINE)[name]
    assert collectives(f, target, "x") == ()
