"""What devices send each other for a prox, compiled for H100s and a TPU.

Needs the `aot` extra and is therefore run by name: pytest tests/aot
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ftml
from optax_ftml import prox

ROWS, COLUMNS = 64, 512
ONE_UNKNOWN = {
    "simplex": prox.simplex(axis=-1),
    "l2_ball": prox.l2_ball(axis=-1),
    "top_k": prox.top_k(9, axis=-1),
}
TARGETS = pytest.mark.parametrize("target", ["h100", "tpu:v5e:4x2"])


def report(f, target, spec):
    mesh = AbstractMesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params = jax.ShapeDtypeStruct(
        (ROWS, COLUMNS), jnp.float32, sharding=NamedSharding(mesh, spec)
    )
    return optax_ftml.fusion_report(
        optax_ftml.ftml(prox=f), {"w": params}, target
    )


@TARGETS
@pytest.mark.parametrize("name", ONE_UNKNOWN)
def test_sums_of_slices_are_all_that_is_sent(name, target):
    sent = report(ONE_UNKNOWN[name], target, P(None, "x")).collectives
    assert sent
    assert all(kind.startswith("all-reduce") for kind, _ in sent)
    assert all(nbytes <= ROWS * 8 * 4 for _, nbytes in sent)


@TARGETS
@pytest.mark.parametrize(
    "f",
    [*ONE_UNKNOWN.values(), prox.monotone(), prox.total_variation(0.1)],
    ids=[*ONE_UNKNOWN, "monotone", "total_variation"],
)
def test_whole_slices_send_nothing(f, target):
    assert report(f, target, P("x")).collectives == ()
