"""Steps of one library's optimizers on the transformer, timed when asked.

Reads the name of an optimizer a line, runs one step of it, and writes the
seconds that it took and its page faults. The libraries are in processes of
their own because MXNet needs another Python, and because XLA and the allocator
read their settings once. Written for the Python 3.10 that MXNet needs.
"""

import argparse
import resource
import sys
import time

import numpy as np
from parts import trees


def _arrays(shapes, scale):
    rng = np.random.default_rng(0)
    return [scale * rng.random(shape, dtype=np.float32) for shape in shapes]


def jax_optimizers(group):
    import optax

    import optax_ftml

    rate = 1e-3
    box = optax_ftml.prox.box(-10.0, 10.0)
    optimizers = {
        "ftml": optax_ftml.ftml(rate),
        "ftml, box": optax_ftml.ftml(rate, prox=box),
        "adam": optax.adam(rate),
        "adamw": optax.adamw(rate),
        "rmsprop": optax.rmsprop(rate),
        "sgd": optax.sgd(rate),
    }

    def project(updates, _):
        return optax.projections.projection_l2_ball(updates, 1.0)

    clips = {
        "chain": optax.clip_by_global_norm(1.0),
        "scaled": optax.stateless(project),
    }
    if group not in clips:
        return optimizers
    decay = optax.add_decayed_weights(1e-4)
    chains = {
        name: optax.chain(clips[group], decay, optimizer)
        for name, optimizer in optimizers.items()
    }
    chains["ftml, decoupled"] = optax.chain(  # As adamw decays, and PyTorch's.
        clips[group],
        optax_ftml.scale_by_ftml(),
        decay,
        optax.scale_by_learning_rate(rate),
    )
    return chains


def jax_steps(shapes, group, names=()):
    import jax
    import jax.numpy as jnp
    import optax

    grads = [jnp.array(x) for x in _arrays(shapes, 1e-2)]
    initial = _arrays(shapes, 1.0)

    def make(optimizer):
        def step(params, state, grads):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        step = jax.jit(step, donate_argnums=(0, 1))
        params = [jnp.array(x) for x in initial]
        carry = [params, optimizer.init(params)]

        def run():
            carry[:] = jax.block_until_ready(step(*carry, grads))

        return run

    steps = {
        name: make(optimizer)
        for name, optimizer in jax_optimizers(group).items()
        if not names or name in names
    }
    if group == "alone" and not names:
        negate = jax.jit(
            lambda x: jax.tree.map(jnp.negative, x), donate_argnums=0
        )
        copied = [[jnp.copy(x) for x in grads]]

        def copy():
            copied[0] = jax.block_until_ready(negate(copied[0]))

        steps["copy"] = copy
    return steps


def torch_steps(shapes, group, names=()):
    del names
    import torch

    initial, grads = _arrays(shapes, 1.0), _arrays(shapes, 1e-2)
    grads = [torch.from_numpy(x) for x in grads]

    def make(kind, chain):
        params = [
            torch.nn.Parameter(torch.from_numpy(x.copy())) for x in initial
        ]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        optimizer = kind(params, fused=True)

        def run():
            if chain:
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()

        return run

    if group == "alone":
        return {"torch adam, fused": make(torch.optim.Adam, chain=False)}
    return {"torch adamw, fused": make(torch.optim.AdamW, chain=True)}


def mxnet_steps(shapes, group, names=()):
    del group, names  # Its FTML clips element by element alone.
    import mxnet as mx

    params = [mx.nd.array(x) for x in _arrays(shapes, 1.0)]
    grads = [mx.nd.array(x) for x in _arrays(shapes, 1e-2)]
    states = [[mx.nd.zeros(x.shape) for _ in range(3)] for x in params]
    count = [0]

    def update():
        count[0] += 1
        for param, grad, state in zip(params, grads, states, strict=True):
            mx.nd.ftml_update(
                param, grad, *state, lr=1e-3, t=count[0], out=param
            )
        mx.nd.waitall()

    return {"mxnet ftml_update": update}


def _page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["jax", "torch", "mxnet"])
    parser.add_argument("group")
    parser.add_argument("names", nargs="*", help="all, if none is named")
    args = parser.parse_args()
    make = {"jax": jax_steps, "torch": torch_steps, "mxnet": mxnet_steps}
    steps = make[args.library](trees.transformer(), args.group, args.names)
    print(";".join(steps), flush=True)
    for line in sys.stdin:
        step, before = steps[line.rstrip("\n")], _page_faults()
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        print(seconds, _page_faults() - before, flush=True)


if __name__ == "__main__":
    main()
