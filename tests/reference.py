"""The textbook d, v, z recursion in NumPy, to compare with."""

import numpy as np


def dvz(
    theta,
    grads,
    learning_rates,
    b1s,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    project=lambda theta: theta,
    gradient_rule=lambda g, theta: g,
):
    """Returns the parameters after each step, in float64.

    Args:
        theta: Initial parameters, of any shape.
        grads: Gradients, (steps, *theta.shape).
        learning_rates: One a step.
        b1s: One a step.
        b2: Decay rate of v.
        eps: Outside the square root.
        eps_root: Inside the square root.
        project: Takes -z / d to the parameters.
        gradient_rule: Clipping and weight decay, of (gradient, theta).
    """
    theta = np.asarray(theta, np.float64)
    d = v = z = np.zeros_like(theta)
    thetas = []
    for t, (g, lr, b1) in enumerate(
        zip(grads, learning_rates, b1s, strict=True), start=1
    ):
        g = gradient_rule(np.asarray(g, np.float64), theta)
        v = b2 * v + (1 - b2) * g**2
        next_d = (1 - b1**t) / lr * (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        sigma = next_d - b1 * d
        z = b1 * z + (1 - b1) * g - sigma * theta
        d = next_d
        theta = project(-z / d)
        thetas.append(theta)
    return np.stack(thetas)
