"""What devices send each other for a prox, compiled for H100s and a TPU.

Needs the `aot` extra and is therefore run by name: pytest tests/aot
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

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


@pytest.mark.parametrize("target", ["h100", "tpu:v5e:4x2"])
@pytest.mark.parametrize("name", ONE_UNKNOWN | ALONG_A_LINE)
def test_sums_of_slices_are_all_that_is_sent(name, target):
    optimizer = optax_ftml.ftml(prox=(ONE_UNKNOWN | ALONG_A_LINE)[name])
    mesh = jax.sharding.AbstractMesh(
        (8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,)
    )

    def collectives(spec):
        sharding = jax.sharding.NamedSharding(mesh, spec)
        params = jax.ShapeDtypeStruct(
            (ROWS, COLUMNS), jnp.float32, sharding=sharding
        )
        return optax_ftml.fusion_report(optimizer, params, target).collectives

    assert collectives(P("x")) == ()  # The slices are whole.
    if name in ONE_UNKNOWN:
        sent = collectives(P(None, "x"))
        assert sent
        assert all(kind.startswith("all-reduce") for kind, _ in sent)
        assert all(nbytes <= ROWS * 8 * 4 for _, nbytes in sent)
