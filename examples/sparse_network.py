"""Trains a network with a group lasso on its units, and makes it smaller.

    python examples/sparse_network.py

A hidden unit's group is all that belongs to it: the weights into it, its bias,
and the weights out of it. The penalty turns whole units off, exactly, and they
can be left out: the smaller network computes the same.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets, model_selection

import optax_ftml

UNITS = 128
BATCH_SIZE = 64
# By unit: a column of the first kernel, an entry of the bias, a row of the
# second kernel.
GROUPS = {"hidden/kernel": 0, "hidden/bias": (), "out/kernel": 1}


def network(params, x):
    """Maps images (n, 64) to logits (n, 10)."""
    hidden = jax.nn.relu(
        x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    )
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def loss(params, x, y):
    """Returns the mean cross entropy, in nats."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        network(params, x), y
    ).mean()


def initial():
    """Returns the parameters at the start."""
    rng = np.random.default_rng(0)

    def dense(inputs, outputs):
        kernel = rng.normal(size=(inputs, outputs)) * np.sqrt(2 / inputs)
        return {"kernel": jnp.float32(kernel), "bias": jnp.zeros(outputs)}

    return {"hidden": dense(64, UNITS), "out": dense(UNITS, 10)}


def train(strength, x, y, epochs):
    """Returns the parameters after training with the penalty."""
    steps = len(x) // BATCH_SIZE
    optimizer = optax_ftml.proximal_adam(
        optax.cosine_decay_schedule(0.003, epochs * steps),
        prox=optax_ftml.prox.group_lasso(strength, axis=GROUPS),
    )

    def step(carry, batch):
        params, state = carry
        grads = jax.grad(loss)(params, x[batch], y[batch])
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train_epoch(carry, key):
        order = jax.random.permutation(key, len(x))[: steps * BATCH_SIZE]
        return jax.lax.scan(step, carry, order.reshape(steps, BATCH_SIZE))[0]

    params = initial()
    carry = params, optimizer.init(params)
    for key in jax.random.split(jax.random.key(0), epochs):
        carry = train_epoch(carry, key)
    return carry[0]


def without_dead_units(params):
    """Returns the network without the units that are off."""
    on = np.asarray((params["out"]["kernel"] != 0).any(axis=1))
    hidden = {name: p[..., on] for name, p in params["hidden"].items()}
    out = {**params["out"], "kernel": params["out"]["kernel"][on]}
    return {"hidden": hidden, "out": out}


def main(argv=None):
    """Prints how many units are left at some strengths of the penalty."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=[0.0, 0.003, 0.01, 0.03]
    )
    args = parser.parse_args(argv)
    x, y = datasets.load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = model_selection.train_test_split(
        jnp.float32(x / 16), jnp.asarray(y), random_state=0, stratify=y
    )
    print("strength  units  parameters  test accuracy")
    for strength in args.strengths:
        params = train(strength, train_x, train_y, args.epochs)
        small = without_dead_units(params)
        logits, expected = network(small, test_x), network(params, test_x)
        # Sums in another order round differently.
        largest = jnp.abs(expected).max()
        assert jnp.allclose(logits, expected, rtol=0, atol=1e-6 * largest)
        size = sum(p.size for p in jax.tree.leaves(small))
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == test_y)
        units = len(small["hidden"]["bias"])
        print(f"{strength:8g}  {units:5}  {size:10,}  {accuracy:13.2%}")


if __name__ == "__main__":
    main()
