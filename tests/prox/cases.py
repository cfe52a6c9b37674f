"""The proxes on slices of six numbers, each with its problem for a solver."""

import dataclasses
import pathlib
from collections.abc import Callable

import cvxpy as cp
import jax.numpy as jnp
import numpy as np

from optax_ftml import prox

SIZE = 6
RNG = np.random.default_rng(7)
NORMAL = RNG.normal(size=SIZE)
MATRIX = RNG.normal(size=(2, SIZE))
LOWER, UPPER = -RNG.uniform(size=SIZE), RNG.uniform(size=SIZE)


@dataclasses.dataclass(frozen=True)
class Case:
    """A prox, its penalty and constraints, and a point of its set.

    Attributes:
        make: A function of the axis that returns the prox.
        problem: A function of a cvxpy variable that returns the penalty and the
            constraints.
        feasible: A point of the set; None for a penalty.
        takes_axis: Whether `make` heeds the axis; if not it is the last one.
        is_separable: Whether the solution of a number is its own alone.
        one_unknown: Whether sums over a slice are all that it needs.
    """

    make: Callable
    problem: Callable
    feasible: np.ndarray | None = None
    takes_axis: bool = True
    is_separable: bool = False
    one_unknown: bool = True


def shifted(x):
    """A point with NORMAL @ x = 0.4."""
    return x + NORMAL * (0.4 - NORMAL @ x) / (NORMAL @ NORMAL)


def example():
    """The set that CONTRIBUTING.md writes."""
    page = pathlib.Path(__file__).parents[2] / "CONTRIBUTING.md"
    _, code = page.read_text().split("```python\n")
    names = {}
    exec(code.split("```")[0], names)
    return names["ellipsoid"]


ellipsoid = example()
WEIGHT = np.logspace(-1, 1, SIZE)
INSIDE = (LOWER + UPPER) / 2
SECTION = float(NORMAL @ INSIDE)
CONVEX = {
    "box": Case(
        lambda axis: prox.box(LOWER, UPPER),
        lambda t: (0, [t >= LOWER, t <= UPPER]),
        INSIDE,
        takes_axis=False,
        is_separable=True,
    ),
    "non_negative": Case(
        lambda axis: prox.non_negative(),
        lambda t: (0, [t >= 0]),
        np.arange(6.0),
        is_separable=True,
    ),
    "l1": Case(
        lambda axis: prox.l1(0.3),
        lambda t: (0.3 * cp.norm1(t), []),
        is_separable=True,
    ),
    "non_negative_l1": Case(
        lambda axis: prox.l1(0.3, non_negative=True),
        lambda t: (0.3 * cp.sum(t), [t >= 0]),
        is_separable=True,
    ),
    "elastic_net": Case(
        lambda axis: prox.elastic_net(0.3, 0.5),
        lambda t: (0.3 * cp.norm1(t) + 0.25 * cp.sum_squares(t), []),
        is_separable=True,
    ),
    "simplex": Case(
        lambda axis: prox.simplex(1.3, axis=axis),
        lambda t: (0, [t >= 0, cp.sum(t) == 1.3]),
        np.array([0.7, 0, 0.2, 0.1, 0.3, 0]),
    ),
    "simplex_at_most": Case(
        lambda axis: prox.simplex(1.3, at_most=True, axis=axis),
        lambda t: (0, [t >= 0, cp.sum(t) <= 1.3]),
        np.array([0.7, 0, 0.2, 0.1, 0, 0]),
    ),
    "l1_ball": Case(
        lambda axis: prox.l1_ball(1.3, axis=axis),
        lambda t: (0, [cp.norm1(t) <= 1.3]),
        np.array([0.7, 0, -0.2, 0.1, -0.3, 0]),
    ),
    "l2_ball": Case(
        lambda axis: prox.l2_ball(1.3, axis=axis),
        lambda t: (0, [cp.norm2(t) <= 1.3]),
        np.array([0.7, 0, -0.2, 0.1, -1, 0]),
    ),
    "ellipsoid": Case(
        lambda axis: ellipsoid(WEIGHT, axis=axis),
        lambda t: (0, [cp.norm2(cp.multiply(np.sqrt(WEIGHT), t)) <= 1]),
        np.array([1, 0, -0.3, 0.1, -0.1, 0]),
    ),
    "hyperplane": Case(
        lambda axis: prox.hyperplane(NORMAL, 0.4, axis=axis),
        lambda t: (0, [NORMAL @ t == 0.4]),
        shifted(INSIDE),
    ),
    "halfspace": Case(
        lambda axis: prox.halfspace(NORMAL, -2.4, axis=axis),
        lambda t: (0, [NORMAL @ t <= -2.4]),
        -9 * NORMAL,
    ),
    "affine_set": Case(
        lambda axis: prox.affine_set(MATRIX, 0.5),
        lambda t: (0, [MATRIX @ t == 0.5]),
        np.linalg.lstsq(MATRIX, np.full(2, 0.5))[0],
        takes_axis=False,
    ),
    "box_section": Case(
        lambda axis: prox.box_section(LOWER, UPPER, NORMAL, SECTION, axis=axis),
        lambda t: (0, [t >= LOWER, t <= UPPER, NORMAL @ t == SECTION]),
        INSIDE,
    ),
    "box_section_at_most": Case(
        lambda axis: prox.box_section(
            LOWER, UPPER, NORMAL, SECTION - 0.2, at_most=True, axis=axis
        ),
        lambda t: (0, [t >= LOWER, t <= UPPER, NORMAL @ t <= SECTION - 0.2]),
        INSIDE - 0.3 * NORMAL / (NORMAL @ NORMAL),
    ),
    "monotone": Case(
        lambda axis: prox.monotone(),
        lambda t: (0, [t[1:] >= t[:-1]]),
        np.array([-3, -3, 0.1, 0.7, 0.7, 9]),
        takes_axis=False,
        one_unknown=False,
    ),
    "decreasing": Case(
        lambda axis: prox.monotone(decreasing=True),
        lambda t: (0, [t[1:] <= t[:-1]]),
        np.array([9, 0.7, 0.7, 0.1, -3, -3]),
        takes_axis=False,
        one_unknown=False,
    ),
    "group_lasso": Case(
        lambda axis: prox.group_lasso(0.7, axis=axis),
        lambda t: (0.7 * cp.norm2(t), []),
    ),
    "sparse_group_lasso": Case(
        lambda axis: prox.group_lasso(0.7, axis=axis, l1=0.3),
        lambda t: (0.7 * cp.norm2(t) + 0.3 * cp.norm1(t), []),
    ),
    "non_negative_group_lasso": Case(
        lambda axis: prox.group_lasso(
            0.7, axis=axis, l1=0.3, non_negative=True
        ),
        lambda t: (0.7 * cp.norm2(t) + 0.3 * cp.sum(t), [t >= 0]),
    ),
    "total_variation": Case(
        lambda axis: prox.total_variation(0.7),
        lambda t: (0.7 * cp.norm1(cp.diff(t)), []),
        takes_axis=False,
        one_unknown=False,
    ),
    "in_metric": Case(
        lambda axis: prox.in_metric(lambda t, _: t - (jnp.sum(t) - 1) / SIZE),
        lambda t: (0, [cp.sum(t) == 1]),
        takes_axis=False,
        one_unknown=False,
    ),
}
NOT_CONVEX = {
    "l2_sphere": lambda axis: prox.l2_sphere(1.3, axis=axis),
    "top_k": lambda axis: prox.top_k(2, axis=axis),
    "levels": lambda axis: prox.levels([-1.0, 0.0, 0.5]),
}


def draw(rng, decades=4, shape=(SIZE,)):
    """A leader and step sizes over some decades."""
    scale = 10 ** rng.uniform(-2, 2)
    return (
        2 * rng.normal(size=shape),
        scale * 10 ** rng.uniform(-decades, 0, size=shape),
    )


def solve(case, leader, step_size):
    """The least objective that Clarabel finds, and a function that gives it."""
    theta = cp.Variable(SIZE)
    penalty, constraints = case.problem(theta)
    # In units in which no term is tiny.
    unit = np.max(step_size)
    weight = np.sqrt(unit / step_size)
    distance = cp.sum_squares(cp.multiply(weight, theta - leader)) / 2
    objective = unit * penalty + distance
    problem = cp.Problem(cp.Minimize(objective), constraints)
    problem.solve(
        solver="CLARABEL",
        tol_gap_abs=1e-9,
        tol_gap_rel=1e-9,
        tol_feas=1e-9,
    )

    def evaluate(point):
        theta.value = np.asarray(point)
        violation = max([0, *(np.max(c.violation()) for c in constraints)])
        return objective.value, violation

    return problem.value, evaluate
