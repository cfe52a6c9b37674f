"""Random words are the same on eight devices as on one, whoever shards.

python -m tests.programs.sharded_words
"""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from optax_ftml._precision import _stochastic_rounding

SPECS = [P("x", None, "y"), P(None, ("y", "x")), P(None, None, "x"), P()]


def words(leaves):
    return [
        _stochastic_rounding._random_words(3, 9, "v", (), x) for x in leaves
    ]


def main():
    like = jnp.zeros((4, 8, 16))
    (expected,) = map(np.asarray, jax.jit(words)([like]))
    assert np.unique(expected).size == expected.size
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
        with jax.set_mesh(mesh):
            leaves = [
                jax.device_put(like, NamedSharding(mesh, spec))
                for spec in SPECS
            ]
            for sharded in jax.jit(words)(leaves):
                np.testing.assert_array_equal(sharded, expected)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main()  # As a CPU makes them, and then as other devices do.
    with mock.patch.object(
        jax.lax, "platform_dependent", lambda **makers: makers["default"]()
    ):
        main()
