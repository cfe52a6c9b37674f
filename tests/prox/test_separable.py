"""Constrained and regularised problems against solvers of other libraries."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import sklearn.linear_model

import optax_ftml

RNG = np.random.default_rng(0)
SAMPLES, FEATURES = 60, 12
MIX = np.eye(FEATURES) + 0.3 * RNG.normal(size=(FEATURES, FEATURES))
X = RNG.normal(size=(SAMPLES, FEATURES)) @ MIX / np.sqrt(SAMPLES)
TRUTH = np.where(np.arange(FEATURES) % 3 == 0, RNG.normal(size=FEATURES), 0)
Y = X @ TRUTH + 0.01 * RNG.normal(size=SAMPLES)


def lasso():
    model = sklearn.linear_model.Lasso(
        alpha=0.05 / SAMPLES, fit_intercept=False, tol=1e-12, max_iter=10**6
    )
    return model.fit(X, Y).coef_


def elastic_net():
    # Its penalty is alpha (ratio |x|_1 + (1 - ratio) / 2 |x|^2) a sample.
    l1, l2 = 0.03, 0.1
    model = sklearn.linear_model.ElasticNet(
        alpha=(l1 + l2) / SAMPLES,
        l1_ratio=l1 / (l1 + l2),
        fit_intercept=False,
        tol=1e-12,
        max_iter=10**6,
    )
    return model.fit(X, Y).coef_


def non_negative():
    return scipy.optimize.nnls(X, Y)[0]


def box():
    return scipy.optimize.lsq_linear(
        X, Y, bounds=(-0.2, 0.3), tol=1e-14, lsmr_tol=1e-14
    ).x


PROBLEMS = {
    "l1": (optax_ftml.prox.l1(0.05), lasso, (-np.inf, np.inf)),
    "elastic_net": (
        optax_ftml.prox.elastic_net(0.03, 0.1),
        elastic_net,
        (-np.inf, np.inf),
    ),
    "non_negative": (
        optax_ftml.prox.non_negative(),
        non_negative,
        (0, np.inf),
    ),
    "box": (optax_ftml.prox.box(-0.2, 0.3), box, (-0.2, 0.3)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_the_solution_with_its_zeros_and_bounds(x64, name):
    prox, solve, (lower, upper) = PROBLEMS[name]
    solution = solve()
    optimizer = optax_ftml.ftml(
        optax.cosine_decay_schedule(0.02, 20_000, alpha=1e-6),
        b2=0.99,
        prox=prox,
    )

    def step(carry, _):
        theta, state = carry
        grads = X.T @ (X @ theta - Y)
        updates, state = optimizer.update(grads, state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), theta

    start = jnp.zeros(FEATURES)
    _, thetas = jax.jit(
        lambda: jax.lax.scan(
            step, (start, optimizer.init(start)), length=20_000
        )
    )()
    assert jnp.all((thetas >= lower) & (thetas <= upper))
    np.testing.assert_allclose(thetas[-1], solution, atol=1e-5)
    # Solvers of other libraries come within their tolerance of a bound.
    zeros = np.abs(solution) < 1e-9
    if name in ("l1", "elastic_net", "non_negative"):
        assert 0 < zeros.sum() < FEATURES
        np.testing.assert_array_equal(thetas[-1] == 0, zeros)
    if name == "box":
        at_edge = np.minimum(solution - lower, upper - solution) < 1e-9
        assert 0 < at_edge.sum() < FEATURES
        reached = (thetas[-1] == lower) | (thetas[-1] == upper)
        np.testing.assert_array_equal(reached, at_edge)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("bounds", [(-1.0, 0.1), (0.3, 0.7), (-0.2, 50.0)])
def test_rounding_never_leaves_the_box(dtype, bounds):
    # Large steps between the edges, where theta + (edge - theta) rounds.
    optimizer = optax_ftml.ftml(10.0, prox=optax_ftml.prox.box(*bounds))
    rng = np.random.default_rng(0)
    lower, upper = (jnp.asarray(bound, dtype) for bound in bounds)
    start = jnp.asarray(rng.uniform(*bounds, size=2000), dtype)
    start = jnp.clip(start, lower, upper)

    def step(carry, g):
        theta, state = carry
        updates, state = optimizer.update(g, state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), theta

    grads = jnp.asarray(rng.normal(size=(50, 2000)), dtype)
    for run in (jax.lax.scan, jax.jit(jax.lax.scan, static_argnums=0)):
        _, thetas = run(step, (start, optimizer.init(start)), grads)
        assert thetas.dtype == dtype
        assert jnp.all(thetas >= lower)
        assert jnp.all(thetas <= upper)
        assert jnp.mean((thetas == lower) | (thetas == upper)) > 0.1


def objective(theta, leader, step_size, l1, l2):
    return (
        l1 * np.abs(theta)
        + l2 / 2 * theta**2
        + (theta - leader) ** 2 / (2 * step_size)
    )


@pytest.mark.parametrize(
    ("prox", "l1", "l2"),
    [
        (optax_ftml.prox.l1(0.7), 0.7, 0),
        (optax_ftml.prox.elastic_net(0.7, 1.3), 0.7, 1.3),
        (optax_ftml.prox.elastic_net(0.0, 1.3), 0, 1.3),
    ],
)
def test_minimises_its_objective(prox, l1, l2):
    leaders = np.linspace(-3, 3, 41).astype(np.float32)
    step_sizes = np.geomspace(0.01, 10, 41).astype(np.float32)
    candidates = np.linspace(-4, 4, 8001)[:, None]
    best = candidates[
        np.argmin(objective(candidates, leaders, step_sizes, l1, l2), axis=0),
        0,
    ]
    np.testing.assert_allclose(prox(leaders, step_sizes), best, atol=1e-3)


def test_l1_on_complex_parameters_shrinks_the_modulus():
    leader = jnp.array([3 + 4j, 0.3 + 0.4j])
    shrunk = optax_ftml.prox.l1(1.0)(leader, jnp.ones(2))
    np.testing.assert_allclose(shrunk, [2.4 + 3.2j, 0], rtol=1e-6)


def test_bounds_and_strengths_a_leaf_or_a_subtree():
    leader = {"a": jnp.array([-5.0, 5.0]), "b": {"c": jnp.array(5.0)}}
    ones = jax.tree.map(jnp.ones_like, leader)
    clipped = optax_ftml.prox.box(
        {"a": jnp.array([-1.0, -2.0]), "b": -1.0}, 2.0
    )(leader, ones)
    chex.assert_trees_all_equal(
        clipped, {"a": jnp.array([-1.0, 2.0]), "b": {"c": jnp.array(2.0)}}
    )
    shrunk = optax_ftml.prox.l1({"a": 1.0, "b": 0.0})(leader, ones)
    chex.assert_trees_all_equal(
        shrunk, {"a": jnp.array([-4.0, 4.0]), "b": {"c": jnp.array(5.0)}}
    )


def test_an_infeasible_start_becomes_feasible_in_one_step():
    optimizer = optax_ftml.ftml(0.1, prox=optax_ftml.prox.non_negative())
    params = jnp.array([-5.0, 5.0])
    state = optimizer.init(params)
    updates, _ = optimizer.update(jnp.ones(2), state, params)
    params = optax.apply_updates(params, updates)
    assert params[0] == 0
    assert 4.8 < params[1] < 5


def test_prox_is_traced_with_tracers_as_strengths():
    @jax.jit
    @jax.vmap
    def shrink(strength):
        return optax_ftml.prox.l1(strength)(jnp.array([2.0]), jnp.array([1.0]))

    chex.assert_trees_all_equal(
        shrink(jnp.array([0.0, 0.5, 9.0])), jnp.array([[2.0], [1.5], [0.0]])
    )
