"""Chooses a portfolio: weights that add up to 1, none of them negative.

    python examples/portfolio.py

Maximizes the expected return less a penalty on the risk, and draws
portfolio.png. At the optimum all assets that are held have the same multiplier:
what a little more of them would gain. An asset with a smaller one is left out,
and the difference says how much more it would have to return to be bought.
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import optax_ftml

ASSETS = ["bonds", "gold", "utilities", "health", "energy", "tech", "crypto"]
RISK_AVERSION = 3.0


def market():
    """Returns the assets' expected returns and covariances, per year."""
    # Daily returns of ten years: the market's, and something of each asset's.
    rng = np.random.default_rng(0)
    mean = np.array([0.02, 0.01, 0.05, 0.06, 0.06, 0.09, 0.1])
    beta = np.array([0.02, -0.05, 0.5, 0.7, 1.0, 1.1, 1.6])
    spread = np.array([0.04, 0.15, 0.1, 0.1, 0.2, 0.15, 0.7])
    days = beta * rng.normal(scale=0.17, size=(2520, 1))
    days += rng.normal(scale=spread, size=(2520, len(ASSETS)))
    return jnp.asarray(mean), jnp.asarray(np.cov(days.T))


def loss(weights, mean, covariance):
    """Returns what is to be minimized, in shares of the wealth per year."""
    risk = weights @ covariance @ weights
    return RISK_AVERSION / 2 * risk - mean @ weights


def train(steps):
    """Returns the weights after each step, and the multipliers at the end."""
    mean, covariance = market()
    optimizer = optax_ftml.ftml(0.01, prox=optax_ftml.prox.simplex())
    weights = jnp.full(len(ASSETS), 1 / len(ASSETS))

    def step(carry, _):
        weights, state = carry
        grads = jax.grad(loss)(weights, mean, covariance)
        updates, state = optimizer.update(grads, state, weights)
        weights = optax.apply_updates(weights, updates)
        return (weights, state), weights

    (weights, state), path = jax.lax.scan(
        step, (weights, optimizer.init(weights)), length=steps
    )
    return path, optax_ftml.multipliers(state)


def main(argv=None):
    """Prints the weights and multipliers and draws them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--plot", default="portfolio.png")
    args = parser.parse_args(argv)
    path, multipliers = train(args.steps)
    weights = path[-1]
    # That of every asset that is held.
    price = multipliers[jnp.argmax(weights)]
    shortfall = price - multipliers
    print("asset      weight  lacks, per year")
    for name, weight, short in zip(ASSETS, weights, shortfall, strict=True):
        print(f"{name:9}  {weight:6.2%}  {short:z8.3%}")

    fig, (left, right) = plt.subplots(
        1, 2, figsize=(9, 4), layout="constrained"
    )
    left.stackplot(range(1, args.steps + 1), path.T, labels=ASSETS)
    left.set(
        title="Weights, which add up to 1",
        xlabel="step",
        ylabel="share of the portfolio",
        xscale="log",
        xlim=(1, args.steps),
        ylim=(0, 1),
    )
    colors = [f"C{index}" for index in range(len(ASSETS))]
    right.barh(ASSETS, 100 * shortfall, color=colors)
    right.set(
        title="Return that an asset lacks to be bought",
        xlabel="percentage points per year",
    )
    for index, weight in enumerate(weights):
        right.get_yticklabels()[index].set_color(colors[index])
        if weight > 0:
            right.text(0, index, f" {weight:.0%} held", va="center")
    fig.savefig(args.plot, dpi=150)
    print(f"Both are in {args.plot}.")


if __name__ == "__main__":
    main()
