"""Solves one problem by JAXopt, by Adam with Euclidean shrinkage, and by ours.

    python benchmarks/jaxopt_comparison.py

writes results/jaxopt_comparison.json and .png. Multinomial logistic
regression with an L1 penalty on scikit-learn's digits, in float32: all examples
in each step, and minibatches of 64. The optimum is JAXopt's ProximalGradient's
in float64, run until it ends. The learning rates are the best of grids whose
ends are not the best, by the objective at the end of one seed; the runs shown
are five other seeds. Needs jaxopt, scikit-learn and matplotlib.
"""

import argparse
import importlib.metadata
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import jaxopt
import networks
import numpy as np
import optax
import run
from matplotlib import figure
from sklearn import datasets

import optax_ftml
from optax_ftml import prox

STRENGTH, BATCH = 1e-3, 64
CHECKS = 40  # How often the objective is looked at.
TUNING_SEED, SEEDS = 100, range(5)


def problem(dtype):
    data = datasets.load_digits()
    x, y = jnp.array(data.data / 16, dtype), jnp.array(data.target)
    zeros = {"w": jnp.zeros((64, 10), dtype), "b": jnp.zeros(10, dtype)}
    return (x, y), zeros


def loss(params, data):
    x, y = data
    logits = x @ params["w"] + params["b"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, y
    ).mean()


@jax.jit
def objective(params, data):
    return loss(params, data) + STRENGTH * jnp.abs(params["w"]).sum()


# The bias is free.
STRENGTHS = {"w": STRENGTH, "b": 0.0}


def soft_threshold(params, threshold):
    def shrink(x, strength):
        return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold * strength, 0)

    return jax.tree.map(shrink, params, STRENGTHS)


L1 = prox.l1(STRENGTHS)
METHODS = {
    "Adam, then Euclidean shrinkage": (optax.adam, True),
    "ftml": (lambda lr: optax_ftml.ftml(lr, prox=L1), False),
    "proximal_adam": (
        lambda lr: optax_ftml.proximal_adam(lr, prox=L1),
        False,
    ),
}


def optimum():
    """Returns the objective's least value, and its share of zeros."""
    with jax.enable_x64(True):
        data, start = problem(jnp.float64)
        solver = jaxopt.ProximalGradient(
            loss, jaxopt.prox.prox_lasso, maxiter=20000, tol=1e-9
        )
        strengths = jax.tree.map(lambda x, p: x + 0 * p, STRENGTHS, start)
        params, state = jax.jit(solver.run)(start, strengths, data)
        zeros = float((params["w"] == 0).mean())
        return float(objective(params, data)), zeros, float(state.error)


def by_jaxopt(data, start, rounds):
    """Returns seconds and objectives after so many iterations, from one run."""
    solver = jaxopt.ProximalGradient(
        loss, jaxopt.prox.prox_lasso, maxiter=10**9, tol=0.0
    )
    strengths = jax.tree.map(lambda x, p: x + 0 * p, STRENGTHS, start)

    @jax.jit
    def several(params, state):
        def body(_, carry):
            return tuple(solver.update(*carry, strengths, data))

        return jax.lax.fori_loop(0, 25, body, (params, state))

    def init():
        return start, solver.init_state(start, strengths, data)

    return timed(several, init, data, rounds)


def ours(method, rate, steps, is_full, seed, data, start, rounds):
    """Returns seconds and objectives along one run of `steps` steps."""
    make, is_shrunk = METHODS[method]
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = make(schedule)
    key = jax.random.key(seed)

    def step(carry, _):
        params, state, t = carry
        if is_full:
            batch = data
        else:
            rows = jax.random.randint(
                jax.random.fold_in(key, t), [BATCH], 0, len(data[0])
            )
            batch = jax.tree.map(lambda x: x[rows], data)
        grads = jax.grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if is_shrunk:
            params = soft_threshold(params, schedule(t))
        return (params, state, t + 1), None

    @jax.jit
    def several(*carry):
        carry, _ = jax.lax.scan(step, carry, length=steps // CHECKS)
        return carry

    def init():
        return start, optimizer.init(start), jnp.zeros([], jnp.int32)

    return timed(several, init, data, rounds)


def timed(several, init, data, rounds):
    """Runs the same steps several times; the least time of each stretch."""
    jax.block_until_ready(several(*init()))  # compiled
    seconds = np.full((rounds, CHECKS), np.inf)
    for i in range(rounds):
        carry, values = init(), []
        for j in range(CHECKS):
            begin = time.perf_counter()
            carry = jax.block_until_ready(several(*carry))
            seconds[i, j] = time.perf_counter() - begin
            values.append(float(objective(carry[0], data)))
    zeros = float((carry[0]["w"] == 0).mean())
    return {
        "seconds": np.cumsum(seconds.min(0)).tolist(),
        "objective": values,
        "zeros": zeros,
    }


def best_rate(method, steps, is_full, data, start):
    """Returns objectives by learning rate; the best is at neither end."""
    values, new = {}, [0.03, 0.1, 0.3]
    while new:
        for rate in new:
            found = ours(
                method, rate, steps, is_full, TUNING_SEED, data, start, rounds=1
            )
            value = np.nan_to_num(found["objective"][-1], nan=np.inf)
            values[rate] = float(value)
        best = networks.RATES.index(min(values, key=values.get))
        around = networks.RATES[best - 1 : best + 2]
        new = [rate for rate in around if rate not in values]
    return values, networks.RATES[best]


def compare(steps, rounds):
    data, start = problem(jnp.float32)
    value, zeros, error = optimum()
    results = {
        "machine": run.machine()
        + f", jaxopt {importlib.metadata.version('jaxopt')}",
        "optimum": value,
        "optimum_zeros": zeros,
        "optimum_error": error,
        "steps": steps,
    }
    print(results, flush=True)
    results["JAXopt"] = by_jaxopt(data, start, rounds)
    print(results["JAXopt"]["objective"][-1] - value, flush=True)
    for kind, is_full in (("full batch", True), ("minibatches", False)):
        results[kind] = {}
        for method in METHODS:
            grid, rate = best_rate(method, steps, is_full, data, start)
            runs = [
                ours(method, rate, steps, is_full, seed, data, start, rounds)
                for seed in (SEEDS if not is_full else [0])
            ]
            results[kind][method] = {"rate": rate, "grid": grid, "runs": runs}
            gaps = [r["objective"][-1] - value for r in runs]
            print(kind, method, rate, grid, gaps, flush=True)
    return results


STYLES = {
    "JAXopt's ProximalGradient": ("0.3", "-"),
    "Adam, then Euclidean shrinkage": ("C1", "--"),
    "ftml": ("C0", "-."),
    "proximal_adam": ("C2", "-"),
}


def picture(results):
    """Returns the objective above the optimum against time."""
    canvas = figure.Figure(figsize=(9, 3.8), layout="constrained")
    panels = canvas.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("full batch", "minibatches"), strict=True):
        curves = {name: r["runs"] for name, r in results[kind].items()}
        if kind == "full batch":
            curves["JAXopt's ProximalGradient"] = [results["JAXopt"]]
        for name, (color, line) in STYLES.items():
            if name not in curves:
                continue
            seconds = np.mean([r["seconds"] for r in curves[name]], 0)
            gaps = np.array([r["objective"] for r in curves[name]])
            # In float32 the objective is right to about 1e-7.
            gaps = np.maximum(gaps - results["optimum"], 1e-7)
            axes.loglog(seconds, gaps.mean(0), line, color=color, label=name)
            axes.fill_between(
                seconds, gaps.min(0), gaps.max(0), color=color, alpha=0.15
            )
        axes.set(title=kind, xlabel="seconds")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    panels[0].set_ylabel("objective above the optimum")
    return canvas


def markdown(results):
    lines = [
        f"{results['machine']}. {results['steps']} steps; the optimum is "
        f"{results['optimum']:.6f}, with {results['optimum_zeros']:.0%} of the "
        "weights 0. Minibatches: mean ± standard deviation of five seeds.",
        "",
        "| by | learning rate | above the optimum | zeros | seconds |",
        "|---|--:|--:|--:|--:|",
    ]

    def row(name, rate, runs):
        gaps = [r["objective"][-1] - results["optimum"] for r in runs]
        cells = [f"{np.mean(gaps):.1e}"]
        if len(runs) > 1:
            cells = [f"{np.mean(gaps):.1e} ± {np.std(gaps, ddof=1):.0e}"]
        zeros = np.mean([r["zeros"] for r in runs])
        seconds = np.mean([r["seconds"][-1] for r in runs])
        cells += [f"{zeros:.0%}", f"{seconds:.2f}"]
        lines.append("| " + " | ".join([name, rate, *cells]) + " |")

    row("ProximalGradient, full batch", "", [results["JAXopt"]])
    for kind in ("full batch", "minibatches"):
        for method, result in results[kind].items():
            row(f"{method}, {kind}", f"{result['rate']:g}", result["runs"])
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="jaxopt_comparison")
    parser.add_argument(
        "--redraw", action="store_true", help="only draw what is there"
    )
    arguments = parser.parse_args()
    path = pathlib.Path(__file__).parent / "results" / arguments.output
    if arguments.redraw:
        results = json.loads(path.with_suffix(".json").read_text())
    else:
        results = compare(arguments.steps, arguments.rounds)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results))
    picture(results).savefig(path.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
