"""Trains networks whose hidden units a group lasso turns off.

    python benchmarks/networks.py

writes results/networks.json and networks.md. A dense network with two hidden
layers learns digits (scikit-learn) and MNIST-1D. What comes into a hidden unit,
its bias among it, is one group. The optimizers are at the best of a grid of
learning rates, chosen by the penalised training objective of two seeds that are
not among the five of the table; a grid grows until neither end is its best.
"""

import argparse
import functools
import json
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import mnist1d
import numpy as np
import optax
import run
from sklearn import datasets
from sklearn import model_selection

import optax_ftml
from optax_ftml import prox

BATCH = 128
WIDTHS = [128, 64]
HIDDEN = [f"hidden_{i}" for i in range(len(WIDTHS))]
TUNING_SEEDS = [100, 101]
SEEDS = [0, 1], [2, 3], [4, 5]  # The last is left out: there are five.
RATES = [3e-3, 1e-2, 3e-2]
# For optimizers that bring a unit near 0 only: the best of these is taken.
THRESHOLDS = [0.0, *np.logspace(-4, 0, 17)]


def digits():
    """Returns 1437 images for training and 360 for testing, 64 numbers each."""
    data = datasets.load_digits()
    x, y = (data.data / 16).astype(np.float32), data.target
    x, x_test, y, y_test = model_selection.train_test_split(
        x, y, test_size=360, random_state=0, stratify=y
    )
    return (x, y), (x_test, y_test)


def lines():
    """Returns MNIST-1D, 4000 for training and 1000 for testing, 40 numbers."""
    data = mnist1d.data.make_dataset()
    return (
        (data["x"].astype(np.float32), data["y"]),
        (data["x_test"].astype(np.float32), data["y_test"]),
    )


def init(key, inputs):
    sizes = [inputs, *WIDTHS, 10]
    keys = jax.random.split(key, len(sizes) - 1)
    make = jax.nn.initializers.he_normal()
    return {
        name: {"kernel": make(k, (n, m)), "bias": jnp.zeros(m)}
        for name, k, n, m in zip(
            [*HIDDEN, "out"], keys, sizes, sizes[1:], strict=False
        )
    }


def predict(params, x):
    for name in HIDDEN:
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["out"]["kernel"] + params["out"]["bias"]


def norms(params):
    """Returns the norm of each hidden unit's group, layer by layer."""

    def norm(kernel, bias):
        square = jnp.sum(kernel**2, 0) + bias**2
        return jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)

    return [norm(**params[name]) for name in HIDDEN]


def loss(params, x, y):
    logits = predict(params, x)
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, y
    ).mean()


def penalised(params, x, y, strength):
    return loss(params, x, y) + strength * sum(map(jnp.sum, norms(params)))


def groups(strength):
    """Returns the group lasso, a group for each hidden unit, across leaves."""
    return prox.by_path(
        {
            name: prox.group_lasso(strength, axis={"kernel": 0, "bias": ()})
            for name in HIDDEN
        }
    )


def shrink(params, threshold):
    """Euclidean shrinkage of each group."""
    shrunk = dict(params)
    for name, norm in zip(HIDDEN, norms(params), strict=True):
        factor = jnp.maximum(1 - threshold / jnp.where(norm > 0, norm, 1), 0)
        shrunk[name] = jax.tree.map(lambda x, f=factor: x * f, params[name])
    return shrunk


# By name: an optimizer of a schedule and a strength; whether the penalty is in
# the loss; whether Euclidean shrinkage follows its step.
METHODS = {
    "Adam, no penalty": (lambda lr, _: optax.adam(lr), False, False),
    "proximal_adam": (
        lambda lr, s: optax_ftml.proximal_adam(lr, prox=groups(s)),
        False,
        False,
    ),
    "ftml": (
        lambda lr, s: optax_ftml.ftml(lr, prox=groups(s)),
        False,
        False,
    ),
    "Adam, penalty in the loss": (lambda lr, _: optax.adam(lr), True, False),
    "RMSprop, penalty in the loss": (
        lambda lr, _: optax.rmsprop(lr),
        True,
        False,
    ),
    "Adam, then Euclidean shrinkage": (
        lambda lr, _: optax.adam(lr),
        False,
        True,
    ),
}


@functools.partial(jax.jit, static_argnames=("method", "steps"))
@functools.partial(jax.vmap, in_axes=(None, None, None, None, None, 0, None))
def train(method, steps, x, y, strength, seed, rate):
    """Returns the parameters and, per unit, whether it ever had a gradient."""
    make, is_in_loss, is_shrunk = METHODS[method]
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = make(schedule, strength)
    init_key, key = jax.random.split(jax.random.key(seed))
    params = init(init_key, x.shape[1])

    def objective(params, x, y):
        if is_in_loss:
            return penalised(params, x, y, strength)
        return loss(params, x, y)

    def step(carry, t):
        params, state, had = carry
        rows = jax.random.randint(
            jax.random.fold_in(key, t), [BATCH], 0, len(x)
        )
        grads = jax.grad(objective)(params, x[rows], y[rows])
        had = [
            h | (jnp.abs(grads[name]["kernel"]).max(0) > 0)
            for h, name in zip(had, HIDDEN, strict=True)
        ]
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if is_shrunk:
            params = shrink(params, schedule(t) * strength)
        return (params, state, had), None

    had = [jnp.zeros(width, bool) for width in WIDTHS]
    (params, _, had), _ = jax.lax.scan(
        step, (params, optimizer.init(params), had), jnp.arange(steps)
    )
    return params, had


def smaller(params, on):
    """Returns the network of the units that are on."""
    on = [np.asarray(x) for x in on] + [np.ones(10, bool)]
    layers, before = {}, slice(None)
    for name, after in zip([*HIDDEN, "out"], on, strict=True):
        kernel, bias = (np.asarray(params[name][k]) for k in ("kernel", "bias"))
        layers[name] = {"kernel": kernel[before][:, after], "bias": bias[after]}
        before = after
    return layers


def cut(params, had, x, y, strength, is_near):
    """Returns the units that are on: exactly, or by the best threshold."""
    sizes = [np.asarray(norm) for norm in norms(params)]
    had = [np.asarray(h) for h in had]
    best = math.inf, None
    for threshold in THRESHOLDS if is_near else [0.0]:
        on = [h & (n > threshold) for h, n in zip(had, sizes, strict=True)]
        masked = {
            name: jax.tree.map(lambda leaf, o=o: leaf * o, params[name])
            for name, o in zip(HIDDEN, on, strict=True)
        }
        value = _penalised({**params, **masked}, x, y, strength)
        best = min(best, (float(value), on), key=lambda pair: pair[0])
    return best


_penalised = jax.jit(penalised)


def seconds(params, x):
    """Returns the time of a forward pass of 4096 examples, the best of 30."""
    x = jnp.resize(x, (4096, x.shape[1]))
    forward = jax.jit(predict)
    jax.block_until_ready(forward(params, x))
    times = []
    for _ in range(30):
        start = time.perf_counter()
        jax.block_until_ready(forward(params, x))
        times.append(time.perf_counter() - start)
    return min(times)


def measure(method, params, had, train_set, test_set, strength):
    """Returns what the table has of one seed's network."""
    is_near = METHODS[method][1]
    penalty = strength if method != "Adam, no penalty" else 0.0
    if method == "Adam, no penalty":
        on = [np.ones(width, bool) for width in WIDTHS]
    else:
        _, on = cut(params, had, *train_set, strength, is_near)
    small = smaller(params, on)
    predicted = np.asarray(predict(small, test_set[0])).argmax(1)
    return {
        "objective": float(_penalised(small, *train_set, penalty)),
        "loss": float(loss(small, *train_set)),
        "accuracy": float(np.mean(predicted == test_set[1])),
        "units": int(sum(map(np.sum, on))),
        "parameters": int(sum(x.size for x in jax.tree.leaves(small))),
        "never_trained": int(sum(np.sum(~np.asarray(h)) for h in had)),
        "forward_ms": 1e3 * seconds(small, train_set[0]),
    }


def tune(method, steps, train_set, strength):
    """Returns objectives by learning rate; no end of the grid is the best."""

    def value(rate):
        params, _ = train(
            method, steps, *train_set, strength, jnp.array(TUNING_SEEDS), rate
        )
        penalty = strength if method != "Adam, no penalty" else 0.0
        values = jax.vmap(lambda p: penalised(p, *train_set, penalty))(params)
        return float(jnp.nan_to_num(values, nan=jnp.inf).mean())

    return search(RATES, value)


def search(rates, value):
    """Returns values by learning rate, and the best, which is at no end."""
    found = {rate: value(rate) for rate in rates}
    while True:
        rates = sorted(found)
        best = min(found, key=found.get)
        if best == rates[0]:
            new = _neighbour(best, -1)
        elif best == rates[-1]:
            new = _neighbour(best, 1)
        else:
            return {f"{r:g}": found[r] for r in rates}, best
        found[new] = value(new)


def _neighbour(rate, steps):
    """The next of ..., 1e-3, 3e-3, 1e-2, ..."""
    index = round(2 * math.log10(rate)) + steps
    return float(f"{(1 if index % 2 == 0 else 3) * 10.0 ** (index // 2):.0e}")


def compare(name, data, steps, strength, methods):
    train_set, test_set = data
    train_set = tuple(map(jnp.asarray, train_set))
    results = {}
    for method in methods:
        start = time.time()
        grid, rate = tune(method, steps, train_set, strength)
        trained = [
            train(method, steps, *train_set, strength, jnp.array(pair), rate)
            for pair in SEEDS
        ]
        results[method] = {
            "rate": rate,
            "grid": grid,
            "seeds": [
                measure(
                    method,
                    *jax.tree.map(
                        lambda leaf, i=i: leaf[i % 2], trained[i // 2]
                    ),
                    train_set,
                    test_set,
                    strength,
                )
                for i in range(5)
            ],
        }
        print(f"{name} {method} {rate:g}: {time.time() - start:.0f} s")
        print("  ", results[method]["grid"], flush=True)
        print("  ", results[method]["seeds"][0], flush=True)
    return results


def markdown(results):
    lines = [
        run.machine() + f". Five seeds, {results['steps']} "
        f"steps, strength {results['strength']:g}."
    ]
    columns = {
        "objective": "penalised objective",
        "accuracy": "test accuracy, %",
        "units": "units",
        "parameters": "parameters",
        "forward_ms": "forward pass, ms",
    }
    for name, methods in results["data"].items():
        lines += [
            f"\n### {name}\n",
            "| optimizer | learning rate | "
            + " | ".join(columns.values())
            + " |",
            "|---|--:|" + "--:|" * len(columns),
        ]
        for method, result in methods.items():
            cells = [method, f"{result['rate']:g}"]
            for key in columns:
                x = np.array([seed[key] for seed in result["seeds"]])
                cells.append(_cell(x * 100 if key == "accuracy" else x, key))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(x, key):
    digits = {"objective": 4, "accuracy": 1, "forward_ms": 2}.get(key, 0)
    return f"{x.mean():,.{digits}f} ± {x.std(ddof=1):,.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--strength", type=float, default=1e-3)
    parser.add_argument("--only", nargs="*", default=list(METHODS))
    parser.add_argument("--data", nargs="*", default=["digits", "MNIST-1D"])
    parser.add_argument("--output", default="networks")
    arguments = parser.parse_args()
    data = {"digits": digits, "MNIST-1D": lines}
    results = {
        "steps": arguments.steps,
        "strength": arguments.strength,
        "data": {
            name: compare(
                name,
                data[name](),
                arguments.steps,
                arguments.strength,
                arguments.only,
            )
            for name in arguments.data
        },
    }
    folder = pathlib.Path(__file__).parent / "results"
    path = folder / f"{arguments.output}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
