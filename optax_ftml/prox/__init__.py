r"""Proximal maps for :func:`optax_ftml.ftml`.

Each function here returns an ``f(leader, step_size)`` that takes a tree of
leaders and a tree of elementwise step sizes :math:`s` and returns, leaf by
leaf, the parameters

.. math::
    \operatorname{prox}(\ell, s) = \arg\min_\theta\; R(\theta)
        + \tfrac{1}{2} \sum_i (\theta_i - \ell_i)^2 / s_i .

A strength or a bound is a number, an array that broadcasts against every leaf,
or a tree like the parameters (or a prefix of it) of these.
"""

from optax_ftml.prox._separable import box
from optax_ftml.prox._separable import elastic_net
from optax_ftml.prox._separable import l1
from optax_ftml.prox._separable import non_negative

__all__ = ["box", "elastic_net", "l1", "non_negative"]
