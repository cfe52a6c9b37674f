"""The guides' recipes hold: strengths that change, and smaller networks."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
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


def soft_threshold(x, strength):
    return np.sign(x) * np.maximum(np.abs(x) - strength, 0)


def shrink_to_ball(x, radius):
    return x / max(np.linalg.norm(x) / radius, 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("penalty", "first", "last", "solution"),
    [(prox.l1, 0.0, 0.5, soft_threshold), (prox.l2_ball, 4, 1, shrink_to_ball)],
    ids=["strength that warms up", "radius that shrinks"],
)
def test_numbers_that_change(name, dtype, penalty, first, last, solution):
    """Ends at the last number's solution, in one program, with donation."""

    def make(learning_rate, number):
        return OPTIMIZERS[name](learning_rate, penalty(number))

    optimizer = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)(
        learning_rate=optax.cosine_decay_schedule(0.3, 400),
        number=optax.linear_schedule(first, last, 100),
    )

    def step(params, state):
        grads = (params - TARGET).astype(dtype)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    params = jnp.ones(TARGET.shape, dtype)
    state = optimizer.init(params)
    for t in range(400):
        params, state = step(params, state)
        expected = first + (last - first) * min(t / 100, 1)
        assert np.isclose(state.hyperparams["number"], expected)
    assert step._cache_size() == 1
    assert params.dtype == dtype
    end = solution(TARGET, last)
    if penalty is prox.l1:  # Its zeros are exact.
        np.testing.assert_array_equal(params == 0, end == 0)
    tolerance = {"float32": 1e-3, "bfloat16": 0.1}[dtype]
    np.testing.assert_allclose(np.float32(params), end, atol=tolerance)


def group_lasso(strength):
    return prox.group_lasso(strength, axis=1)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("penalty", "size"),
    [(prox.l1, jnp.abs), (group_lasso, lambda g: jnp.linalg.norm(g, axis=1))],
    ids=["l1", "group_lasso"],
)
def test_smallest_strength_at_which_all_is_zero(name, penalty, size):
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
    above, below = train(size(grads["w"]).max() * jnp.array([1.03, 0.97]))
    assert not above.any()
    assert below.any()


@pytest.fixture(scope="module")
def page():
    """What the page on smaller networks defines, without its training."""
    path = ROOT / "docs" / "smaller_networks.md"
    namespace = {}
    for block in re.findall(
        r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
    ):
        if not re.search(r"^(model|leaves)\b", block, re.MULTILINE):
            exec(compile(block, path.name, "exec"), namespace)
    return namespace


def _network(page, model, *groups_off):
    """Returns random leaves in which some groups are 0, and a v of ones."""
    rng = np.random.default_rng(0)
    leaves = page["by_path"](nnx.state(model))
    leaves = {
        path: np.float32(rng.uniform(0.5, 1.5, x.shape))
        if path.endswith("var")
        else np.float32(rng.normal(size=x.shape) / np.sqrt(x.size))
        for path, x in leaves.items()
    }
    for groups, off in groups_off:
        _set(leaves, groups, off, 0)
    return leaves, jax.tree.map(np.ones_like, leaves)


def _set(leaves, groups, index, value):
    for path, axis in groups.items():
        (unit,) = set(range(leaves[path].ndim)) - set(np.atleast_1d(axis))
        np.moveaxis(leaves[path], unit, 0)[index] = value


def _same_outputs(large, small, x):
    expected = np.asarray(large(x))
    largest = np.abs(expected).max()
    assert largest > 0.01
    np.testing.assert_allclose(small(x), expected, atol=1e-6 * largest)


def test_smaller_dense_network(page):
    groups = page["HIDDEN"]
    model = page["Dense"](12, nnx.Rngs(0))
    leaves, v = _network(page, model, (groups, [3, 5, 6]))
    on = page["units_on"](leaves, v, groups)
    assert np.flatnonzero(~on).tolist() == [3, 5, 6]
    small = page["fill"](
        page["Dense"](9, nnx.Rngs(0)), page["keep"](leaves, groups, on)
    )
    _same_outputs(page["fill"](model, leaves), small, page["x"][:50])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "slot"), [("ftml", "v"), ("proximal_adam", "nu")]
)
def test_unit_that_never_had_a_gradient(page, name, slot):
    """The penalty leaves it as it was, and the smaller network is without."""
    groups = page["HIDDEN"]
    model = page["Dense"](12, nnx.Rngs(0))
    leaves = page["by_path"](nnx.state(model))
    leaves["hidden/bias"] = leaves["hidden/bias"].at[4].set(-100)
    page["fill"](model, leaves)
    optimizer = OPTIMIZERS[name](0.01, prox.group_lasso(1e-3, axis=groups))
    state = page["train"](model, optimizer, page["x"], steps=5)
    leaves = page["by_path"](nnx.state(model))
    v = page["by_path"](optax.tree.get(state, slot))
    assert leaves["hidden/bias"][4] == -100
    assert np.all(leaves["hidden/kernel"][:, 4] != 0)
    on = page["units_on"](leaves, v, groups)
    assert not on[4]
    assert on.sum() > 6
    small = page["fill"](
        page["Dense"](on.sum(), nnx.Rngs(0)), page["keep"](leaves, groups, on)
    )
    _same_outputs(model, small, page["x"])


@pytest.mark.slow
def test_smaller_residual_network(page):
    """Without channels that are 0, and without one that is off for all."""
    stream, inner = page["STREAM"], page["INNER"]
    model = page["Residual"](6, 5, nnx.Rngs(0))
    leaves, v = _network(page, model, (stream, [1, 4]), (inner, [2]))
    leaves["norm_1/bias"][3] = -100
    _set(v, inner, 3, 0)
    on = page["units_on"](leaves, v, stream)
    inner_on = page["units_on"](leaves, v, inner)
    assert np.flatnonzero(~on).tolist() == [1, 4]
    assert np.flatnonzero(~inner_on).tolist() == [2, 3]
    small = page["smaller"](leaves, on, inner_on)
    large = page["fill"](model, leaves)
    large.eval(), small.eval()
    _same_outputs(large, small, page["x"][:20].reshape(-1, 8, 8, 1))


# The tables of the page for those who come from JAXopt and Optax: ours, given
# the parameters of theirs.
OURS = {
    "projection_non_negative": prox.non_negative,
    "projection_box": prox.box,
    "projection_hypercube": lambda scale: prox.box(0, scale),
    "projection_linf_ball": lambda scale: prox.box(-scale, scale),
    "projection_simplex": prox.simplex,
    "projection_l1_ball": prox.l1_ball,
    "projection_l2_ball": prox.l2_ball,
    "projection_l2_sphere": prox.l2_sphere,
    "projection_hyperplane": prox.hyperplane,
    "projection_halfspace": prox.halfspace,
    "projection_affine_set": prox.affine_set,
    "projection_box_section": prox.box_section,
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
# Where JAXopt's own solver ends.
TOLERANCES = {"projection_polyhedron": 1e-4, "projection_box_section": 1e-4}


def test_page_has_every_function():
    page = (ROOT / "docs" / "coming_from_jaxopt.md").read_text()
    (names,) = re.findall(r"for the names (.*?)\. Other", page, re.DOTALL)
    on_page = {f"projection_{name}" for name in re.findall(r"`(\w+)`", names)}
    for row in re.findall(r"^\| (`.*) \| `prox\.", page, re.MULTILINE):
        on_page |= {*re.findall(r"`([a-z]\w+)(?:\(.*?)?`", row)}
    assert on_page == OURS.keys() == JAXOPT.keys()


@pytest.mark.parametrize("name", OURS)
def test_table_of_jaxopt(name):
    """With equal step sizes ours gives JAXopt's result, and Optax's."""
    x, parameters, expected = JAXOPT[name]
    x, parameters = jnp.array(x), [np.float32(p) for p in parameters]
    result = OURS[name](*parameters)(x, jnp.full(x.shape, 0.3))
    atol = TOLERANCES.get(name, 2e-6)
    np.testing.assert_allclose(result, np.float32(expected), atol=atol)
    if hasattr(projections, name):  # The oldest Optax has not all of them.
        theirs = getattr(projections, name)(x, *parameters)
        np.testing.assert_allclose(result, theirs, atol=2e-6)
