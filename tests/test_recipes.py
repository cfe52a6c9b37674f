"""The guides' recipes hold: strengths that change, and smaller networks."""

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

OPTIMIZERS = {
    "ftml": lambda lr, f: optax_ftml.ftml(lr, prox=f),
    "proximal_adam": lambda lr, f: optax_ftml.proximal_adam(lr, prox=f),
}
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

        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(
                jax.grad(loss)(params), state, params
            )
            return optax.apply_updates(params, updates), state

        params = {"w": jnp.full((4, 2), 0.1), "b": jnp.zeros([])}
        carry = params, optimizer.init(params)
        return jax.lax.fori_loop(0, 1500, step, carry)[0]["w"]

    bias = jnp.log(y.mean() / (1 - y.mean()))
    grads = jax.grad(loss)({"w": jnp.zeros((4, 2)), "b": bias})
    above, below = train(size(grads["w"]).max() * jnp.array([1.03, 0.97]))
    assert not above.any()
    assert below.any()


@pytest.fixture(scope="module")
def page():
    """What the page on smaller networks defines, without its training."""
    path = pathlib.Path(__file__).parents[1] / "docs" / "smaller_networks.md"
    namespace = {}
    for block in re.findall(
        r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
    ):
        if not re.search(r"^(model|leaves) = ", block, re.MULTILINE):
            exec(compile(block, path.name, "exec"), namespace)
    return namespace


def _network(page, model, groups):
    """Returns random leaves, some groups 0, and v, 0 for the first group."""
    rng = np.random.default_rng(0)
    leaves = page["leaves_by_path"](nnx.state(model))
    leaves = {
        path: np.float32(rng.uniform(0.5, 1.5, x.shape))
        if path.endswith("var")
        else np.float32(rng.normal(size=x.shape) / np.sqrt(x.size))
        for path, x in leaves.items()
    }
    v = {path: np.ones_like(x) for path, x in leaves.items()}
    for axis, off in groups:
        for path, axes in axis.items():
            (unit,) = set(range(leaves[path].ndim)) - set(np.atleast_1d(axes))
            np.moveaxis(leaves[path], unit, 0)[off] = 0
            np.moveaxis(v[path], unit, 0)[0] = 0
    return leaves, v


def _same_outputs(large, small, x):
    expected = np.asarray(large(x))
    largest = np.abs(expected).max()
    assert largest > 0.01
    np.testing.assert_allclose(small(x), expected, atol=1e-6 * largest)


def test_smaller_dense_network(page):
    """Without what is 0, and without a unit that never had a gradient."""
    groups = page["HIDDEN"]
    model = page["Dense"](12, nnx.Rngs(0))
    leaves, v = _network(page, model, [(groups, [3, 5, 6])])
    leaves["hidden/bias"][0] = -100  # off for every example
    on = page["units_on"](leaves, v, groups)
    assert np.flatnonzero(~on).tolist() == [0, 3, 5, 6]
    small = page["fill"](
        page["Dense"](8, nnx.Rngs(0)), page["keep"](leaves, groups, on)
    )
    x = jax.random.normal(jax.random.key(0), (50, 64))
    _same_outputs(page["fill"](model, leaves), small, x)


def test_smaller_residual_network(page):
    stream, inner = page["STREAM"], page["INNER"]
    model = page["Residual"](6, 5, nnx.Rngs(0))
    leaves, v = _network(page, model, [(stream, [1, 4]), (inner, [2])])
    v = {path: np.ones_like(x) for path, x in v.items()}
    on = page["units_on"](leaves, v, stream)
    inner_on = page["units_on"](leaves, v, inner)
    assert np.flatnonzero(~on).tolist() == [1, 4]
    assert np.flatnonzero(~inner_on).tolist() == [2]
    small = page["fill"](
        page["Residual"](4, 4, nnx.Rngs(0)),
        page["keep_channels"](leaves, on, inner_on),
    )
    large = page["fill"](model, leaves)
    large.eval(), small.eval()
    x = jax.random.normal(jax.random.key(0), (20, 8, 8, 1))
    _same_outputs(large, small, x)


A, B = np.array([1.0, 2.0, -1.0, 0.5]), 0.3
EUCLIDEAN = {
    "non_negative": (prox.non_negative(), projections.projection_non_negative),
    "box": (
        prox.box(-0.2, 0.4),
        lambda x: projections.projection_box(x, -0.2, 0.4),
    ),
    "hypercube": (
        prox.box(0, 0.4),
        lambda x: projections.projection_hypercube(x, 0.4),
    ),
    "linf_ball": (
        prox.box(-0.4, 0.4),
        lambda x: projections.projection_linf_ball(x, 0.4),
    ),
    "simplex": (
        prox.simplex(0.4),
        lambda x: projections.projection_simplex(x, 0.4),
    ),
    "l1_ball": (
        prox.l1_ball(0.4),
        lambda x: projections.projection_l1_ball(x, 0.4),
    ),
    "l2_ball": (
        prox.l2_ball(0.4),
        lambda x: projections.projection_l2_ball(x, 0.4),
    ),
    "l2_sphere": (
        prox.l2_sphere(0.4),
        lambda x: projections.projection_l2_sphere(x, 0.4),
    ),
    "hyperplane": (
        prox.hyperplane(A, B),
        lambda x: projections.projection_hyperplane(x, A, B),
    ),
    "halfspace": (
        prox.halfspace(A, B),
        lambda x: projections.projection_halfspace(x, A, B),
    ),
}
EUCLIDEAN = {  # The oldest Optax has not all of them.
    name: pair
    for name, pair in EUCLIDEAN.items()
    if hasattr(projections, f"projection_{name}")
}


@pytest.mark.parametrize("name", EUCLIDEAN)
def test_table_of_projections(name):
    """With equal step sizes it is Optax's Euclidean projection."""
    ours, theirs = EUCLIDEAN[name]
    x = jnp.array([0.9, 0.7, -0.6, 0.1])
    np.testing.assert_allclose(
        ours(x, jnp.full(4, 0.3)), theirs(x), atol=1e-6, rtol=1e-5
    )
