"""The contract about numbers: its four rules, and the functions behind them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import _numerics
from tests import reference

BOX = optax_ftml.prox.box(-1.0, 1.0)
FORMS = {
    "delta": optax_ftml.ftml,
    "leader": functools.partial(optax_ftml.ftml, prox=reference.free),
    "box": functools.partial(optax_ftml.ftml, prox=BOX),
    "adam": functools.partial(optax_ftml.proximal_adam, prox=reference.free),
}
DTYPES = ["float16", "bfloat16", "float32", "complex64", "float64"]
each_form = pytest.mark.parametrize("form", FORMS)
both_forms = pytest.mark.parametrize("form", ["delta", "leader"])


def in_each_dtype(x):
    return {dtype: jnp.asarray(x, dtype) for dtype in DTYPES}


@each_form
def test_rule_1_a_finite_gradient_is_forgotten(x64, form):
    optimizer = FORMS[form](0.1, b1=0.5, b2=0.5)
    params = in_each_dtype([0.0, 0.0])
    if form == "box":
        del params["complex64"]

    def run(magnitude):
        def grads(p, t):
            size = jnp.minimum(float(jnp.finfo(p.dtype).max), magnitude)
            is_large = jnp.array([t == 5, False])
            return jnp.where(is_large, size, 1).astype(p.dtype)

        def step(carry, t):
            params, state = carry
            updates, state = optimizer.update(
                jax.tree.map(lambda p: grads(p, t), params), state, params
            )
            if form == "box":
                params = optax.apply_updates(params, updates)
            return (params, state), (updates, state)

        # In float64 v takes 1,022 steps to come down from 2^1022.
        carry = params, optimizer.init(params)
        (end, _), seen = jax.lax.scan(step, carry, jnp.arange(1200))
        return end, seen

    magnitudes = jnp.array([2e19, 1e30, 1e308])
    end, (updates, states) = jax.jit(jax.vmap(run))(magnitudes)
    chex.assert_tree_all_finite((updates, states))
    for dtype in params:
        assert np.all(np.abs(updates[dtype]) < 0.16)
        if form == "box":
            np.testing.assert_array_equal(np.float64(end[dtype]), -1)
        else:
            last = np.complex128(updates[dtype][:, -1])
            size = 0.1 if form == "adam" else 0.05
            np.testing.assert_allclose(last, -size, rtol=0.02)


class Recorder:
    """The prox of nothing, which keeps the step sizes."""

    def __call__(self, leader, step_size):
        self.leader, self.step_size = leader, step_size
        return leader


@pytest.mark.parametrize("make", [optax_ftml.ftml, optax_ftml.proximal_adam])
@pytest.mark.parametrize(
    ("rate", "eps"), [(0.0, 0.0), (0.1, 1e-8), (1e18, 0.0)]
)
def test_rule_2_step_sizes_say_where_nothing_resists(x64, make, rate, eps):
    prox = Recorder()
    optimizer = make(rate, b2=0.9, eps=eps, prox=prox)
    params = in_each_dtype([1.0, -2.0, 0.0, 3.0])
    state = optimizer.init(params)
    grads = np.array([[0, 0, 1e-3, 2.0], [0, 4e-6, 0, -3.0], [0, 0, 0, 0]])
    v = 0
    for t, g in enumerate(grads, start=1):
        v = 0.9 * v + 0.1 * g**2
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = rate / (np.sqrt(v / (1 - 0.9**t)) + eps)
        updates, state = optimizer.update(in_each_dtype(g), state, params)
        for dtype, step_size in prox.step_size.items():
            assert not jnp.iscomplexobj(step_size)
            assert step_size.dtype == prox.leader[dtype].real.dtype
            bound = 2.0 ** (511 if dtype == "float64" else 63)
            if rate == 0:
                assert not np.any(step_size)
                continue
            is_free = np.asarray(step_size >= _numerics.bound(step_size.dtype))
            np.testing.assert_array_equal(is_free, v == 0)
            assert np.all(np.asarray(step_size)[is_free] == bound)
            np.testing.assert_allclose(
                np.asarray(step_size)[~is_free],
                np.minimum(expected, bound / 2)[~is_free],
                rtol=0.02 if dtype in ("bfloat16", "float16") else 1e-6,
            )
    if rate == 0:
        assert not any(np.any(u) for u in updates.values())


@each_form
def test_rule_3_any_learning_rates_give_finite_steps(form):
    steps = 1200
    jumps = [0.1, 1e-30, 1e-45, 0.0, 5e-39, 1e-38, 0.1, 1e18, 1e-38, 1e18, 0.1]
    rates = jnp.stack(
        [
            0.1 * 0.9 ** np.arange(steps),  # Down to 1e-45 and 0.
            np.resize(jumps, steps),
            np.full(steps, 1e18),
            np.zeros(steps),
        ]
    ).astype(jnp.float32)
    params = jnp.array([0.5, -0.5, 0.0])

    def run(rates, scale):
        optimizer = FORMS[form](lambda t: rates[t])

        def step(carry, _):
            params, state = carry
            g = scale * jnp.array([1.0, -1.0, 0.0])
            updates, state = optimizer.update(g, state, params)
            return (params + updates, state), (updates, state)

        carry = params, optimizer.init(params)
        return jax.lax.scan(step, carry, length=steps)[1]

    every = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    updates, state = every(rates, jnp.array([1e30, 1e9, 30.0, 1e-9]))
    chex.assert_tree_all_finite((updates, state))
    assert not np.any(updates[-1])
    assert not np.any(updates[..., 2])


B2S = [0.0, 1e-6, 0.3, 0.5, 0.6, 0.9, 0.999, 0.99999]


@both_forms
def test_rule_4_the_weights_of_an_average_add_up_to_1(form):
    """Equal gradients have their own average, whatever b2 rounds to."""

    def run(b2):
        optimizer = FORMS[form](1.0, b1=0.0, b2=b2, eps=0.0)

        def step(state, _):
            grads = jnp.array([1.0, -3e-5, 7e8])
            updates, state = optimizer.update(grads, state, jnp.zeros(3))
            return state, updates

        state = optimizer.init(jnp.zeros(3))
        return jax.lax.scan(step, state, length=5000)[1]

    updates = jax.jit(jax.vmap(run))(jnp.array(B2S))
    np.testing.assert_allclose(np.abs(updates), 1, rtol=5e-6)
    np.testing.assert_allclose(np.abs(updates[:, :3]), 1, rtol=5e-7)


@both_forms
def test_rule_4_v_is_that_of_the_rounded_b2(form):
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(2000, 20)) * 10 ** rng.uniform(-4, 0, (2000, 20))
    grads = grads.astype(np.float32)

    def run(b2):
        optimizer = FORMS[form](0.01, b2=b2)

        def step(state, g):
            _, state = optimizer.update(g, state, jnp.zeros(20))
            return state, optax.tree.get(state, "v")

        return jax.lax.scan(step, optimizer.init(jnp.zeros(20)), grads)[1]

    actual = jax.jit(jax.vmap(run))(jnp.array(B2S))
    b2 = np.float64(np.float32(B2S))[:, None]
    v = 0.0
    for t, g in enumerate(np.float64(grads)):
        v = b2 * v + (1 - b2) * g**2
        np.testing.assert_allclose(actual[:, t], v, rtol=1e-5)


def test_1_minus_b_to_the_t_and_its_derivative():
    b = np.float32([0, 1e-9, 0.3, 0.5, 0.6, 0.9, 0.99, 0.999, 1 - 2**-24])
    t = np.array([1, 2, 3, 7, 100, 5_000, 10**6, 2**31 - 1])[:, None]
    function = jax.vmap(
        jax.vmap(jax.value_and_grad(_numerics.one_minus_power), (0, None)),
        (None, 0),
    )
    value, slope = function(jnp.asarray(b), jnp.asarray(t[:, 0], jnp.int32))
    wide = b.astype(np.longdouble)
    np.testing.assert_allclose(value, np.float64(1 - wide**t), rtol=5e-7)
    expected = np.float64(-t * wide ** (t - 1))
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "g_dtype"),
    [
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("bfloat16", "float32"),
        ("float32", "bfloat16"),
    ],
)
def test_an_update_stops_at_its_target(dtype, g_dtype):
    rng = np.random.default_rng(0)
    theta, target = rng.normal(size=(2, 100_000))
    near = rng.random(100_000) < 0.5  # Half of the steps are short.
    scale = np.where(near, 10.0 ** rng.uniform(-6, 0, 100_000), 1)
    target = jnp.asarray(theta + scale * (target - theta), jnp.float32)
    theta = jnp.asarray(theta, dtype)
    update = jax.jit(_numerics.update_to)(target, theta, theta.astype(g_dtype))
    assert update.dtype == g_dtype
    wide = np.float64(theta)
    reached = jnp.asarray(wide + np.float64(update), jnp.float32).astype(dtype)
    reached, end = np.float64(reached), np.float64(target.astype(dtype))

    assert np.all((end - reached) * (end - wide) >= 0)
    eps, g_eps = (float(jnp.finfo(x).eps) for x in (dtype, g_dtype))
    tiny = float(jnp.finfo(g_dtype).smallest_subnormal)
    error = (
        tiny
        + eps * np.maximum(abs(end), abs(wide))
        + 2 * g_eps * abs(end - wide)
    )
    assert np.all(np.abs(end - reached) <= error)


@each_form
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_gradients_are_seen_and_apply_if_finite_skips_them(form, bad):
    params = jnp.array([0.5, -0.5])
    plain = FORMS[form](0.1)
    guarded = optax.apply_if_finite(plain, 5)
    updates, state = plain.update(params, plain.init(params), params)
    bad = jnp.array([bad, 1.0])
    updates, state = plain.update(bad, state, params)
    assert not jnp.isfinite(updates[0])
    updates, _ = plain.update(params, state, params)
    assert not jnp.isfinite(updates[0]) or not np.isnan(bad[0])
    assert jnp.isfinite(updates[1])

    _, before = guarded.update(params, guarded.init(params), params)
    updates, state = guarded.update(bad, before, params)
    assert not jnp.any(updates)
    chex.assert_trees_all_equal(state.inner_state, before.inner_state)


@each_form
def test_eps_0_and_zero_gradients(form):
    optimizer = FORMS[form](0.1, eps=0.0)
    params = jnp.array([0.5, -0.5])
    state = optimizer.init(params)
    for g in (0.0, 0.0, 3.0):
        updates, state = optimizer.update(jnp.array([0, g]), state, params)
        chex.assert_tree_all_finite(state)
        assert updates[0] == 0
        assert np.sign(updates[1]) == -np.sign(g)


@each_form
@pytest.mark.parametrize("zero", ["b1", "b2"])
def test_b1_of_0_and_b2_of_0(form, zero):
    optimizer = FORMS[form](0.1, **{zero: 0})
    params = jnp.array([0.5, -0.5])
    state = optimizer.init(params)
    for g, move in (([1.0, -2.0], [-0.1, 0.1]), ([0.0, 0.0], [0.0, 0.0])):
        updates, state = optimizer.update(jnp.array(g), state, params)
        chex.assert_tree_all_finite((updates, state))
        if form != "adam" or any(g):
            np.testing.assert_allclose(updates, move, rtol=1e-5)
        params = params + updates


@both_forms
def test_no_step_is_longer_than_the_learning_rate(form):
    def run(magnitude, eps):
        optimizer = FORMS[form](0.1, eps=eps)
        grads = magnitude * jnp.array([1.0, -1.0])

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            return (params + updates, state), (updates, state)

        params = jnp.array([1.0, -2.0])
        carry = params, optimizer.init(params)
        return jax.lax.scan(step, carry, length=100)[1]

    magnitudes = jnp.array([1e-15, 1e18, 1e-30, 1e-18, 1e18, 3e38])
    eps = jnp.array([0.0, 0.0, 1e-8, 1e-8, 1e-8, 1e-8])
    updates, state = jax.jit(jax.vmap(run))(magnitudes, eps)
    chex.assert_tree_all_finite((updates, state))
    assert np.all(np.abs(updates) <= 0.1 * 1.0001)
    assert np.all(updates * np.array([1, -1]) <= 0)
    # The first step is the whole learning rate, the hundredth 0.4 of it.
    for t, size in ((0, 0.1), (99, 0.04)):
        full = np.abs(updates[np.array([0, 1, 4, 5]), t])
        np.testing.assert_allclose(full, size, rtol=1e-4)


@both_forms
def test_the_largest_count(form):
    optimizer = FORMS[form](0.1)
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    late = optax.tree.set(state, count=jnp.int32(2**31 - 2))
    for _ in range(3):
        updates, late = optimizer.update(params, late, params)
        chex.assert_tree_all_finite((updates, late))
        assert optax.tree.get(late, "count") == 2**31 - 1
        assert jnp.all(updates * params < 0)


@both_forms
def test_learning_rate_0_moves_nothing_and_later_steps_are_right(x64, form):
    rng = np.random.default_rng(0)
    theta, grads = rng.normal(size=4), rng.normal(size=(10, 4))
    rates = np.full((5, 10), 0.1)
    for row, zeros in enumerate([[0], [3], [0, 1, 2], [2, 5], [9]]):
        rates[row, zeros] = 0

    def run(rates):
        optimizer = FORMS[form](lambda t: rates[t])
        return reference.trajectory(optimizer, jnp.asarray(theta), grads)

    actual = jax.jit(jax.vmap(run))(jnp.asarray(rates))
    moves = np.diff(actual, axis=1, prepend=np.broadcast_to(theta, (5, 1, 4)))
    np.testing.assert_array_equal(np.all(moves == 0, -1), rates == 0)
    # The recursion itself divides by 0; this is near its limit.
    near = np.maximum(rates, 1e-8).T[:, :, None]
    start = np.broadcast_to(theta, (5, 4))
    expected = reference.dvz(start, grads, near, np.full(10, 0.6))
    np.testing.assert_allclose(actual, expected.swapaxes(0, 1), atol=1e-6)
