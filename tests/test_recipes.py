"""The guides' recipes hold: strengths that change, and those of JAXopt."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import projections

import optax_ftml
from optax_ftml import prox
from tests import reference

OPTIMIZERS = {
    "ftml": lambda lr, f: optax_ftml.ftml(lr, prox=f),
    "proximal_adam": lambda lr, f: optax_ftml.proximal_adam(lr, prox=f),
}
ROOT = pathlib.Path(__file__).parents[1]
TARGET = np.array([3.0, -2.0, 0.75, -0.4, 0.1, 0.0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("penalty", "first", "last", "end"),
    [
        (prox.l1, 0.0, 0.5, [2.5, -1.5, 0.25, 0, 0, 0]),
        (prox.l2_ball, 4.0, 1.0, TARGET / np.linalg.norm(TARGET)),
    ],
    ids=["strength that warms up", "radius that shrinks"],
)
def test_numbers_that_change(name, dtype, penalty, first, last, end):
    """Ends at the last number's solution, in one program."""

    def make(learning_rate, number):
        return OPTIMIZERS[name](learning_rate, penalty(number))

    optimizer = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)(
        learning_rate=optax.cosine_decay_schedule(0.3, 400),
        number=optax.linear_schedule(first, last, 100),
    )

    params, state = reference.train(
        optimizer,
        lambda params: (params - TARGET).astype(dtype),
        jnp.ones(TARGET.shape, dtype),
        400,
    )
    assert np.isclose(state.hyperparams["number"], last)
    assert params.dtype == dtype
    if penalty is prox.l1:  # Its zeros are exact.
        np.testing.assert_array_equal(params == 0, np.equal(end, 0))
    tolerance = {"float32": 1e-3, "bfloat16": 0.1}[dtype]
    np.testing.assert_allclose(np.float32(params), end, atol=tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("penalty", "axis"),
    [(prox.l1, ()), (functools.partial(prox.group_lasso, axis=1), 1)],
    ids=["l1", "group_lasso"],
)
def test_smallest_strength_at_which_all_is_zero(name, penalty, axis):
    """Above it all is zero, below it not; the bias is free and fitted first."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (60, 8)) * jnp.logspace(-1, 0.5, 8)
    y = (jax.random.uniform(keys[1], (60,)) < 0.3).astype(jnp.float32)

    def loss(params):
        logits = x @ params["w"].reshape(8) + params["b"]
        return optax.losses.sigmoid_binary_cross_entropy(logits, y).mean()

    @jax.jit
    @jax.vmap
    def train(strength):
        schedule = optax.cosine_decay_schedule(0.05, 1500)
        free_bias = prox.by_path({"w": penalty(strength)})
        optimizer = OPTIMIZERS[name](schedule, free_bias)
        start = {"w": jnp.full((4, 2), 0.1), "b": jnp.zeros([])}
        params, _ = reference.train(optimizer, jax.grad(loss), start, 1500)
        return params["w"]

    bias = jnp.log(y.mean() / (1 - y.mean()))
    grads = jax.grad(loss)({"w": jnp.zeros((4, 2)), "b": bias})
    sizes = jnp.sqrt(jnp.sum(grads["w"] ** 2, axis))
    above, below = train(sizes.max() * jnp.array([1.03, 0.97]))
    assert not above.any()
    assert below.any()


# The table of the page for those who come from JAXopt and Optax: ours, given
# the parameters of theirs, where the names or the arguments differ.
OTHERS = {
    "projection_hypercube": lambda scale: prox.box(0, scale),
    "projection_linf_ball": lambda scale: prox.box(-scale, scale),
    "projection_polyhedron": lambda a, b, g, h: prox.intersection(
        prox.affine_set(a, b), *map(prox.halfspace, g, h)
    ),
    "projection_birkhoff": lambda: prox.intersection(
        prox.simplex(axis=0), prox.simplex(axis=1)
    ),
    "projection_transport": lambda rows, columns: prox.intersection(
        prox.simplex(rows[:, None], axis=1), prox.simplex(columns, axis=0)
    ),
    "isotonic_l2_pav": prox.monotone,
    "prox_lasso": prox.l1,
    "prox_non_negative_lasso": lambda s: prox.l1(s, non_negative=True),
    "prox_elastic_net": lambda l1, gamma: prox.elastic_net(l1, l1 * gamma),
    "prox_ridge": lambda strength: prox.elastic_net(0.0, strength),
    "prox_non_negative_ridge": lambda strength: prox.intersection(
        prox.elastic_net(0.0, strength), prox.non_negative()
    ),
    "prox_group_lasso": lambda s: prox.group_lasso(s, axis=0),
    "make_prox_from_projection": lambda total: prox.in_metric(
        lambda x, _: projections.projection_simplex(x, total)
    ),
}
# Recorded by `python -m tests.programs.record_jaxopt`.
JAXOPT = json.loads((ROOT / "tests" / "data" / "jaxopt.json").read_text())
PAGE = (ROOT / "docs" / "coming_from_jaxopt.md").read_text()
# Where JAXopt's own solver ends.
TOLERANCES = {"projection_polyhedron": 1e-4, "projection_box_section": 1e-4}


@pytest.mark.parametrize("name", JAXOPT)
def test_table_of_jaxopt(name):
    """With equal step sizes ours gives JAXopt's result, and Optax's."""
    ours = name if name in OTHERS else name.removeprefix("projection_")
    assert f"`{ours}" in PAGE
    x, parameters, expected = JAXOPT[name]
    x, parameters = jnp.array(x), [np.float32(p) for p in parameters]
    f = OTHERS[name] if name in OTHERS else getattr(prox, ours)
    result = f(*parameters)(x, jnp.full(x.shape, 0.3))
    atol = TOLERANCES.get(name, 2e-6)
    np.testing.assert_allclose(result, np.float32(expected), atol=atol)
    if hasattr(projections, name):  # The oldest Optax has not all of them.
        theirs = getattr(projections, name)(x, *parameters)
        np.testing.assert_allclose(result, theirs, atol=2e-6)
