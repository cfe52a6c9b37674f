"""The projection in the metric onto the solutions of linear equations."""

from typing import Any

import jax
import jax.numpy as jnp

from optax_ftml import _numerics
from optax_ftml.prox import _checks, _slices


def affine_set(matrix: Any, offset: Any) -> _numerics.Prox:
    r"""Projects each slice along the last axis onto :math:`A \theta = b`.

    .. math::
        \theta = \ell - S A^\top (A S A^\top)^{-1} (A \ell - b), \qquad
        S = \operatorname{diag}(s)

    The rows of :math:`A` are made orthogonal in the metric, by Gram and
    Schmidt's method, and the slice then projected along one after the other.

    Args:
        matrix: The matrix :math:`A`, of shape (equations, size of a slice).
            Rows that depend on others are left out where it is known.
        offset: The right sides :math:`b`: a number or an array of shape
            (equations,).

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        ValueError: A matrix that is not two-dimensional or has no row that is
            not 0, a NaN or an infinity, an offset of a wrong shape, equations
            without a solution; from the prox, leaves of another size along the
            last axis.
        TypeError: An argument that is not a number; from the prox, complex
            leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.affine_set(
        ...     jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), 0.0
        ... )
        >>> print(f(jnp.array([3.0, 0.0, 0.0]), jnp.ones(3)).round(4))
        [ 1. -1.  1.]
    """
    matrix, offset = _checks.equations(matrix, offset)

    def solve(slices):
        _checks.check_columns(matrix, slices.x[0].shape)
        a, b = (jnp.asarray(x, slices.dtype) for x in (matrix, offset))

        @jax.default_matmul_precision("highest")
        def project(x, s):
            points = x
            for _ in range(2):  # The solution, and what its rounding has left.
                points = _projected(points, s, a, b)
            # Residuals of the equations, and their rounding.
            residual = jnp.abs(a @ x - b)
            size = jnp.abs(a) @ jnp.abs(x)
            is_inside = jnp.all(residual <= slices.rounding * size)
            # The leader, bit for bit, with the projection's derivative.
            fixed_x, fixed_points = jax.lax.stop_gradient((x, points))
            leader = fixed_x + (points - fixed_points)
            return jnp.where(is_inside, leader, points)

        return slices.map_vectors(project, slices.relative_step_sizes())

    return _slices.by_slice("affine_set", solve, -1)


def _projected(x, s, rows, offset):
    """Projects a slice along one row after the other, made orthogonal."""
    excess = rows @ x - offset

    def step(i, carry):
        x, rows, excess = carry
        direction = s * rows[i]
        length = jnp.sum(direction * rows[i])
        overlaps = rows @ direction / length
        overlaps = jnp.where(jnp.arange(len(rows)) > i, overlaps, 0)
        return (
            x - excess[i] / length * direction,
            rows - jnp.outer(overlaps, rows[i]),
            excess - overlaps * excess[i],
        )

    return jax.lax.fori_loop(0, len(rows), step, (x, rows, excess))[0]
