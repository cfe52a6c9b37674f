"""Trains networks whose hidden units a group lasso turns off.

    python benchmarks/networks.py

writes results/networks.json and networks.md. A dense network with two hidden
layers learns digits (scikit-learn) and MNIST-1D. The weights into a hidden unit
and its bias are one group. Each optimizer is at the best of a grid of learning
rates and of decay rates b2 of the squared gradients' average, by the penalised
training objective of two seeds that are not among the six of the table. The
grid grows until the best is at none of its ends.

Units whose norm is at most a threshold are left out. It is the largest of 0 and
17 others with an objective within 0.01 % of the smallest. With 0 only units are
left out that are exactly 0.
"""

import argparse
import functools
import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mnist1d
import numpy as np
import optax
import run
from sklearn import datasets, model_selection

import optax_ftml
from optax_ftml import prox

STEPS, BATCH = 2000, 128
WIDTHS = {"hidden_0": 64, "hidden_1": 32}
TUNING_SEEDS, SEEDS = [100, 101], range(6)
RATES = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0]
DECAYS = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]
THRESHOLDS = np.append(0.0, np.logspace(-4, 0, 17))


def digits():
    """Returns 1,437 images of 64 numbers for training, and 360 for testing."""
    x, y = datasets.load_digits(return_X_y=True)
    x, x_test, y, y_test = model_selection.train_test_split(
        jnp.float32(x / 16), y, test_size=360, random_state=0, stratify=y
    )
    return (x, y), (x_test, y_test)


def mnist_1d():
    """Returns 4,000 signals of 40 numbers for training, 1,000 for testing."""
    data = mnist1d.data.make_dataset()
    train_set = jnp.float32(data["x"]), jnp.array(data["y"])
    return train_set, (jnp.float32(data["x_test"]), jnp.array(data["y_test"]))


# The data, and the strength of the penalty.
DATA = {"digits": (digits, 1e-3), "MNIST-1D": (mnist_1d, 1e-2)}


def start(seed, train_set):
    """Returns the first parameters, and the examples of each step."""
    rng = np.random.default_rng(seed)
    inputs = train_set[0].shape[1]
    params = {}
    for name, outputs in {**WIDTHS, "out": 10}.items():
        kernel = rng.normal(size=(inputs, outputs)) * np.sqrt(2 / inputs)
        params[name] = {"kernel": np.float32(kernel), "bias": np.zeros(outputs)}
        inputs = outputs
    rows = rng.integers(len(train_set[0]), size=(2 * STEPS, BATCH))
    return jax.tree.map(np.float32, params), np.int32(rows)


def predict(params, x):
    for name in WIDTHS:
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["out"]["kernel"] + params["out"]["bias"]


def norms(params):
    """Returns the norm of each hidden unit's group, by layer."""

    def norm(kernel, bias):
        square = jnp.sum(kernel**2, 0) + bias**2
        # The gradient of the norm at 0 is 0, not NaN.
        return jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)

    return {name: norm(**params[name]) for name in WIDTHS}


def loss(params, x, y, strength):
    """Returns the mean cross entropy and the penalty, in nats."""
    entropy = optax.losses.softmax_cross_entropy_with_integer_labels(
        predict(params, x), y
    ).mean()
    return entropy + strength * sum(map(jnp.sum, norms(params).values()))


def group_lasso(strength):
    groups = prox.group_lasso(strength, axis={"kernel": 0, "bias": ()})
    return prox.by_path(dict.fromkeys(WIDTHS, groups))


def scaled(params, factors):
    """Returns the parameters with each hidden unit's group multiplied."""
    groups = {
        name: jax.tree.map(lambda p, f=factor: p * f, params[name])
        for name, factor in factors.items()
    }
    return {**params, **groups}


def shrunk(params, threshold):
    """Returns the parameters after Euclidean shrinkage of each group."""

    def factor(norm):
        return jnp.maximum(1 - threshold / jnp.where(norm > 0, norm, 1), 0)

    return scaled(params, jax.tree.map(factor, norms(params)))


class Method(NamedTuple):
    make: Callable  # Of a schedule, b2 and the strength.
    is_penalised: bool = True
    is_in_loss: bool = False
    is_shrunk: bool = False


def _adam(lr, b2, _):
    return optax.adam(lr, b2=b2)


def _rmsprop(lr, b2, _):
    return optax.rmsprop(lr, decay=b2, bias_correction=True)


def _proximal_adam(lr, b2, strength):
    return optax_ftml.proximal_adam(lr, b2=b2, prox=group_lasso(strength))


def _ftml(lr, b2, strength):
    return optax_ftml.ftml(lr, b2=b2, prox=group_lasso(strength))


METHODS = {
    "Adam, no penalty": Method(_adam, is_penalised=False),
    "proximal_adam": Method(_proximal_adam),
    "ftml": Method(_ftml),
    "Adam, penalty in the loss": Method(_adam, is_in_loss=True),
    "RMSprop, penalty in the loss": Method(_rmsprop, is_in_loss=True),
    "Adam, then Euclidean shrinkage": Method(_adam, is_shrunk=True),
}


@functools.partial(jax.jit, static_argnames="method")
@functools.partial(jax.vmap, in_axes=(None, None, None, None, 0, 0, 0))
def train(method, data, strength, steps, start, rate, b2):
    """Returns the objective, how many units are on exactly, and the network.

    The network is its parameters and, by layer, the units that are on: above
    the best threshold, and with a gradient in some step.
    """
    x, y = data
    params, rows = start

    def schedule(t):
        return rate * (1 + jnp.cos(jnp.pi * t / steps)) / 2

    optimizer = method.make(schedule, b2, strength)

    def step(t, carry):
        params, state, had = carry
        batch = x[rows[t]], y[rows[t]]
        grads = jax.grad(loss)(params, *batch, strength * method.is_in_loss)
        had = {n: had[n] | grads[n]["kernel"].any(0) for n in WIDTHS}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if method.is_shrunk:
            params = shrunk(params, schedule(t) * strength)
        return params, state, had

    had = {name: jnp.zeros(width, bool) for name, width in WIDTHS.items()}
    params, _, had = jax.lax.fori_loop(
        0, steps, step, (params, optimizer.init(params), had)
    )

    def cut(threshold):
        on = jax.tree.map(lambda n, h: (n > threshold) & h, norms(params), had)
        if not method.is_penalised:
            on = jax.tree.map(jnp.ones_like, on)
        penalty = strength * method.is_penalised
        return loss(scaled(params, on), x, y, penalty), on

    objectives, on = jax.lax.map(cut, THRESHOLDS)
    exactly_on = sum(x[0].sum() for x in jax.tree.leaves(on))
    is_good = objectives <= 1.0001 * jnp.nanmin(objectives)
    best = jnp.max(jnp.where(is_good, jnp.arange(len(THRESHOLDS)), 0))
    on = jax.tree.map(lambda x: x[best], on)
    return jnp.nan_to_num(objectives[best], nan=jnp.inf), exactly_on, params, on


def tune(objective):
    """Returns objectives by (rate, b2), the best of which is at no end.

    Args:
        objective: A function from three pairs (rate, b2) to three objectives.
    """
    found = {}
    rates, decays = RATES[5:8], DECAYS[2:5]
    while True:
        new = [p for p in itertools.product(rates, decays) if p not in found]
        if not new:
            return found
        for i in range(0, len(new), 3):
            pairs = (new[i : i + 3] * 3)[:3]
            found.update(zip(pairs, objective(pairs), strict=True))
        # The neighbours of the best are next.
        rates, decays = (
            grid[grid.index(best) - 1 : grid.index(best) + 2]
            for grid, best in zip(
                (RATES, DECAYS), min(found, key=found.get), strict=True
            )
        )


def smaller(params, on):
    """Returns the network of the units that are on."""
    layers, before = {}, slice(None)
    for name, after in {**on, "out": np.ones(10, bool)}.items():
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        layers[name] = {"kernel": kernel[before][:, after], "bias": bias[after]}
        before = after
    return layers


def measure(method, data, strength):
    """Returns the best rate and b2, and what each seed's network came to."""
    train_set, (x, y) = data

    def run_all(steps, seeds, pairs):
        """Trains a network for each pair and, next to each other, each seed."""
        starts = [start(seed, train_set) for _ in pairs for seed in seeds]
        starts = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
        rate, b2 = jnp.repeat(jnp.array(pairs), len(seeds), 0).T
        return train(
            METHODS[method], train_set, strength, steps, starts, rate, b2
        )

    def objective(pairs):
        values, *_ = run_all(STEPS, TUNING_SEEDS, pairs)
        return values.reshape(len(pairs), -1).mean(1).tolist()

    grid = tune(objective)
    best = min(grid, key=grid.get)
    objectives, exactly_on, params, on = run_all(STEPS, SEEDS, [best])
    longer, *_ = run_all(2 * STEPS, SEEDS, [best])
    networks = [
        smaller(*jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), pair))
        for i, pair in enumerate([(params, on)] * len(SEEDS))
    ]
    return {
        "rate": best[0],
        "b2": best[1],
        "grid": [[*pair, value] for pair, value in sorted(grid.items())],
        "objective": objectives.tolist(),
        "in twice the steps": longer.tolist(),
        "units not exactly 0": exactly_on.tolist(),
        "accuracy": [
            float((predict(small, x).argmax(1) == y).mean())
            for small in networks
        ],
        "units": [
            [len(small[name]["bias"]) for name in WIDTHS] for small in networks
        ],
        "parameters": [
            sum(p.size for p in jax.tree.leaves(small)) for small in networks
        ],
    }


def forward_ratios(train_set, units, rounds=25):
    """Returns the processor time of a forward pass, to the dense network's.

    Of 4,096 examples. The networks take turns; the ratios are of the medians.
    """
    params, _ = start(0, train_set)
    x = train_set[0][np.arange(4096) % len(train_set[0])]
    passes = []
    for widths in [WIDTHS.values(), *units]:
        on = {
            name: np.arange(WIDTHS[name]) < width
            for name, width in zip(WIDTHS, widths, strict=True)
        }
        small = smaller(params, on)
        passes.append(jax.jit(functools.partial(predict, small)))
    seconds = [[] for _ in passes]
    for _ in range(rounds + 1):
        for forward, times in zip(passes, seconds, strict=True):
            begin = time.process_time()
            jax.block_until_ready(forward(x))
            times.append(time.process_time() - begin)
    # The first of each is its compilation.
    dense, *small = [statistics.median(times[1:]) for times in seconds]
    return [time / dense for time in small]


def markdown(results):
    """Returns the tables, with means and standard deviations over seeds."""
    lines = [
        f"{results['machine']}. {STEPS:,} steps, {len(SEEDS)} seeds. The "
        "processor time of a forward pass is divided by the dense network's."
    ]
    columns = {
        "objective": ".4f",
        "in twice the steps": ".4f",
        "accuracy": ".1%",
        "units not exactly 0": ".0f",
        "units": ".0f",
        "parameters": ",.0f",
        "forward": ".2f",
    }
    for name, methods in results["data"].items():
        lines += [
            f"\n### {name}, strength {DATA[name][1]:g}\n",
            "| optimizer | learning rate | b2 | " + " | ".join(columns) + " |",
            "|---|--:|--:|" + "--:|" * len(columns),
        ]
        for method, result in methods.items():
            cells = [method, f"{result['rate']:g}", f"{result['b2']:g}"]
            for key, form in columns.items():
                values = [np.sum(value) for value in result[key]]
                mean, deviation = np.mean(values), np.std(values, ddof=1)
                cells.append(f"{mean:{form}} ± {deviation:{form}}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument(
        "--methods", nargs="*", choices=METHODS, default=list(METHODS)
    )
    parser.add_argument("--output", type=pathlib.Path, default=run.RESULTS)
    args = parser.parse_args()
    path = args.output / "networks.json"
    results = json.loads(path.read_text()) if path.exists() else {"data": {}}
    results["machine"] = run.machine()
    for name in args.data:
        load, strength = DATA[name]
        data, methods = load(), results["data"].setdefault(name, {})
        for method in args.methods:
            methods[method] = measure(method, data, strength)
            print(name, method, methods[method], flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
    # Times come last: only they depend on what else the machine does.
    for name, methods in results["data"].items():
        units = [pair for r in methods.values() for pair in r["units"]]
        ratios = iter(forward_ratios(DATA[name][0]()[0], units))
        for result in methods.values():
            result["forward"] = [next(ratios) for _ in SEEDS]
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
