"""Any Euclidean prox or projection, made one in the metric."""

import functools
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml import _checks as _shared_checks
from optax_ftml import _leader
from optax_ftml.prox import _checks
from optax_ftml.prox import _slices
from optax_ftml.prox._slices import each


def in_metric(
    f: Callable[[Any, jax.Array], Any],
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> _leader.Prox:
    r"""Makes a Euclidean prox or projection one in the metric.

    With the smallest of the step sizes, :math:`\alpha`, it repeats

    .. math::
        \theta \leftarrow f\left(y - \frac{\alpha}{s} (y - \ell),\
        \alpha\right)

    from :math:`y = \ell`, where :math:`y` runs ahead of :math:`\theta` by
    Nesterov's momentum, until the distance from the solution, in the metric and
    relative to that between solution and leader, is certain to be below the
    tolerance. The number of repetitions grows with the square root of the ratio
    of the largest to the smallest step size, and so does what rounding leaves:
    in float32 step sizes over two decades leave 3e-5, over four 3e-4 and over
    six 5e-3, where float64 or a prox of this module's own leave none of it.

    Args:
        f: A function ``f(tree, step_size)``, with one step size, of shape (),
            for all numbers of the tree. It returns the :math:`\theta` that
            minimises :math:`R(\theta)` plus
            :math:`\|\theta - \text{tree}\|^2 / (2 \cdot \text{step\_size})`,
            for a convex :math:`R`. A projection leaves the step size aside.
        tolerance: Above 0.
        max_iterations: At least 1. After so many it ends in any case.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        TypeError: An `f` that is not a function, or another argument that is
            not a number.
        ValueError: A number out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optax_ftml
        >>> f = optax_ftml.prox.in_metric(
        ...     lambda tree, _: optax.projections.projection_simplex(tree)
        ... )
        >>> leader, step_size = jnp.array([0.75, 0.75]), jnp.array([3.0, 1.0])
        >>> print(f(leader, step_size).round(4))
        [0.375 0.625]

    References:
        Nesterov, Lectures on Convex Optimization, 2nd edition, Springer, 2018;
        O'Donoghue and Candès, `Adaptive Restart for Accelerated Gradient
        Schemes <https://doi.org/10.1007/s10208-013-9150-3>`_, Foundations of
        Computational Mathematics 15, 2015; Becker and Fadili, `A Quasi-Newton
        Proximal Splitting Method <https://arxiv.org/abs/1206.1156>`_, NeurIPS
        2012
    """
    _shared_checks.check_callable("f", f)
    if not isinstance(tolerance, numbers.Real) or isinstance(tolerance, bool):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}.")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance!r}.")
    tolerance = float(tolerance)
    _checks.check_integer("max_iterations", max_iterations, 1)

    def prox(leader, step_size):
        _, x, s = _checks.leaves_of(
            "in_metric", leader, step_size, is_complex=True
        )
        if not sum(leaf.size for leaf in x):
            return leader
        own = _slices.Slice(x, s, None)
        treedef = jax.tree.structure(leader)
        # The ratio of the smallest step size to each.
        metric = own.metric()
        least = jnp.maximum(-own.max(each(jnp.negative, metric)), 1e-8)
        ratio = own.each(lambda q, s: q / jnp.maximum(s, q), least, metric)
        alpha = least * own.max(own.s)

        def apply(y, x, ratio, alpha):
            moved = each(lambda y, x, r: y - r * (y - x), y, x, ratio)
            result = f(jax.tree.unflatten(treedef, moved), alpha)
            _shared_checks.check_prox(result, jax.tree.unflatten(treedef, x))
            return jax.tree.leaves(result)

        def solve(x, ratio, alpha):
            return _iterate(
                lambda y: apply(y, x, ratio, alpha),
                _slices.Slice(x, ratio, None),
                x,
                ratio,
                tolerance,
                max_iterations,
            )

        result = _fixed_point(solve, apply, max_iterations, (x, ratio, alpha))
        return _checks.tree_of(result, leader)

    return prox


def _iterate(apply, own, x, ratio, tolerance, max_iterations):
    least = -own.max(each(jnp.negative, ratio))
    root = jnp.sqrt(least)
    most = (1 - root) / (1 + root)
    tolerance = jnp.maximum(
        tolerance, 8 * jnp.finfo(own.dtype).eps / root
    ).astype(own.dtype)

    def square(weights, arrays):
        return own.sum(
            each(lambda w, a: w * jnp.square(jnp.abs(a)), weights, arrays)
        )

    def step(carry):
        theta, y, t, _, count = carry
        after = apply(y)
        gap = each(jnp.subtract, y, after)
        # Strong convexity bounds the distance by a subgradient's norm.
        error = square(each(lambda r: jnp.square(1 - r) / r, ratio), gap)
        moved = square(ratio, each(jnp.subtract, after, x))
        goes_on = error > jnp.square(tolerance) * moved
        speed = each(jnp.subtract, after, theta)
        uphill = own.sum(
            each(lambda g, v: jnp.real(g * jnp.conj(v)), gap, speed)
        )
        t = jnp.where(uphill > 0, 1, t)
        next_t = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        momentum = jnp.minimum((t - 1) / next_t, most)
        y = own.each(lambda m, a, v: a + m * v, momentum, after, speed)
        return after, y, next_t, goes_on, count + 1

    def goes_on(carry):
        *_, goes_on, count = carry
        return goes_on & (count < max_iterations)

    theta, *_ = jax.lax.while_loop(
        goes_on,
        step,
        (
            x,
            x,
            jnp.ones([], own.dtype),
            jnp.ones([], bool),
            jnp.zeros([], jnp.int32),
        ),
    )
    return theta


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _fixed_point(solve, apply, max_iterations, arguments):
    """Solves theta = apply(theta, *arguments), with its gradient."""
    del apply, max_iterations
    return solve(*arguments)


def _fixed_point_forward(solve, apply, max_iterations, arguments):
    del apply, max_iterations
    theta = solve(*arguments)
    return theta, (theta, arguments)


def _fixed_point_backward(solve, apply, max_iterations, saved, cotangent):
    del solve
    theta, arguments = saved
    _, pull = jax.vjp(lambda y, others: apply(y, *others), theta, arguments)

    def step(_, u):
        return each(jnp.add, cotangent, pull(u)[0])

    u = jax.lax.fori_loop(0, max_iterations, step, cotangent)
    return (pull(u)[1],)


_fixed_point.defvjp(_fixed_point_forward, _fixed_point_backward)
