"""Several sets and penalties at once."""

import functools

import jax
import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _checks, _fixed_point
from optax_ftml.prox._fixed_point import each, norm


def intersection(
    *proxes: _numerics.Prox,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> _numerics.Prox:
    r"""Makes several sets and penalties hold at once, in the metric.

    .. math::
        \theta = \arg\min_\theta\; \sum_k R_k(\theta)
            + \tfrac{1}{2} \sum_i (\theta_i - \ell_i)^2 / s_i

    Dykstra's method: one prox after the other is given the last point, with
    what it has itself taken away the last time, :math:`p_k`, added again. It
    begins with :math:`\theta = \ell - \sum_{k > 1} p_k` and ends where all of
    the proxes return the same point. Anderson's acceleration finds the
    :math:`p_k`. On the doubly stochastic matrices, a simplex with upper bounds
    and monotone slices in a ball, of 6 to 36 numbers, it took 10 to 40 rounds
    on average of 100 draws of step sizes over two decades and 15 to 100 over
    four. A few of a thousand draws over four decades had not converged after
    1,000 rounds, and were up to 0.1 away from a set.

    Args:
        *proxes: Functions as those of this module, of convex sets and
            penalties. The last one's set holds exactly, the others' up to the
            tolerance.
        tolerance: Above 0. It ends where the proxes' points are a hundredth of
            this apart, in the metric and relative to how far the solution is
            from the leader.
        max_iterations: At least 1. After so many rounds it ends in any case.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        TypeError: A prox that is not a function of a leader and a step size, or
            another argument that is not a number.
        ValueError: No prox, or a number out of its range.

    Examples:
        Weights that are at most 0.6 and sum to 1:

        >>> import jax.numpy as jnp
        >>> from optax_ftml import prox
        >>> f = prox.intersection(prox.simplex(), prox.box(0.0, 0.6))
        >>> theta = f(jnp.array([1.0, 0.5, 0.0]), jnp.ones(3))
        >>> print([f"{x:.3f}" for x in theta])
        ['0.600', '0.400', '0.000']

    References:
        Boyle and Dykstra, `A Method for Finding Projections onto the
        Intersection of Convex Sets in Hilbert Spaces
        <https://doi.org/10.1007/978-1-4613-9940-7_3>`_, 1986; Walker and Ni,
        `Anderson Acceleration for Fixed-Point Iterations
        <https://doi.org/10.1137/10078356X>`_, SIAM Journal on Numerical
        Analysis 49, 2011
    """
    _checks.check(proxes, "proxes", "at least one prox", proxes)
    for prox in proxes:
        _checks.check_prox_function(prox)
    _checks.check_iteration(tolerance, max_iterations)

    if len(proxes) == 1:
        return proxes[0]

    @_checks.two_arguments
    def f(leader, step_size):
        if not any(map(jnp.size, jax.tree.leaves(leader))):
            return leader
        problem = _fixed_point.Problem(
            "intersection", leader, step_size, scale=jnp.sqrt
        )
        x = problem.x
        subtract = functools.partial(each, jnp.subtract)

        def in_turn(z):
            """Returns the last point, and the residuals for p = z."""
            point = functools.reduce(subtract, z, x)
            theta = problem.apply(proxes[0], point, step_size)
            residuals = []
            for prox, z_k in zip(proxes[1:], z, strict=True):
                before, point = theta, each(jnp.add, theta, z_k)
                theta = problem.apply(prox, point, step_size)
                residuals.append(subtract(before, theta))
            return theta, residuals

        def solve(start):
            def step(z):
                theta, residuals = in_turn(z)
                # The rounding of a large z must not hide a distance.
                sizes = each(lambda z: jnp.clip(z, -1e3, 1e3), z)
                apart = [
                    each(_fixed_point.beyond_rounding, r, size, theta, x)
                    for r, size in zip(residuals, sizes, strict=True)
                ]
                moved = subtract(theta, x)
                # The solution may be farther away than these from each other.
                return residuals, norm(apart) > tolerance / 100 * norm(moved)

            return _fixed_point.iterate(step, start, max_iterations).z, ()

        z, _ = _fixed_point.root(
            lambda z: in_turn(z)[1],
            solve,
            [each(jnp.zeros_like, x) for _ in proxes[1:]],
            tolerance,
        )
        theta, _ = in_turn(z)
        return _checks.like_leader(problem.tree(theta), leader)

    return f
