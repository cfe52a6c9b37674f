"""Trains a network on handwritten digits with FTML, Adam and RMSprop.

    python examples/digits.py

prints a table and draws the losses in digits.png. With --checkpoint DIR it
saves after every epoch: stop it whenever you like, start it again, and it ends
with the same numbers, to the bit.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
import tqdm
from flax import nnx
from sklearn import datasets, model_selection

import optax_ftml

# Each with its usual learning rate.
OPTIMIZERS = {
    "ftml": optax_ftml.ftml(0.0025),
    "adam": optax.adam(0.001),
    "rmsprop": optax.rmsprop(0.001),
}
BATCH_SIZE = 32
softmax_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


class Network(nnx.Module):
    """Two convolutions and a linear layer for images of 8 x 8."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.linear = nnx.Linear(4 * 4 * 64, 10, rngs=rngs)

    def __call__(self, x):
        """Maps images (n, 8, 8, 1) to logits (n, 10)."""
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
        x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        return self.linear(x.reshape(x.shape[0], -1))


@nnx.jit
def train_step(network, optimizer, x, y):
    """Updates the network on a batch and returns the loss before."""

    def loss_fn(network):
        return softmax_cross_entropy(network(x), y).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(network)
    optimizer.update(network, grads)
    return loss


@nnx.jit
def accuracy(network, x, y):
    """Returns the share of images whose digit is recognized."""
    return jnp.mean(jnp.argmax(network(x), axis=-1) == y)


def train(name, data, epochs, checkpoint=None):
    """Returns what is known of each epoch, and the state's size."""
    train_x, test_x, train_y, test_y = data
    network = Network(nnx.Rngs(0))
    transformation = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-4),
        OPTIMIZERS[name],
    )
    optimizer = nnx.Optimizer(network, transformation, wrt=nnx.Param)
    history = []
    if checkpoint:
        manager = ocp.CheckpointManager(checkpoint.absolute() / name)
        if manager.latest_step():
            like = nnx.state((network, optimizer))
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(like),
                history=ocp.args.JsonRestore(),
            )
            restored = manager.restore(manager.latest_step(), args=args)
            nnx.update((network, optimizer), restored["state"])
            history = restored["history"]
    steps = len(train_x) // BATCH_SIZE
    done = len(history) * steps
    bar = tqdm.tqdm(total=epochs * steps, initial=done, desc=name)
    for epoch in range(len(history), epochs):
        # The epoch is the seed, so a run that goes on sees the same batches.
        order = np.random.default_rng(epoch).permutation(len(train_x))
        losses, start = [], time.perf_counter()
        for batch in order[: steps * BATCH_SIZE].reshape(steps, BATCH_SIZE):
            x, y = train_x[batch], train_y[batch]
            losses.append(train_step(network, optimizer, x, y))
            bar.update()
        loss = float(np.mean(jax.device_get(losses)))
        ms = 1e3 * (time.perf_counter() - start) / steps
        right = float(accuracy(network, test_x, test_y))
        history.append({"loss": loss, "ms": ms, "accuracy": right})
        bar.set_postfix(loss=f"{loss:.4f}")
        if checkpoint:
            state = nnx.state((network, optimizer))
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                history=ocp.args.JsonSave(history),
            )
            manager.save(epoch + 1, args=args)
    bar.close()
    if checkpoint:
        manager.close()
    nbytes = sum(x.nbytes for x in jax.tree.leaves(optimizer.opt_state))
    size = sum(x.size for x in jax.tree.leaves(nnx.state(network)))
    return history, nbytes / size


def load_digits():
    """Returns training and test images (n, 8, 8, 1), then their labels."""
    x, y = datasets.load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype(np.float32) / 16
    return model_selection.train_test_split(x, y, random_state=0, stratify=y)


def main(argv=None):
    """Trains with each optimizer, prints the table and draws the losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--checkpoint", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--plot", default="digits.png")
    args = parser.parse_args(argv)
    data = load_digits()
    table = ["optimizer  test accuracy     loss  state B/parameter  ms/step"]
    fig, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in OPTIMIZERS:
        history, size = train(name, data, args.epochs, args.checkpoint)
        end = history[-1]
        ms = np.median([metrics["ms"] for metrics in history])
        table.append(
            f"{name:9}  {end['accuracy']:13.2%}  {end['loss']:.5f}  "
            f"{size:17.2f}  {ms:7.2f}"
        )
        losses = [metrics["loss"] for metrics in history]
        axes.semilogy(range(1, len(losses) + 1), losses, label=name)
    print("\n".join(table))
    axes.set(xlabel="epoch", ylabel="mean training loss [nats]")
    axes.set_title("Handwritten digits, the same network from the same start")
    axes.legend()
    fig.savefig(args.plot, dpi=150)
    print(f"The losses are in {args.plot}.")


if __name__ == "__main__":
    main()
