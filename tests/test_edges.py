"""Learning rate 0, eps 0, the ends of float32 and of int32, derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference


def no_prox(leader, step_size):
    del step_size
    return leader


PROXES = pytest.mark.parametrize(
    "prox", [None, no_prox], ids=["delta", "leader"]
)


@PROXES
@pytest.mark.parametrize("zeros", [[0], [3], [0, 1, 2], [2, 5], [9]])
def test_learning_rate_0_moves_nothing_and_the_next_step_is_right(
    x64, prox, zeros
):
    rng = np.random.default_rng(0)
    theta, grads = rng.normal(size=4), rng.normal(size=(10, 4))
    rates = np.full(10, 0.1)
    # The recursion itself divides by 0; this is near its limit.
    rates[zeros] = 1e-8
    expected = reference.dvz(theta, grads, rates, np.full(10, 0.6))
    rates[zeros] = 0
    rates = jnp.asarray(rates)

    optimizer = optax_ftml.ftml(lambda count: rates[count], prox=prox)
    params, state = jnp.asarray(theta), optimizer.init(jnp.asarray(theta))
    for step in range(10):
        updates, state = optimizer.update(grads[step], state, params)
        if step in zeros:
            chex.assert_trees_all_equal(updates, jnp.zeros(4))
        chex.assert_tree_all_finite(state)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, expected[step], atol=1e-6)


def test_learning_rate_0_at_the_edge_of_a_box():
    optimizer = optax_ftml.ftml(
        lambda count: jnp.where(count == 2, 0.0, 0.5),
        prox=optax_ftml.prox.box(-1.0, 1.0),
    )
    params = jnp.array([0.9, -0.9, 0.0])
    state = optimizer.init(params)
    for step in range(5):
        updates, state = optimizer.update(
            jnp.array([-1.0, 1.0, 0.0]), state, params
        )
        params = optax.apply_updates(params, updates)
        chex.assert_tree_all_finite(state)
        chex.assert_trees_all_equal(params, jnp.array([1.0, -1.0, 0.0]))
        if step == 2:
            chex.assert_trees_all_equal(updates, jnp.zeros(3))


@PROXES
def test_a_constant_learning_rate_of_0(prox):
    optimizer = optax_ftml.ftml(0.0, prox=prox)
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(params, state, params)
        chex.assert_trees_all_equal(updates, jnp.zeros(2))
        chex.assert_tree_all_finite(state)


@PROXES
def test_eps_0_and_zero_gradients(prox):
    optimizer = optax_ftml.ftml(0.1, eps=0.0, prox=prox)
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.zeros(2), state, params)
        chex.assert_trees_all_equal(updates, jnp.zeros(2))
        chex.assert_tree_all_finite(state)
    updates, state = optimizer.update(jnp.array([0.0, 3.0]), state, params)
    assert updates[0] == 0
    assert updates[1] < 0


@PROXES
@pytest.mark.parametrize(
    ("eps", "magnitude"),
    [(0.0, 1e-15), (0.0, 1e18), (1e-8, 1e-30), (1e-8, 1e-18), (1e-8, 1e18)],
)
def test_tiny_and_huge_gradients(prox, magnitude, eps):
    optimizer = optax_ftml.ftml(0.1, eps=eps, prox=prox)
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    grads = magnitude * jnp.array([1.0, -1.0])
    for _ in range(100):
        updates, state = optimizer.update(grads, state, params)
        chex.assert_tree_all_finite((updates, state))
        # No step is longer than the learning rate, and none goes uphill.
        assert jnp.all(jnp.abs(updates) <= 0.1 * 1.0001)
        assert jnp.all(updates * grads <= 0)
        params = optax.apply_updates(params, updates)
    if magnitude == 1e18:
        # The first step is the whole learning rate, the hundredth 0.4 of it.
        np.testing.assert_allclose(updates, -0.04 * jnp.sign(grads), rtol=1e-5)


@PROXES
def test_the_largest_count(prox):
    optimizer = optax_ftml.ftml(0.1, prox=prox)
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(params, state, params)
    late = optax.tree.set(state, count=jnp.int32(2**31 - 2))
    for _ in range(3):
        updates, late = optimizer.update(params, late, params)
        chex.assert_tree_all_finite((updates, late))
        assert optax.tree.get(late, "count") == 2**31 - 1
        assert jnp.all(updates * params < 0)


@PROXES
@pytest.mark.parametrize("grads", [[0.0, 0.0], [0.3, -2.0]])
@pytest.mark.parametrize(("b1", "b2"), [(0.6, 0.9), (1e-9, 0.9), (0.6, 1e-9)])
def test_derivative_through_updates(x64, prox, grads, b1, b2):
    def loss(x):
        learning_rate, b1, b2, eps, scale = x
        optimizer = optax_ftml.ftml(
            learning_rate, b1, b2, eps, eps_root=1e-2, prox=prox
        )
        params = jnp.array([1.0, -2.0])
        state = optimizer.init(params)
        for _ in range(3):
            g = jnp.array(grads) + (scale - 1) * params
            updates, state = optimizer.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**2)

    x = jnp.array([0.1, b1, b2, 1e-3, 1.0])
    gradient = jax.grad(loss)(x)
    chex.assert_tree_all_finite(gradient)
    h = 1e-6
    differences = [
        (loss(x.at[i].add(h)) - loss(x.at[i].add(-h))) / (2 * h)
        for i in range(len(x))
    ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-8)


@PROXES
def test_nan_gradients_are_not_hidden(prox):
    # Without optax.apply_if_finite a NaN stays, as in every optax optimizer.
    optimizer = optax_ftml.ftml(0.1, prox=prox)
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    updates, state = optimizer.update(jnp.array([jnp.nan, 1.0]), state, params)
    assert jnp.isnan(updates[0])
    assert jnp.isfinite(updates[1])
    updates, _ = optimizer.update(jnp.ones(2), state, params)
    assert jnp.isnan(updates[0])
    assert jnp.isfinite(updates[1])


@PROXES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("b2", [0.0, 1e-6, 0.3, 0.999])
def test_a_small_gradient_after_a_large_one(x64, prox, dtype, b2):
    optimizer = optax_ftml.ftml(0.1, b2=b2, prox=prox)
    params = jnp.zeros((), dtype)
    state = optimizer.init(params)
    b2 = b2 if dtype == "float64" else float(np.float32(b2))  # Rounded once.
    v = 0.0
    for t, g in enumerate([1.0, 2.0**-10, 2.0**-7], start=1):
        v = b2 * v + (1 - b2) * g**2
        size = np.sqrt(v / (1 - b2**t)) + 1e-8
        expected = -0.1 * 0.4 / (1 - 0.6**t) * g / size
        updates, state = optimizer.update(jnp.asarray(g, dtype), state, params)
        actual = np.float64(optax.tree.get(state, "v"))
        np.testing.assert_allclose(actual, v, rtol=1e-6)
        # The parameters stay at 0, as if the leader had been taken there.
        if prox is not None:
            zero = jnp.zeros_like(state.multiplier)
            state = state._replace(multiplier=zero)
        rtol = 2 * max(float(jnp.finfo(dtype).eps), 5e-7)
        np.testing.assert_allclose(np.float64(updates), expected, rtol=rtol)


@PROXES
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("magnitude", [2e19, 3e38])
def test_a_coordinate_recovers_from_a_square_that_overflows(
    prox, dtype, magnitude
):
    optimizer = optax_ftml.ftml(0.1, b2=0.5, prox=prox)
    params = jnp.zeros((), dtype)
    state = optimizer.init(params)

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (params + updates, state), updates

    grads = jnp.ones(200, dtype).at[5].set(magnitude)
    _, updates = jax.lax.scan(step, (params, state), grads)
    chex.assert_tree_all_finite(updates)
    # As much as there could be if only this gradient had been.
    assert jnp.all(jnp.abs(updates) <= 0.1 * 1.5)
    size = np.abs(np.asarray(updates[-10:], np.complex64)).mean()
    np.testing.assert_allclose(size, 0.04, rtol=0.05)


@PROXES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 1.0, 1e3])
def test_the_largest_gradient_moves_by_the_learning_rate(
    x64, prox, dtype, rate
):
    largest = jnp.finfo(dtype).max
    for b1, b2 in ((0.6, 0.9437658674809651), (0.3, 0.999), (0.9, 0.5)):
        optimizer = optax_ftml.ftml(rate, b1, b2, prox=prox)
        params = jnp.zeros((), dtype)
        state = optimizer.init(params)
        updates, state = optimizer.update(largest, state, params)
        rtol = 1e-5 + 2 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(float(updates), -rate, rtol=rtol)
        chex.assert_tree_all_finite(state)


@PROXES
def test_infinite_gradients_are_not_hidden(prox):
    optimizer = optax_ftml.ftml(0.1, prox=prox)
    params = jnp.zeros(2)
    updates, _ = optimizer.update(
        jnp.array([jnp.inf, 1.0]), optimizer.init(params), params
    )
    assert jnp.isnan(updates[0])
    assert jnp.isfinite(updates[1])


@pytest.mark.parametrize(
    "rates",
    [
        [0.1 * 0.9**t for t in range(1200)],
        [0.1, 1e-30, 1e-45, 0.0, 5e-39, 1e-38, 0.1, 1e18, 1e-38, 1e18, 0.1],
        [1e18] * 300,
    ],
)
@pytest.mark.parametrize("prox", [no_prox, optax_ftml.prox.box(-1.0, 1.0)])
def test_any_learning_rates_give_finite_steps(prox, rates):
    rates = jnp.asarray(rates, jnp.float32)
    optimizer = optax_ftml.ftml(lambda count: rates[count], prox=prox)
    params = jnp.array([0.5, -0.5, 0.0])

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (params + updates, state), (updates, state)

    for scale in (1e9, 30.0, 1e-9):
        grads = jnp.tile(scale * jnp.array([1.0, -1.0, 0.0]), (len(rates), 1))
        _, seen = jax.lax.scan(step, (params, optimizer.init(params)), grads)
        chex.assert_tree_all_finite(seen)


@PROXES
@pytest.mark.parametrize("seed", [2**31, 2**32 - 1, 2**70, -1, np.int64(2**20)])
def test_any_integer_is_a_seed(prox, seed):
    optimizer = optax.chain(
        optax_ftml.ftml(seed=seed, accumulator_dtype=jnp.bfloat16, prox=prox),
        optax_ftml.stochastic_rounding(seed),
    )
    params = jnp.ones(4, jnp.bfloat16)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    chex.assert_tree_all_finite(updates)
