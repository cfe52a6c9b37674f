"""The projection in the metric onto the solutions of linear equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    _checks.check_arguments(matrix=matrix, offset=offset)
    got, right = np.shape(matrix), "of shape (equations, size of a slice)"
    _checks.check(len(got) == 2, "matrix", right, f"shape {got}")
    rows, got = got[0], np.shape(offset)
    right = f"a number or of shape ({rows},)"
    _checks.check(got in ((), (rows,)), "offset", right, f"shape {got}")
    if _checks.is_known(matrix, offset):
        matrix, offset = _independent(matrix, np.broadcast_to(offset, rows))

    def solve(slices):
        (x,), (s,) = slices.x, slices.relative_step_sizes()
        columns, size = np.shape(matrix)[1], x.shape[-1]
        right = "of as many columns as leaves have numbers along the last axis"
        got = f"{columns} for a leaf of shape {x.shape}"
        _checks.check(columns == size, "matrix", right, got)
        a = jnp.asarray(matrix, x.dtype)
        b = jnp.broadcast_to(jnp.asarray(offset, x.dtype), a.shape[:1])

        def project(x, s):
            points = x
            for _ in range(2):  # The solution, and what its rounding has left.
                points = _projected(points, s, a, b)
            # Residuals of the given equations, and their rounding.
            residual = jnp.abs(_product(a, x) - b)
            size = _product(jnp.abs(a), jnp.abs(x))
            is_inside = jnp.all(residual <= slices.rounding * size)
            # The leader, bit for bit, with the projection's derivative.
            fixed_x, fixed_points = jax.lax.stop_gradient((x, points))
            leader = fixed_x + (points - fixed_points)
            return jnp.where(is_inside, leader, points)

        return [jnp.vectorize(project, signature="(n),(n)->(n)")(x, s)]

    return _slices.by_slice("affine_set", solve, -1)


def _independent(matrix, offset):
    """Returns equations with the same solutions and orthonormal rows."""
    matrix, offset = (np.asarray(x, np.float64) for x in (matrix, offset))
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    used = sizes > 1e-10 * max(np.max(sizes, initial=0), np.finfo(float).tiny)
    _checks.check(np.any(used), "matrix", "other than 0", matrix)
    sides = (left.T @ offset)[used] / sizes[used]
    rest = matrix @ (right[used].T @ sides) - offset
    is_solved = np.abs(rest) <= 1e-6 * np.max(np.abs(offset))
    wanted = "a matrix of equations that have a solution"
    got = f"{matrix} with offset {offset}"
    _checks.check(np.all(is_solved), "matrix", wanted, got)
    return right[used], sides


def _product(matrix, x):
    return jnp.matmul(matrix, x, precision="highest")


def _projected(x, s, rows, offset):
    """Projects a slice along one row after the other, made orthogonal."""
    excess = _product(rows, x) - offset

    def step(i, carry):
        x, rows, excess = carry
        direction = s * rows[i]
        length = jnp.sum(direction * rows[i])
        overlaps = _product(rows, direction) / length
        overlaps = jnp.where(jnp.arange(len(rows)) > i, overlaps, 0)
        return (
            x - excess[i] / length * direction,
            rows - jnp.outer(overlaps, rows[i]),
            excess - overlaps * excess[i],
        )

    return jax.lax.fori_loop(0, len(rows), step, (x, rows, excess))[0]
