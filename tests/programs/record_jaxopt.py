"""Records what JAXopt's projections and proxes return, for the tests.

    python -m tests.programs.record_jaxopt

writes jaxopt.json into tests/data: by function, an array, the parameters that
follow it, and the result, in float64. Needs JAXopt, which is no longer
maintained; 0.8.5 ran with JAX 0.10.2.
"""

import json
import pathlib

import jax
import jaxopt
import numpy as np
from jaxopt import isotonic, projection, prox

PATH = pathlib.Path(__file__).parents[1] / "data" / "jaxopt.json"
STEP_SIZE = 0.3

X = np.array([0.9, 0.7, -0.6, 0.1])
NORMAL = [1.0, 2.0, -1.0, 0.5]
POSITIVE = [1.0, 2.0, 1.0, 0.5]
EQUALITIES = [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 0.0, 2.0]], [1.0, 0.3]
INEQUALITIES = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 1.0]], [0.6, 0.2]
PLAN = np.array([[0.9, 0.7, -0.6], [0.1, 0.8, 0.4], [-0.3, 0.2, 0.5]])
LOWER, UPPER = [-0.2] * 4, [0.4] * 4

# x and the parameters of each projection, and the strengths of each prox.
PROJECTIONS = {
    "projection_non_negative": (X,),
    "projection_box": (X, LOWER, UPPER),
    "projection_hypercube": (X, 0.4),
    "projection_linf_ball": (X, 0.4),
    "projection_simplex": (X, 0.4),
    "projection_l1_ball": (X, 0.4),
    "projection_l2_ball": (X, 0.4),
    "projection_l2_sphere": (X, 0.4),
    "projection_hyperplane": (X, NORMAL, 0.3),
    "projection_halfspace": (X, NORMAL, 0.3),
    "projection_affine_set": (X, *EQUALITIES),
    "projection_box_section": (X, LOWER, UPPER, POSITIVE, 0.3),
    "projection_polyhedron": (X, *EQUALITIES, *INEQUALITIES),
}
PLANS = {
    "projection_birkhoff": (PLAN,),
    "projection_transport": (PLAN, [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]),
}
PROXES = {
    "prox_lasso": (X, 0.8),
    "prox_non_negative_lasso": (X, 0.8),
    "prox_elastic_net": (X, 0.8, 0.5),
    "prox_ridge": (X, 0.8),
    "prox_non_negative_ridge": (X, 0.8),
    "prox_group_lasso": (X, 0.8),
}


def main():
    jax.config.update("jax_enable_x64", True)
    rows = {}

    def record(name, function, x, *parameters, **keywords):
        arrays = [np.array(p) if np.ndim(p) else p for p in parameters]
        # JAXopt takes one parameter as it is, and several as a tuple.
        hyperparams = [tuple(arrays)] if len(arrays) > 1 else arrays
        result = function(jax.numpy.array(x), *hyperparams, **keywords)
        rows[name] = [x.tolist(), parameters, np.asarray(result).tolist()]

    def solver(fun):
        return jaxopt.LBFGS(fun, tol=1e-10, maxiter=1000)

    for name, row in PROJECTIONS.items():
        record(name, getattr(projection, name), *row)
    for name, row in PLANS.items():
        record(name, getattr(projection, name), *row, make_solver=solver)
    for name, row in PROXES.items():
        record(name, getattr(prox, name), *row, scaling=STEP_SIZE)
    record("isotonic_l2_pav", isotonic.isotonic_l2_pav, X)
    f = prox.make_prox_from_projection(projection.projection_simplex)
    record("make_prox_from_projection", f, X, 0.4)
    lines = (f"{json.dumps(name)}: {json.dumps(rows[name])}" for name in rows)
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
