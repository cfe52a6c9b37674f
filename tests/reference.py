"""The optimizers, the textbook d, v, z recursion, and the loop that trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_ftml
from optax_ftml import mxnet


def free(leader, step_size):
    """The prox of nothing."""
    del step_size
    return leader


# Each of the package's optimizers, made by its numbers alone.
FORMS = {
    "delta": optax_ftml.ftml,
    "leader": functools.partial(optax_ftml.ftml, prox=free),
    "adam": functools.partial(optax_ftml.proximal_adam, prox=free),
}
# And what else there is, made by its learning rate.
OPTIMIZERS = FORMS | {
    "without memory": functools.partial(FORMS["leader"], b1=0),
    "rounding": lambda rate: optax.chain(
        optax_ftml.ftml(rate, accumulator_dtype=jnp.bfloat16),
        optax_ftml.stochastic_rounding(),
    ),
    "master": lambda rate: optax_ftml.with_master_params(optax_ftml.ftml(rate)),
    "mxnet": lambda rate: mxnet.ftml(
        rate, wd=0.01, clip_gradient=1.0, multi_precision=True
    ),
}


def dvz(
    theta,
    grads,
    learning_rates,
    b1s,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    prox=free,
):
    """Returns the parameters after each step, in float64 or complex128.

    Args:
        theta: Initial parameters, of any shape.
        grads: Gradients, (steps, *theta.shape).
        learning_rates: One per step, which may be arrays.
        b1s: One per step, which may be arrays.
        b2: Decay rate of v.
        eps: Outside the square root.
        eps_root: Inside the square root.
        prox: Takes -z / d and step sizes to the parameters.
    """
    theta = np.asarray(theta, np.result_type(theta, np.float64))
    d = v = z = 0.0
    thetas = []
    for t, (g, lr, b1) in enumerate(
        zip(grads, learning_rates, b1s, strict=True), start=1
    ):
        g = np.asarray(g, theta.dtype)
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        next_d = (1 - b1**t) / lr * (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        sigma = next_d - b1 * d
        z = b1 * z + (1 - b1) * g - sigma * theta
        d = next_d
        theta = prox(-z / d, (1 - b1**t) / d)
        thetas.append(theta)
    return np.stack(thetas)


def run(optimizer, params, grads, steps):
    """Returns the parameters, updates and states after each step.

    The gradients are a function of the step, from 0, and of the parameters.
    """

    def step(carry, t):
        params, state = carry
        updates, state = optimizer.update(grads(t, params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, updates, state)

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, jnp.arange(steps))[1]


def trajectory(optimizer, theta, grads):
    """Returns the parameters after each step, (steps, *theta.shape)."""
    grads = jnp.asarray(grads)
    return run(optimizer, theta, lambda t, _: grads[t], len(grads))[0]


def train(optimizer, gradient, start, steps):
    """Returns the parameters and the state after so many steps."""
    params, _, states = run(
        optimizer, start, lambda _, params: gradient(params), steps
    )
    return jax.tree.map(lambda x: x[-1], (params, states))
