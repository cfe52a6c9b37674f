"""The contract about numbers: its four rules, and the functions behind them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import _numerics, prox
from tests import reference

DTYPES = ["float16", "bfloat16", "float32", "complex64", "float64"]
FORMS = reference.FORMS
BOX = functools.partial(optax_ftml.ftml, prox=prox.box(-0.2, 0.2))
each_form = pytest.mark.parametrize("form", FORMS)
both_forms = pytest.mark.parametrize("form", ["delta", "leader"])
run = jax.jit(reference.run, static_argnums=(0, 2, 3))


@each_form
def test_rule_1_a_finite_gradient_is_forgotten(x64, form):
    params = {dtype: jnp.zeros(2, dtype) for dtype in DTYPES}
    largest = {dtype: jnp.finfo(dtype).max for dtype in DTYPES}

    def grads(t, params):
        is_large = jnp.array([t == 5, False])
        return {
            dtype: jnp.where(is_large, largest[dtype], 1).astype(dtype)
            for dtype in DTYPES
        }

    optimizer = FORMS[form](0.01, b1=0.5, b2=0.5)
    # In float64 v takes 1,022 steps to come down from 2^1022.
    seen = run(optimizer, params, grads, 1200)
    chex.assert_tree_all_finite(seen)
    for update in seen[1].values():
        last = np.complex128(update[-1])
        np.testing.assert_allclose(last, last[1], rtol=0.02)


@each_form
def test_rule_1_a_bad_gradient_is_seen(form):
    optimizer = FORMS[form](0.1)
    params = jnp.full(4, 0.5)
    _, state = optimizer.update(params, optimizer.init(params), params)
    grads = jnp.array([np.nan, np.inf, -np.inf, 1])
    updates, _ = optimizer.update(grads, state, params)
    np.testing.assert_array_equal(np.isfinite(updates), [0, 0, 0, 1])


@pytest.mark.parametrize("make", [optax_ftml.ftml, optax_ftml.proximal_adam])
@pytest.mark.parametrize(("rate", "eps"), [(0.0, 0.0), (0.1, 1e-8), (0.1, 0.0)])
def test_rule_2_step_sizes_say_where_nothing_resists(x64, make, rate, eps):
    seen = []

    def recorder(leader, step_size):
        seen.append((leader, step_size))
        return leader

    def in_each_dtype(x):
        return {dtype: jnp.asarray(x, dtype) for dtype in DTYPES}

    optimizer = make(rate, b2=0.9, eps=eps, prox=recorder)
    params = in_each_dtype([1.0, -2.0, 0.0, 3.0])
    state = optimizer.init(params)
    grads = np.array([[0, 0, 1e-3, 2.0], [0, 4e-6, 0, -3.0], [0, 0, 0, 0]])
    v = 0
    for t, g in enumerate(grads, start=1):
        v = 0.9 * v + 0.1 * g**2
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = rate / (np.sqrt(v / (1 - 0.9**t)) + eps)
        updates, state = optimizer.update(in_each_dtype(g), state, params)
        leader, step_sizes = seen[-1]
        for dtype, step_size in step_sizes.items():
            assert step_size.dtype == leader[dtype].real.dtype
            bound = 2.0 ** (511 if dtype == "float64" else 63) * (rate > 0)
            np.testing.assert_allclose(
                step_size,
                np.where(v == 0, bound, expected if rate else 0),
                rtol=0.02 if dtype in ("bfloat16", "float16") else 1e-6,
            )
    assert rate or not any(np.any(u) for u in updates.values())


@pytest.mark.parametrize(
    ("rate", "b2", "eps"),
    [(0.01, 0.0, 1e-8), (0.01, 0.9, 1e-8), (10.0, 0.9, 0.0)],
)
@pytest.mark.parametrize(
    "make",
    [optax_ftml.ftml, functools.partial(optax_ftml.proximal_adam, b1=0.95)],
)
def test_rule_2_a_group_that_is_off_stays_at_0(make, rate, b2, eps):
    # As in a unit with a ReLU: its gradients end with it, and v underflows.
    params, updates, _ = run(
        make(rate, b2=b2, eps=eps, prox=prox.group_lasso(0.1, axis=None)),
        jnp.array([0.5, -0.3]),
        lambda t, _: jnp.where(t < 50, jnp.array([0.01, 0.02]), 0),
        3000,
    )
    np.testing.assert_array_equal(params[-2000:], 0)
    assert not np.any(updates[-2000:])


@pytest.mark.parametrize("make", [*FORMS.values(), BOX], ids=[*FORMS, "box"])
def test_rule_3_any_learning_rates_give_finite_steps(make):
    steps = 1200
    rng = np.random.default_rng(0)
    jumps = 10.0 ** rng.uniform(-38, 18, steps) * (rng.random(steps) < 0.8)
    falling = 0.1 * 0.9 ** np.arange(steps)  # Down to 1e-45 and 0.
    constant = np.full((2, steps), [[1e18], [1e-30]])
    params = jnp.array([2.0, -2.0, 0.0])  # Not in the box.

    def with_rates(rates, scale):
        grads = scale * jnp.array([1.0, -1.0, 0.0])
        optimizer = make(lambda t: rates[t])
        return reference.run(optimizer, params, lambda t, _: grads, steps)

    each = jax.vmap(jax.vmap(with_rates, (None, 0)), (0, None))
    rates, scales = jnp.array([jumps, falling, *constant]), [1e30, 30.0, 1e-9]
    _, updates, state = jax.jit(each)(rates, jnp.array(scales))
    chex.assert_tree_all_finite((updates, state))
    assert not np.any(updates[..., 2])


@both_forms
def test_rule_4_the_weights_of_an_average_add_up_to_1(form):
    """Equal gradients are their own average, whatever their size and b2."""

    def with_b2(b2):
        optimizer = FORMS[form](1.0, b1=0.0, b2=b2, eps=0.0)
        grads = jnp.array([1.0, -3e-5, 7e8, 1e-15, -3e38])
        return run(optimizer, jnp.zeros(5), lambda t, _: grads, 5000)[1]

    b2s = jnp.array([0.0, 1e-6, 0.3, 0.5, 0.6, 0.9, 0.999, 0.99999])
    updates = jax.jit(jax.vmap(with_b2))(b2s)
    np.testing.assert_allclose(np.abs(updates), 1, rtol=5e-6)
    np.testing.assert_allclose(np.abs(updates[:, :3]), 1, rtol=5e-7)


def test_1_minus_b_to_the_t():
    b = np.float32([0, 1e-9, 0.3, 0.5, 0.6, 0.9, 0.99, 0.999, 1 - 2**-24])
    t = np.array([1, 2, 3, 7, 100, 5_000, 10**6, 2**31 - 1])[:, None]
    value = _numerics.one_minus_power(jnp.array(b), jnp.array(t, jnp.int32))
    expected = 1 - b.astype(np.longdouble) ** t
    np.testing.assert_allclose(value, np.float64(expected), rtol=5e-7)


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
    theta, direction = rng.normal(size=(2, 100_000))
    length = 10.0 ** rng.uniform(-6, 1, size=100_000)
    target = jnp.float32(theta + length * direction)
    theta = jnp.asarray(theta, dtype)
    update = jax.jit(_numerics.update_to)(target, theta, theta.astype(g_dtype))
    assert update.dtype == g_dtype
    reached = optax.apply_updates(theta, update)
    start, reached, end = (
        np.float64(x) for x in (theta, reached, target.astype(dtype))
    )
    assert np.all((end - reached) * (end - start) >= 0)
    eps, g_eps = (float(jnp.finfo(x).eps) for x in (dtype, g_dtype))
    tiny = float(jnp.finfo(g_dtype).smallest_subnormal)
    rounding = eps * np.maximum(abs(end), abs(start))
    error = tiny + rounding + 2 * g_eps * abs(end - start)
    assert np.all(np.abs(end - reached) <= error)


@pytest.mark.slow
def test_many_steps_stay_close_to_float64(x64):
    """float32, with a box too, and bfloat16 v."""

    def end(dtype, **options):
        def grads(t, params):
            # As irregular as noise, and the same in each precision.
            noise = jnp.sin(t.astype(float) ** 2 * 0.37 + jnp.arange(3.0))
            target = jnp.array([-1.5, 0.3, 1.0])
            return (params - target + noise).astype(dtype)

        optimizer = optax_ftml.ftml(1e-3, **options)
        params, *_ = run(optimizer, jnp.zeros(3, dtype), grads, 200_000)
        return params[-1]

    expected = end("float64")
    for limit, options in [
        (1e-4, {}),
        (1e-4, {"prox": prox.box(-2.0, 2.0)}),
        (1e-2, {"accumulator_dtype": "bfloat16"}),
    ]:
        assert np.max(np.abs(end("float32", **options) - expected)) < limit


@both_forms
@pytest.mark.parametrize("zero", ["b1", "b2", "eps"])
def test_steps_with_a_number_of_0(form, zero):
    grads = jnp.array([[0.0, 0.0], [0.0, 3.0], [0.0, 0.0], [1.0, -2.0]])
    optimizer = FORMS[form](0.1, **{zero: 0})
    _, updates, state = reference.run(
        optimizer, jnp.array([0.5, -0.5]), lambda t, _: grads[t], len(grads)
    )
    chex.assert_tree_all_finite(state)
    np.testing.assert_array_equal(np.sign(updates), -np.sign(grads))


@pytest.mark.parametrize("form", ["delta", "leader", "box"])
def test_learning_rate_0_moves_nothing_and_later_steps_are_right(x64, form):
    """What a box holds stays at its bound when the schedule restarts."""
    rng = np.random.default_rng(0)
    theta, grads = 0.1 * rng.normal(size=4), 1 + rng.normal(size=(20, 4))
    rates = np.full((5, 20), 0.1)
    for row, zeros in enumerate([[0], [3], [0, 1, 2], [2, 15], [19]]):
        rates[row, zeros] = 0
    make = {**FORMS, "box": BOX}[form]

    def with_rates(rates):
        optimizer = make(lambda t: rates[t])
        return reference.trajectory(optimizer, jnp.asarray(theta), grads)

    actual = jax.jit(jax.vmap(with_rates))(jnp.asarray(rates))
    moves = np.diff(actual, axis=1, prepend=np.broadcast_to(theta, (5, 1, 4)))
    assert not np.any(moves[rates == 0])
    assert form == "box" or np.all(moves[rates != 0])
    # The recursion itself divides by 0; this is near its limit.
    expected = reference.dvz(
        np.broadcast_to(theta, (5, 4)),
        grads,
        np.maximum(rates, 1e-8).T[:, :, None],
        np.full(20, 0.6),
        prox=lambda x, s: np.clip(x, -0.2, 0.2) if form == "box" else x,
    )
    np.testing.assert_allclose(actual, expected.swapaxes(0, 1), atol=1e-6)
