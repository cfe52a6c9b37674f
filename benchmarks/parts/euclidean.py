"""Euclidean projections and shrinkage for the prox benchmark, and adaprox."""

import time

import jax
import jax.numpy as jnp
import numpy as np


def each(function):
    """Returns the function for every leaf of a tree."""
    return lambda tree: jax.tree.map(function, tree)


def rows(project):
    """Returns a projection of an array, for the slices along the last axis."""

    def of_leaf(x):
        slices = x.reshape(-1, x.shape[-1])
        return jax.vmap(project)(slices).reshape(x.shape)

    return each(of_leaf)


def soft_threshold(strength):
    return lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - strength, 0)


def group_shrinkage(strength):
    def shrink(x):
        norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
        return x * jnp.maximum(1 - strength / norm, 0)

    return shrink


def _numpy_simplex(x, step):
    del step
    ordered = -np.sort(-x, axis=-1)
    excess = np.cumsum(ordered, axis=-1) - 1
    counts = np.arange(1, x.shape[-1] + 1)
    last = np.sum(ordered * counts > excess, axis=-1, keepdims=True)
    threshold = np.take_along_axis(excess, last - 1, axis=-1) / last
    return np.maximum(x - threshold, 0)


def _numpy_l2_ball(x, step):
    del step
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return x * np.minimum(0.5 / norm, 1)


def _numpy_group_lasso(x, step):
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return x * np.maximum(1 - 10 * step / norm, 0)


NUMPY = {
    "simplex": _numpy_simplex,
    "l2_ball": _numpy_l2_ball,
    "group_lasso": _numpy_group_lasso,
}


def adaprox_seconds(shape, steps=2, most=100):
    """Returns the seconds of a step of proxmin's adaprox by prox.

    Its inner iterations are stopped after `most` if they have not converged
    (its own limit is 1,000), so that the time is at most what it would be.
    """
    from proxmin import algorithms

    rng = np.random.default_rng(9)
    grads = [
        rng.standard_normal(shape, np.float32)
        * np.exp(rng.uniform(*np.log((0.1, 10)), shape[-1]))
        for _ in range(steps)
    ]
    results = {}
    for name, project in NUMPY.items():
        marks, calls = [], []

        def gradient(x, marks=marks):
            del x
            marks.append(time.perf_counter())
            return grads[(len(marks) - 1) % steps]

        def counted(x, step, calls=calls, project=project):
            calls.append(1)
            return project(x, step)

        x = 0.03 * rng.standard_normal(shape, np.float32)
        algorithms.adaprox(
            x,
            gradient,
            lambda *_, it: (1e-3,),
            prox=counted,
            check_convergence=False,
            max_iter=steps,
            prox_max_iter=most,
        )
        marks.append(time.perf_counter())
        results[name] = {
            "seconds": float(np.median(np.diff(marks))),
            "iterations": len(calls) / steps,
        }
    return results
