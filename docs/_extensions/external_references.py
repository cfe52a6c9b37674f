"""Links to the names of other projects that the docstrings speak of.

Intersphinx would fetch each project's list of names for it. Here a name is
looked up in the installed package; one that is neither there nor documented on
this site is a warning, and so a failed build.
"""

import importlib

from docutils import nodes

JAX = "https://docs.jax.dev/en/latest/"
OPTAX = "https://optax.readthedocs.io/en/latest/"

PAGES = {
    "fnmatch": "https://docs.python.org/3/library/fnmatch.html",
    "jax.sharding.AbstractMesh": JAX + "jax.sharding.html",
    "jax.sharding.NamedSharding": JAX + "jax.sharding.html",
    "numpy.transpose": "https://numpy.org/doc/stable/reference/generated/"
    "numpy.transpose.html",
    "optax.apply_updates": OPTAX + "api/apply_updates.html",
    "optax.partition": OPTAX + "api/combining_optimizers.html",
}


def resolve(app, env, node, contents):
    """Returns the link for a name, or None where there is none."""
    del app, env
    page = find_page(node.get("reftarget", ""))
    return page and nodes.reference("", "", contents, refuri=page)


def find_page(name):
    """Returns the address of a name's documentation, or None."""
    module, _, attribute = name.rpartition(".")
    if name in PAGES:
        return PAGES[name]
    if module.startswith("optax_ftml") or not module:
        return None
    try:
        getattr(importlib.import_module(module), attribute)
    except (AttributeError, ImportError):
        return None
    return {
        "jax": f"{JAX}_autosummary/{name}.html",
        "optax": f"{OPTAX}api/transformations.html",
    }.get(module.partition(".")[0])


def setup(app):
    """Asks `resolve` about each name that this site does not document."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
