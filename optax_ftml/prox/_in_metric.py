"""Any Euclidean prox or projection, made one in the metric."""

import functools
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml import _checks as _shared_checks
from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _slices
from optax_ftml.prox import _splitting
from optax_ftml.prox._splitting import each


def in_metric(
    f: Callable[[Any, jax.Array], Any],
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> _numerics.Prox:
    r"""Makes a Euclidean prox or projection one in the metric.

    Douglas-Rachford splitting between `f` and the squared distance from the
    leader, which is solved in closed form. With a step size :math:`\alpha` for
    all numbers it repeats

    .. math::
        \theta = f(\ell + (s - \alpha) q,\ \alpha), \qquad
        q \leftarrow q + \frac{\theta - \ell - s q}{s + \alpha}

    from :math:`q = 0`, with Anderson's acceleration, until the distance from
    the solution, relative to that between solution and leader, is certain to be
    below the tolerance, or the residual :math:`\theta - \ell - s q` is
    rounding. Every :math:`\alpha` has the same solution. It starts as the
    geometric mean of the smallest and the largest step size and changes, less
    and less often, to where the bound on the distance is least.

    On slices of 6 to 500 numbers it calls `f` about 10 to 20 times for step
    sizes over two decades, and 10 to 60 over six. In float32 and over six
    decades it is within 3e-5 of the solution, and for one or two of a thousand
    random slices of 6 numbers within 2e-3, where `f` is the prox of the
    simplex, a ball, a hyperplane, the group lasso or total variation. Where
    forces differ as much as the step sizes do, and `f` rounds all numbers to
    the largest, more is left and it takes hundreds of calls: 3e-4 for monotone
    slices of 6 numbers, 4e-3 for those of 50, and 2e-2 with step sizes in two
    clusters.

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
        TypeError: An `f` that is not a function of a tree and a step size, or
            another argument that is not a number.
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
        Lions and Mercier, `Splitting Algorithms for the Sum of Two Nonlinear
        Operators <https://doi.org/10.1137/0716071>`_, SIAM Journal on Numerical
        Analysis 16, 1979; Giselsson and Boyd, `Linear Convergence and Metric
        Selection for Douglas-Rachford Splitting and ADMM
        <https://doi.org/10.1109/TAC.2016.2564160>`_, IEEE Transactions on
        Automatic Control 62, 2017; Fu, Zhang and Boyd, `Anderson Accelerated
        Douglas-Rachford Splitting <https://doi.org/10.1137/19M1290097>`_, SIAM
        Journal on Scientific Computing 42, 2020
    """
    _shared_checks.check_function_of("f", f, "tree", "step_size")
    if not isinstance(tolerance, numbers.Real) or isinstance(tolerance, bool):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}.")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance!r}.")
    _checks.check_integer("max_iterations", max_iterations, 1)
    solve = functools.partial(
        _splitting.solve,
        tolerance=float(tolerance),
        max_iterations=max_iterations,
    )

    @_checks.two_arguments
    def prox(leader, step_size):
        _, x, s = _checks.leaves_of(
            "in_metric", leader, step_size, is_complex=True
        )
        if not sum(leaf.size for leaf in x):
            return leader
        own = _slices.Slices(x, s, [tuple(range(leaf.ndim)) for leaf in x])
        treedef = jax.tree.structure(leader)
        scaled, length = own.in_range()
        # Less than rounding of the largest step size moves nothing.
        metric = each(
            lambda m: jnp.maximum(m, jnp.finfo(m.dtype).eps),
            own.relative_step_sizes(),
        )
        units = jax.lax.stop_gradient((own.max(s), length))

        def apply(x, alpha, units):
            largest, length = units
            tree = jax.tree.unflatten(treedef, _scaled(x, length))
            result = f(tree, alpha * largest)
            _shared_checks.check_like_leader(result, tree)
            return _scaled(jax.tree.leaves(result), 1 / length)

        result = _solution(apply, solve, scaled, metric, units)
        return _checks.tree_of(_scaled(result, length), leader)

    return prox


def _scaled(arrays, scale):
    return each(lambda x: x * scale.astype(x.dtype), arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solution(apply, solve, leader, metric, units):
    """The prox of a leader in a metric, where both have units."""
    return _forward(apply, solve, leader, metric, units)[0]


def _forward(apply, solve, leader, metric, units):
    x, q = solve(lambda x, alpha: apply(x, alpha, units), leader, metric)
    return x, (leader, metric, units, q)


def _backward(apply, solve, saved, cotangent):
    # The derivative by the leader, times the step sizes, is symmetric, and
    # itself a prox in the metric: of a quadratic, with f's derivative for f.
    leader, metric, units, q = saved

    def derivative(x, alpha):
        point = _splitting.point(leader, metric, q, alpha)
        _, pull = jax.vjp(lambda x: apply(x, alpha, units), point)
        return each(jnp.conj, pull(each(jnp.conj, x))[0])

    gradient = each(jnp.conj, cotangent)
    _, more = solve(derivative, each(jnp.multiply, metric, gradient), metric)
    gradient = each(jnp.add, gradient, more)
    by_metric = each(lambda g, q: jnp.real(g * jnp.conj(q)), gradient, q)
    return each(jnp.conj, gradient), by_metric, None


_solution.defvjp(_forward, _backward)
