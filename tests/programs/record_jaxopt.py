"""Records again what JAXopt's projections and proxes return, for the tests.

    python -m tests.programs.record_jaxopt

In tests/data/jaxopt.json stand, by function, an array, the parameters that
follow it, and the result, in float64. This replaces the results; for other
arguments write them there first. Needs JAXopt, which is no longer maintained;
0.8.5 ran with JAX 0.10.2.
"""

import json
import pathlib

import jax
import jaxopt
import numpy as np
from jaxopt import isotonic, projection, prox

PATH = pathlib.Path(__file__).parents[1] / "data" / "jaxopt.json"
ITERATED = ("projection_birkhoff", "projection_transport")


def function(name):
    """Returns JAXopt's function of this name, and its keyword arguments."""
    if name == "isotonic_l2_pav":
        return isotonic.isotonic_l2_pav, {}
    if name == "make_prox_from_projection":
        return prox.make_prox_from_projection(projection.projection_simplex), {}
    if name.startswith("prox_"):
        return getattr(prox, name), {"scaling": 0.3}
    keywords = {"make_solver": solver} if name in ITERATED else {}
    return getattr(projection, name), keywords


def solver(fun):
    return jaxopt.LBFGS(fun, tol=1e-10, maxiter=1000)


def main():
    jax.config.update("jax_enable_x64", True)
    lines = []
    for name, (x, parameters, _) in json.loads(PATH.read_text()).items():
        call, keywords = function(name)
        arrays = [np.array(p) if np.ndim(p) else p for p in parameters]
        # JAXopt takes one parameter as it is, and several as a tuple.
        hyperparams = [tuple(arrays)] if len(arrays) > 1 else arrays
        result = call(jax.numpy.array(x), *hyperparams, **keywords)
        row = [x, parameters, np.asarray(result).tolist()]
        lines.append(f"{json.dumps(name)}: {json.dumps(row)}")
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
