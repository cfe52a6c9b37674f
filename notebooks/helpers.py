"""What the notebooks share: sizes, progress, tables, plots, training loops.

One environment variable is read: with FTML_NOTEBOOKS_FAST=1 the notebooks train
for a few steps only, to show that they run. Their text speaks of full runs.
"""

import math
import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from IPython import display

FAST = os.environ.get("FTML_NOTEBOOKS_FAST") == "1"

# Okabe and Ito's colours, told apart by the colour-blind. With a line style and
# a marker for each, a grey print tells them apart as well.
COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
}
_LINES = ["-", (0, (5, 2)), (0, (1, 1)), "-.", (0, (3, 1, 1, 1, 1, 1)), "--"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def sized(full, fast):
    """Returns the first of two values in a full run and the second in fast."""
    return fast if FAST else full


def use_style():
    """Sets matplotlib to the notebooks' style."""
    plt.rcParams.update(
        {
            "axes.grid": True,
            "axes.prop_cycle": plt.cycler(color=list(COLORS.values())),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 11,
            "figure.constrained_layout.use": True,
            "figure.dpi": 90,
            "figure.figsize": (7.5, 3.6),
            "font.size": 10,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "legend.handlelength": 3.0,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
        }
    )


def styles(names):
    """Returns plot arguments (label, colour, line style, marker) by name."""
    return {
        name: {
            "label": name,
            "color": list(COLORS.values())[i % len(COLORS)],
            "linestyle": _LINES[i % len(_LINES)],
            "marker": _MARKERS[i % len(_MARKERS)],
        }
        for i, name in enumerate(names)
    }


def plot_band(ax, x, runs, **style):
    """Plots the mean over the first axis and one standard deviation around it.

    The band ends at the lowest run, so that it can be shown on a log scale.
    """
    mean, deviation = runs.mean(0), runs.std(0, ddof=1)
    style = {"markevery": max(1, len(x) // 8), **style}
    ax.plot(x, mean, **style)
    ax.fill_between(
        x,
        np.maximum(mean - deviation, runs.min(0)),
        mean + deviation,
        alpha=0.15,
        color=style["color"],
        linewidth=0,
    )


def save(figure, name, dpi=100):
    """Writes the figure to figures/name.png beside the notebooks."""
    os.makedirs("figures", exist_ok=True)
    path = os.path.join("figures", f"{name}.png")
    figure.savefig(path, bbox_inches="tight", dpi=dpi)


def table(header, rows):
    """Returns a Markdown table; the first column is aligned left."""
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join([":--"] + ["--:"] * (len(header) - 1)) + "|",
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows),
    ]
    return display.Markdown("\n".join(lines))


def progress(items, label):
    """Yields the items and shows on one line, in place, how many are done."""
    items, start = list(items), time.monotonic()
    line = display.display(display.Pretty(f"{label}: "), display_id=True)
    for done, item in enumerate(items):
        line.update(display.Pretty(f"{label}: {done} of {len(items)}"))
        yield item
    seconds = math.ceil(time.monotonic() - start)
    line.update(display.Pretty(f"{label}: {len(items)} done in {seconds} s"))


def descend(optimizer, grad, start, steps):
    """Returns the path of parameters, steps + 1 of them, and the last state.

    Args:
        optimizer: An optax transformation.
        grad: A function of the parameters and the step number (from 0).
        start: The first parameters, an array.
        steps: Number of updates.
    """

    def step(carry, t):
        params, state = carry
        updates, state = optimizer.update(grad(params, t), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def run(start):
        return jax.lax.scan(
            step, (start, optimizer.init(start)), jnp.arange(steps)
        )

    (_, state), path = run(start)
    return jnp.concatenate([start[None], path]), state


class TextbookState(NamedTuple):
    """The three arrays of the textbook recursion."""

    count: jax.Array
    d: optax.Updates
    v: optax.Updates
    z: optax.Updates


def textbook_ftml(learning_rate=0.0025, b1=0.6, b2=0.999, eps=1e-8):
    """FTML line by line as its paper and MXNet write it, without a prox."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return TextbookState(jnp.zeros([], jnp.int32), zeros, zeros, zeros)

    def update(grads, state, params):
        t = state.count + 1

        def next_v(g, v):
            return b2 * v + (1 - b2) * g**2

        def next_d(v):
            b1_correction, b2_correction = (
                1 - jnp.asarray(b, v.dtype) ** t for b in (b1, b2)
            )
            root = jnp.sqrt(v / b2_correction)
            return b1_correction / learning_rate * (root + eps)

        def next_z(g, d, last_d, z, theta):
            sigma = d - b1 * last_d
            return b1 * z + (1 - b1) * g - sigma * theta

        v = jax.tree.map(next_v, grads, state.v)
        d = jax.tree.map(next_d, v)
        z = jax.tree.map(next_z, grads, d, state.d, state.z, params)
        updates = jax.tree.map(lambda z, d, p: -z / d - p, z, d, params)
        return updates, TextbookState(t, d, v, z)

    return optax.GradientTransformation(init, update)


def race(optimizers, rates, loss, metrics, init, data, *, batch, epochs, key):
    """Trains one network by several optimizers, in step; to be jitted.

    All start from the same parameters and see the same batches, so that runs
    with the same key are pairs.

    Args:
        optimizers: Functions of a learning rate that return a transformation.
        rates: Learning rates, one for each optimizer.
        loss: A function of the parameters and a batch.
        metrics: A function of the parameters, called after each epoch; returns
            a dict of scalars.
        init: A function of a key that returns the parameters.
        data: A tree of arrays, examples along the first axis.
        batch: Examples in a batch; a last smaller one is left out.
        epochs: Passes over the data, each in a new order.
        key: Random key for the parameters and the orders.

    Returns:
        A dict of arrays of shape (epochs, optimizers): the metrics and, under
        "train_loss", the mean loss of the epoch's batches before their updates.
    """
    examples = jax.tree.leaves(data)[0].shape[0]
    init_key, order_key = jax.random.split(key)
    params = init(init_key)
    optimizers = [f(rate) for f, rate in zip(optimizers, rates, strict=True)]
    states = [optimizer.init(params) for optimizer in optimizers]
    grad = jax.vmap(jax.value_and_grad(loss), in_axes=(0, None))

    def step(carry, rows):
        params, states = carry
        losses, grads = grad(params, jax.tree.map(lambda x: x[rows], data))
        updates, states = zip(
            *(
                optimizer.update(_at(grads, i), state, _at(params, i))
                for i, (optimizer, state) in enumerate(
                    zip(optimizers, states, strict=True)
                )
            ),
            strict=True,
        )
        params = optax.apply_updates(params, _stack(updates))
        return (params, list(states)), losses

    def epoch(carry, key):
        order = jax.random.permutation(key, examples)
        rows = order[: examples // batch * batch].reshape(-1, batch)
        carry, losses = jax.lax.scan(step, carry, rows)
        results = jax.vmap(metrics)(carry[0])
        return carry, {"train_loss": losses.mean(0), **results}

    keys = jax.random.split(order_key, epochs)
    params = _stack([params] * len(optimizers))
    _, history = jax.lax.scan(epoch, (params, states), keys)
    return history


def _at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def _stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)
