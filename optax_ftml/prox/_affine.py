"""The projection in the metric onto the solutions of linear equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _slices


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
        TypeError: What is not a number; from the prox, complex leaves.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.affine_set(
        ...     jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), 0.0
        ... )
        >>> print(f(jnp.array([3.0, 0.0, 0.0]), jnp.ones(3)).round(4))
        [ 1. -1.  1.]
    """
    _checks.check_numbers("matrix", matrix, _checks.FINITE)
    _checks.check_numbers("offset", offset, _checks.FINITE)
    if np.ndim(matrix) != 2:
        raise ValueError(
            "matrix must have shape (equations, size of a slice), got shape "
            f"{np.shape(matrix)}."
        )
    rows = np.shape(matrix)[0]
    if np.shape(offset) not in ((), (rows,)):
        raise ValueError(
            f"offset must be a number or of shape ({rows},), got shape "
            f"{np.shape(offset)}."
        )
    if _checks.is_known(matrix, offset):
        matrix, offset = _independent(matrix, np.broadcast_to(offset, rows))

    def check(own):
        if own.x[0].shape[-1] != np.shape(matrix)[1]:
            raise ValueError(
                "matrix must have as many columns as leaves have numbers along "
                f"their last axis, got {np.shape(matrix)[1]} for a leaf of "
                f"shape {own.x[0].shape}."
            )

    def solve(own):
        ((x,), scale), (s,) = own.in_range(), own.relative_step_sizes()
        a = jnp.asarray(matrix).astype(x.dtype)
        b = jnp.broadcast_to(jnp.asarray(offset).astype(x.dtype), a.shape[:1])
        b = b.reshape((1,) * (x.ndim - 1) + b.shape) / own.spread(scale)[0]
        points = x
        for _ in range(2):  # The solution, and what its rounding has left.
            points = points - _correction(points, s, a, b)
        # Residuals of the given equations, and their rounding.
        residual, size = (
            jnp.einsum("...n,mn->...m", f(x), f(a), precision="highest")
            for f in (lambda y: y, jnp.abs)
        )
        residual = jnp.abs(residual - b)
        is_inside = jnp.all(
            residual <= own.rounding * size, axis=-1, keepdims=True
        )
        return [jnp.where(is_inside, own.x[0], points * own.spread(scale)[0])]

    return _slices.by_slice("affine_set", solve, -1, check=check)


def _independent(matrix, offset):
    """Returns equations with the same solutions and orthonormal rows."""
    matrix, offset = (np.asarray(x, np.float64) for x in (matrix, offset))
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    kept = sizes > 1e-10 * max(np.max(sizes, initial=0), np.finfo(float).tiny)
    if not np.any(kept):
        raise ValueError(f"matrix must have a row that is not 0, got {matrix}.")
    sides = (left.T @ offset)[kept] / sizes[kept]
    rest = matrix @ (right[kept].T @ sides) - offset
    if np.any(np.abs(rest) > 1e-6 * np.max(np.abs(offset))):
        raise ValueError(
            "matrix and offset must be equations that have a solution, got "
            f"{matrix} and {offset}."
        )
    return right[kept], sides


def _correction(x, s, a, b):
    """What takes the residuals of orthogonalised rows from x."""
    batch = x.shape[:-1]
    rows = jnp.broadcast_to(
        a.reshape((1,) * len(batch) + a.shape), (*batch, *a.shape)
    )
    metric = s[..., None, :]
    excess = jnp.sum(rows * x[..., None, :], axis=-1) - b

    def step(i, carry):
        rows, excess, total = carry
        row = jax.lax.dynamic_slice_in_dim(rows, i, 1, axis=-2)
        e = jax.lax.dynamic_slice_in_dim(excess, i, 1, axis=-1)
        direction = row * metric
        length = jnp.sum(direction * row, axis=-1)
        overlaps = jnp.sum(direction * rows, axis=-1) / length
        is_later = jnp.arange(a.shape[0]) > i
        overlaps = jnp.where(
            is_later.reshape((1,) * len(batch) + is_later.shape), overlaps, 0
        )
        rows = rows - overlaps[..., None] * row
        excess = excess - overlaps * e
        return rows, excess, total + (e / length)[..., None] * direction

    *_, total = jax.lax.fori_loop(
        0, a.shape[0], step, (rows, excess, jnp.zeros_like(metric * 1))
    )
    return total[..., 0, :]
