"""Links to the few names of other projects that the docstrings speak of.

Intersphinx would fetch each project's list of names for it. A name that is
neither here nor documented on this site is a warning, and so a failed build.
"""

from docutils import nodes

JAX = "https://docs.jax.dev/en/latest/"
OPTAX = "https://optax.readthedocs.io/en/latest/api/"

PAGES = {
    "fnmatch": "https://docs.python.org/3/library/fnmatch.html",
    "jax.ShapeDtypeStruct": JAX + "_autosummary/jax.ShapeDtypeStruct.html",
    "jax.jit": JAX + "_autosummary/jax.jit.html",
    "jax.sharding.AbstractMesh": JAX + "jax.sharding.html",
    "jax.sharding.NamedSharding": JAX + "jax.sharding.html",
    "numpy.transpose": "https://numpy.org/doc/stable/reference/generated/"
    "numpy.transpose.html",
    "optax.GradientTransformation": OPTAX + "transformations.html",
    "optax.GradientTransformationExtraArgs": OPTAX + "transformations.html",
    "optax.apply_updates": OPTAX + "apply_updates.html",
    "optax.partition": OPTAX + "combining_optimizers.html",
    "optax.scale_by_learning_rate": OPTAX + "transformations.html",
}


def resolve(app, env, node, contents):
    """Returns the link for a name, or None where there is none."""
    del app, env
    page = PAGES.get(node.get("reftarget"))
    return page and nodes.reference("", "", contents, refuri=page)


def setup(app):
    """Asks `resolve` about each name that this site does not document."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
