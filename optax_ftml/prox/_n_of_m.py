"""Few numbers of each run of neighbours: sparsity that devices compute with."""

import jax.numpy as jnp

from optax_ftml import _checks as _shared_checks
from optax_ftml import _numerics
from optax_ftml.prox import _checks
from optax_ftml.prox import _slices


def n_of_m(n: int, m: int, *, axis: int = -1) -> _numerics.Prox:
    r"""Keeps `n` of each run of `m` numbers along an axis, the others are 0.

    .. math::
        \theta_i = \ell_i \text{ for the } n \text{ largest }
        |\ell_i| / \sqrt{s_i} \text{ of its run, else } 0

    These cost most to drop. Among equals the first are kept. With 2 of 4 it is
    the sparsity of NVIDIA's sparse tensor cores. The set is not convex.

    Args:
        n: How many of each run may differ from 0, from 0 to `m`.
        m: The length of a run, at least 1.
        axis: The axis along which runs lie, the inputs of a layer for sparse
            tensor cores.

    Returns:
        A ``prox`` for :func:`optax_ftml.ftml`.

    Raises:
        TypeError: An `n` or `m` that is not an integer, an ``axis`` that is not
            an int.
        ValueError: An `n` or `m` out of its range; from the prox, an axis that
            a leaf does not have, or with a length that is no multiple of `m`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> f = optax_ftml.prox.n_of_m(1, 2)
        >>> print(f(jnp.array([2.0, -1.0, 3.0, 4.0]), jnp.ones(4)))
        [2. 0. 0. 4.]

    References:
        Mishra et al., `Accelerating Sparse Deep Neural Networks
        <https://arxiv.org/abs/2104.08378>`_, 2021; Zhou et al., `Learning N:M
        Fine-Grained Structured Sparse Neural Networks from Scratch
        <https://arxiv.org/abs/2102.04010>`_, ICLR 2021
    """
    _checks.check_integer("m", m, 1)
    _checks.check_integer("n", n, 0)
    if n > m:
        raise ValueError(f"n must be at most m, got n={n} and m={m}.")
    _checks.check_integer("axis", axis)

    def solve(slices):
        (x,), (s,) = slices.x, slices.relative_step_sizes()
        got = f"m={m} for a leaf of shape {x.shape}"
        right = f"a divisor of the length along axis {axis}"
        _shared_checks.check(slices.size % m == 0, "n_of_m's m", right, got)
        cost = jnp.moveaxis(jnp.abs(x) / jnp.sqrt(s), axis, -1)
        runs = cost.reshape(*cost.shape[:-1], -1, m)
        one, other = runs[..., :, None], runs[..., None, :]
        shape = (1,) * cost.ndim + (m, m)
        is_earlier = jnp.tri(m, k=-1, dtype=bool)
        is_before = (other > one) | ((other == one) & is_earlier.reshape(shape))
        is_kept = jnp.sum(is_before, axis=-1, dtype=jnp.int32) < n
        is_kept = jnp.moveaxis(is_kept.reshape(cost.shape), -1, axis)
        return [jnp.where(is_kept, x, 0)]

    return _slices.by_slice("n_of_m", solve, axis, is_complex=True)
