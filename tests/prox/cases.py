"""The proxes on slices of six numbers, each with its problem for a solver."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import prox

SIZE = 6
ROWS = 60  # Of one shape, so that each prox is compiled once for each dtype.
NEVER = 2.0**63  # The step size in float32 where no gradient has been.
RNG = np.random.default_rng(7)
NORMAL = RNG.normal(size=SIZE)
MATRIX = RNG.normal(size=(2, SIZE))
LOWER, UPPER = -RNG.uniform(size=SIZE), RNG.uniform(size=SIZE)


class Case(NamedTuple):
    """A prox, its penalty and constraints, and a point of its set.

    Attributes:
        prox: A function that returns the prox, of the axis and of a function
            that brings an array with a number per parameter into their shape.
        problem: A function of a cvxpy variable that returns the penalty and the
            constraints.
        feasible: A point of the set; None for a penalty.
    """

    prox: Callable
    problem: Callable
    feasible: np.ndarray | None = None

    def make(self, axis, of=np.asarray):
        return self.prox(axis, of)


def line(axis):
    """The axis of a prox that has one: the last of each leaf for None."""
    return -1 if axis is None else axis


# The set that CONTRIBUTING.md writes.
PAGE = (pathlib.Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
EXAMPLE = {}
exec(PAGE.split("```python\n")[1].split("```")[0], EXAMPLE)
WEIGHT = np.logspace(-1, 1, SIZE)
INSIDE = (LOWER + UPPER) / 2
SECTION = float(NORMAL @ INSIDE)
# Those whose axis may be any axes, all leaves together, or a mapping.
SLICED = {
    "simplex": Case(
        lambda axis, of: prox.simplex(1.3, axis=axis),
        lambda t: (0, [t >= 0, cp.sum(t) == 1.3]),
        np.array([0.7, 0, 0.2, 0.1, 0.3, 0]),
    ),
    "simplex_at_most": Case(
        lambda axis, of: prox.simplex(1.3, at_most=True, axis=axis),
        lambda t: (0, [t >= 0, cp.sum(t) <= 1.3]),
        np.array([0.7, 0, 0.2, 0.1, 0, 0]),
    ),
    "l1_ball": Case(
        lambda axis, of: prox.l1_ball(1.3, axis=axis),
        lambda t: (0, [cp.norm1(t) <= 1.3]),
        np.array([0.7, 0, -0.2, 0.1, -0.3, 0]),
    ),
    "l2_ball": Case(
        lambda axis, of: prox.l2_ball(1.3, axis=axis),
        lambda t: (0, [cp.norm2(t) <= 1.3]),
        np.array([0.7, 0, -0.2, 0.1, -1, 0]),
    ),
    "ellipsoid": Case(
        lambda axis, of: EXAMPLE["ellipsoid"](of(WEIGHT), axis=axis),
        lambda t: (0, [cp.norm2(cp.multiply(np.sqrt(WEIGHT), t)) <= 1]),
        np.array([1, 0, -0.3, 0.1, -0.1, 0]),
    ),
    "hyperplane": Case(
        lambda axis, of: prox.hyperplane(of(NORMAL), SECTION, axis=axis),
        lambda t: (0, [NORMAL @ t == SECTION]),
        INSIDE,
    ),
    "halfspace": Case(
        lambda axis, of: prox.halfspace(of(NORMAL), -2.4, axis=axis),
        lambda t: (0, [NORMAL @ t <= -2.4]),
        -9 * NORMAL,
    ),
    "box_section": Case(
        lambda axis, of: prox.box_section(
            *map(of, (LOWER, UPPER, NORMAL)), SECTION, axis=axis
        ),
        lambda t: (0, [t >= LOWER, t <= UPPER, NORMAL @ t == SECTION]),
        INSIDE,
    ),
    "box_section_at_most": Case(
        lambda axis, of: prox.box_section(
            *map(of, (LOWER, UPPER, NORMAL)), -1.0, at_most=True, axis=axis
        ),
        lambda t: (0, [t >= LOWER, t <= UPPER, NORMAL @ t <= -1]),
        np.where(NORMAL > 0, LOWER, UPPER) / 2,
    ),
    "group_lasso": Case(
        lambda axis, of: prox.group_lasso(0.7, axis=axis),
        lambda t: (0.7 * cp.norm2(t), []),
    ),
    "sparse_group_lasso": Case(
        lambda axis, of: prox.group_lasso(0.7, axis=axis, l1=0.3),
        lambda t: (0.7 * cp.norm2(t) + 0.3 * cp.norm1(t), []),
    ),
    "non_negative_group_lasso": Case(
        lambda axis, of: prox.group_lasso(
            0.7, axis=axis, l1=0.3, non_negative=True
        ),
        lambda t: (0.7 * cp.norm2(t) + 0.3 * cp.sum(t), [t >= 0]),
    ),
}
CONVEX = SLICED | {
    "box": Case(
        lambda axis, of: prox.box(of(LOWER), of(UPPER)),
        lambda t: (0, [t >= LOWER, t <= UPPER]),
        INSIDE,
    ),
    "non_negative": Case(
        lambda axis, of: prox.non_negative(),
        lambda t: (0, [t >= 0]),
        np.arange(6.0),
    ),
    "l1": Case(
        lambda axis, of: prox.l1(0.3), lambda t: (0.3 * cp.norm1(t), [])
    ),
    "non_negative_l1": Case(
        lambda axis, of: prox.l1(0.3, non_negative=True),
        lambda t: (0.3 * cp.sum(t), [t >= 0]),
    ),
    "elastic_net": Case(
        lambda axis, of: prox.elastic_net(0.3, 0.5),
        lambda t: (0.3 * cp.norm1(t) + 0.25 * cp.sum_squares(t), []),
    ),
    "affine_set": Case(
        lambda axis, of: prox.affine_set(MATRIX, 0.5),
        lambda t: (0, [MATRIX @ t == 0.5]),
        np.linalg.lstsq(MATRIX, np.full(2, 0.5))[0],
    ),
    "monotone": Case(
        lambda axis, of: prox.monotone(axis=line(axis)),
        lambda t: (0, [t[1:] >= t[:-1]]),
        np.array([-3, -3, 0.1, 0.7, 0.7, 9]),
    ),
    "decreasing": Case(
        lambda axis, of: prox.monotone(axis=line(axis), decreasing=True),
        lambda t: (0, [t[1:] <= t[:-1]]),
        np.array([9, 0.7, 0.7, 0.1, -3, -3]),
    ),
    "total_variation": Case(
        lambda axis, of: prox.total_variation(0.7, axis=line(axis)),
        lambda t: (0.7 * cp.norm1(cp.diff(t)), []),
    ),
    "in_metric": Case(
        lambda axis, of: prox.in_metric(
            lambda t, _: t - (jnp.sum(t) - 1) / SIZE, tolerance=1e-13
        ),
        lambda t: (0, [cp.sum(t) == 1]),
    ),
}
NOT_CONVEX = {
    "l2_sphere": lambda axis: prox.l2_sphere(1.3, axis=axis),
    "top_k": lambda axis: prox.top_k(2, axis=axis),
    "n_of_m": lambda axis: prox.n_of_m(2, 3, axis=line(axis)),
    "levels": lambda axis: prox.levels([-1.0, 0.0, 0.5]),
}


# One of each mechanism; where a test is only of these the gate runs the others.
TYPICAL = (
    *("l1", "hyperplane", "simplex", "l2_ball", "box_section", "group_lasso"),
    *("affine_set", "monotone", "total_variation", "in_metric"),
    *("l2_sphere", "top_k"),
)


def typical(names):
    """Returns the names, those marked as slow that are not typical."""
    slow = pytest.mark.slow
    return [n if n in TYPICAL else pytest.param(n, marks=slow) for n in names]


def jit(f):
    """Jits with little optimization, to compile faster; it rounds otherwise."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(f, compiler_options=options)


def draw(rng, decades=4, shape=(SIZE,)):
    """Returns a leader and step sizes over some decades."""
    scale = 10 ** rng.uniform(-2, 2)
    return (
        2 * rng.normal(size=shape),
        scale * 10 ** rng.uniform(-decades, 0, size=shape),
    )


def draw_rows(rng, decades=4):
    """Returns the same for each of ROWS rows, each with its own scale."""
    pairs = [draw(rng, decades) for _ in range(ROWS)]
    return [np.stack(arrays) for arrays in zip(*pairs, strict=True)]


def minimise(objective, constraints, tolerance=1e-9):
    """Returns the least objective that Clarabel finds."""
    names = "tol_gap_abs", "tol_gap_rel", "tol_feas"
    tolerances = dict.fromkeys(names, tolerance)
    problem = cp.Problem(cp.Minimize(objective), constraints)
    return problem.solve(solver="CLARABEL", **tolerances)


def violation(constraints):
    """How far what the variables hold is outside of the set."""
    return max([0, *(np.max(c.violation()) for c in constraints)])
