"""Sharded equals unsharded, on eight devices.

python -m tests.programs.sharded 2000
"""

import sys

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from tests import test_properties

MAKERS = [test_properties.delta, test_properties.leader, test_properties.low]
SPECS = [
    PartitionSpec("x", "y"),
    PartitionSpec(("x", "y")),
    PartitionSpec(None, ("y", "x")),
    PartitionSpec("y"),
    PartitionSpec(),
]


@hypothesis.given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(MAKERS),
    st.sampled_from(["float32", "bfloat16"]),
    st.lists(st.sampled_from(SPECS), min_size=2, max_size=2),
    st.floats(1e-4, 0.1),
)
def test_sharded_equals_unsharded(seed, make, dtype, specs, learning_rate):
    rng = np.random.default_rng(seed)
    mesh = jax.make_mesh((4, 2), ("x", "y"))
    params, *grads = (
        {
            k: jnp.asarray(rng.normal(size=(8, 16)), dtype)
            for k in ("kernel", "embedding")
        }
        for _ in range(4)
    )
    settings = {"learning_rate": jnp.float32(learning_rate)}

    def shard(tree):
        return {
            k: jax.device_put(x, NamedSharding(mesh, spec))
            for (k, x), spec in zip(tree.items(), specs, strict=True)
        }

    after = test_properties.run_jitted(make, params, grads, settings)
    sharded = test_properties.run_jitted(
        make, shard(params), [shard(g) for g in grads], settings
    )
    # To the last places, where loops of other lengths round another way; a
    # rounding at random then goes to the other neighbour.
    ulps = 12 if make is test_properties.low else 4
    test_properties.assert_close(
        jax.device_get(sharded), after, params, settings, ulps
    )


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    settings = hypothesis.settings(max_examples=int(sys.argv[1]), deadline=None)
    settings(test_sharded_equals_unsharded)()
