"""Trains in two processes, and in each of them alone: both end alike.

python -m tests.programs.two_processes PORT INDEX
"""

import sys

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from tests import test_sharding


def main(port, index):
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
    forms = ["leader", "chain"]
    mesh = test_sharding.make_mesh(AxisType.Auto)
    with jax.set_mesh(mesh):
        params, *_ = test_sharding.train(test_sharding.make_params(forms, mesh))
    params = multihost_utils.process_allgather(params, tiled=True)
    single, *_ = test_sharding.train(test_sharding.make_params(forms))
    test_sharding.assert_equal(params, single)


if __name__ == "__main__":
    main(*sys.argv[1:])
