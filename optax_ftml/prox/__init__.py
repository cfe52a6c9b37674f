r"""Proximal maps for :func:`optax_ftml.ftml`: constraints and penalties.

Each function here returns an ``f(leader, step_size)``. It takes a tree of
leaders :math:`\ell` and a tree of elementwise step sizes :math:`s`, and returns
the parameters

.. math::
    \theta = \arg\min_\theta\; R(\theta)
        + \tfrac{1}{2} \sum_i (\theta_i - \ell_i)^2 / s_i ,

where :math:`R` is a penalty, or 0 on a set and infinite outside. A leader that
is in the set comes back as it is, bit for bit.

``axis``, an int or a tuple, says of what the set or the penalty holds: of each
slice of each leaf along these axes. With None it holds for all leaves together,
as one vector. A mapping from path patterns to axes makes one slice of those at
the same place of all leaves that match; the other leaves are free.

Where there has been no gradient yet the step size is :math:`2^{63}` in float32.
A penalty leaves slices that are so throughout, and a set moves such parameters
first.

A strength, a bound or a radius is a number, an array, or a tree of these. An
array broadcasts against each leaf or, where a slice has one number, against the
leaf's sum over ``axis`` with ``keepdims`` (where slices span leaves, without).
A tree has the parameters' structure or ends earlier, and then one entry holds
for all leaves below it.

A prox of your own is a function of the same two arguments. This one holds the
mean of each column at 0, with the multiplier of that equation:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax_ftml
    >>> def centred(leader, step_size):
    ...     def solve(x, s):
    ...         top = jnp.max(s, axis=0, keepdims=True)
    ...         s = jnp.where(top > 0, s / jnp.where(top > 0, top, 1), 1)
    ...         mu = jnp.sum(x, 0, keepdims=True) / jnp.sum(s, 0, keepdims=True)
    ...         return x - mu * s
    ...     return jax.tree.map(solve, leader, step_size)
    >>> print(centred(jnp.array([[3.0], [5.0]]), jnp.array([[3.0], [1.0]])))
    [[-3.]
     [ 3.]]
    >>> optimizer = optax_ftml.ftml(0.01, prox=centred)

A Euclidean prox or projection becomes one with :func:`in_metric`.
"""

from optax_ftml.prox._affine import affine_set
from optax_ftml.prox._by_path import by_path
from optax_ftml.prox._in_metric import in_metric
from optax_ftml.prox._intersection import intersection
from optax_ftml.prox._not_convex import l2_sphere, levels, n_of_m, top_k
from optax_ftml.prox._ordered import monotone, total_variation
from optax_ftml.prox._penalties import elastic_net, group_lasso, l1
from optax_ftml.prox._sets import (
    box,
    box_section,
    halfspace,
    hyperplane,
    l1_ball,
    l2_ball,
    non_negative,
    simplex,
)

__all__ = [
    "affine_set",
    "box",
    "box_section",
    "by_path",
    "elastic_net",
    "group_lasso",
    "halfspace",
    "hyperplane",
    "in_metric",
    "intersection",
    "l1",
    "l1_ball",
    "l2_ball",
    "l2_sphere",
    "levels",
    "monotone",
    "n_of_m",
    "non_negative",
    "simplex",
    "top_k",
    "total_variation",
]
