"""Goes on with an MXNet job from its own files.

    python examples/mxnet_job.py

MXNet 2 trained a small Gluon network for 100 steps, and wrote its parameters
and its Trainer's states. Here it trains for another 100 steps, and ends where
MXNet's own 200 steps ended. The two files that it writes load in MXNet again.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ftml import mxnet

FILES = pathlib.Path(__file__).parents[1] / "tests" / "data" / "mxnet_files"


def loss(params, x, y):
    """Returns the mean squared error of two dense layers."""
    # Gluon's kernels are (outputs, inputs).
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"])
    outputs = hidden @ params["1.weight"].T + params["1.bias"]
    return jnp.mean((outputs - y) ** 2)


def main(argv=None):
    """Trains on, and compares with where MXNet ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--params", default=FILES / "2_plain_100.params")
    parser.add_argument(
        "--states", default=FILES / "2_plain_100_trainer.states"
    )
    parser.add_argument("--compare", default=FILES / "2_plain_200.params")
    parser.add_argument("--save", default="mxnet_job", metavar="NAME")
    args = parser.parse_args(argv)

    # The same data as in MXNet's script.
    rng = np.random.RandomState(0)
    x = jnp.array(rng.standard_normal((16, 3)), "float32")
    y = jnp.array(rng.standard_normal((16, 2)), "float32")

    params = mxnet.load_params(args.params)
    # A Trainer numbers its parameters in the order of their names.
    paths = dict(enumerate(sorted(params)))
    states = mxnet.load_states(args.states)
    # Learning rate, scheduler, weight decay and clipping are in the file, too.
    options = states.with_paths(paths).options
    optimizer = mxnet.ftml(**options)
    state = mxnet.state_from_mxnet(
        states, optimizer.init(params), params, paths
    )
    print(f"MXNet stopped after {states.num_update} updates.")
    print(f"loss {loss(params, x, y):.4f}")

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(args.steps):
        params, state = step(params, state)
    print(f"loss {loss(params, x, y):.4f} after {args.steps} updates more")
    expected = mxnet.load_params(args.compare)
    error = max(np.abs(params[name] - expected[name]).max() for name in params)
    print(f"At most {error:.1e} from MXNet's own parameters at 200 updates.")

    mxnet.save_params(f"{args.save}.params", params)
    after = mxnet.state_to_mxnet(state, params, paths, options)
    mxnet.save_states(f"{args.save}.states", after)
    print(f"Load {args.save}.params and {args.save}.states in MXNet to go on.")


if __name__ == "__main__":
    main()
