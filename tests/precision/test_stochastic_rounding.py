"""Stochastic rounding: neighbours only, no bias, no correlation."""

import math
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml._precision import _stochastic_rounding

DRAWS = 200_000
LOW = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def neighbours(x, dtype):
    """The numbers of a dtype on either side of x, by bisecting all of them."""
    info = ml_dtypes.finfo(dtype)
    numbers = np.arange(2**16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        numbers = np.unique(numbers.astype(np.float64))
    numbers = numbers[np.isfinite(numbers)]
    index = np.searchsorted(numbers, x)
    if x > float(info.max):
        return numbers[-1], np.inf
    below = numbers[index] if numbers[index] == x else numbers[index - 1]
    return below, numbers[index]


def assert_unbiased(draws, x, dtype):
    """Every draw is one of x's neighbours, and their mean is x."""
    low, high = neighbours(x, dtype)
    draws = np.asarray(draws).astype(np.float64)
    assert np.all((draws == low) | (draws == high)), np.unique(draws)
    if low == high:
        return
    p = (x - low) / (high - low)
    standard_error = np.sqrt(p * (1 - p) / draws.size)
    assert abs(np.mean(draws == high) - p) <= 5 * standard_error, (x, p)


@jax.jit
def _step(params, u):
    optimizer = optax_ftml.stochastic_rounding()
    updates, _ = optimizer.update(u, optimizer.init(params), params)
    assert updates.dtype == u.dtype
    return optax.apply_updates(params, updates)


def _draw(theta, u, dtype):
    """Many parameters take the same step."""
    params = np.full((1000, DRAWS // 1000), theta, LOW[dtype])
    assert float(params[0, 0]) == theta
    return _step(params, np.full(params.shape, u, np.float32))


STEPS = [
    (1.0, 1e-3),
    (1.0, -1e-3),  # into the binade below, where the gap is half as wide
    (-1.0, 1e-9),  # lost in a float32 sum
    (1.0, -0.999),
    (1.5, 100.3),  # far
    (3.0, -3.001),  # to the other side of zero
    (0.0, -1e-5),
    (1.0, 2**-9),  # a tie in bfloat16
    (-2.0, -(2**-10)),  # a tie in float16
    (1.0, 0.0),
    (1.0, 0.5),  # a number of the dtype
]
EDGES = {
    "float16": [
        (2.0**-14, -(2.0**-26)),  # from the smallest normal number
        (2.0**-24, 2.0**-26),  # from the smallest of all
        (65504.0, -3.0),  # from the largest
        (65504.0, 3.0),
    ],
    "bfloat16": [
        (2.0**-100, 2.0**-110 / 3),
        (3.3895313892515355e38, -1e35),
        (3.3895313892515355e38, 1e35),
    ],
}


@pytest.mark.parametrize("dtype", LOW)
def test_parameters_step_to_neighbours_without_bias(dtype):
    for theta, u in STEPS + EDGES[dtype]:
        draws = _draw(theta, u, dtype)
        x = theta + float(np.float32(u))
        if x > float(
            ml_dtypes.finfo(LOW[dtype]).max
        ):  # It ends at the largest.
            assert np.all(np.asarray(draws) == LOW[dtype](theta))
        else:
            assert_unbiased(draws, x, LOW[dtype])


@pytest.mark.parametrize("dtype", LOW)
def test_updates_in_low_precision_lead_where_they_should(dtype):
    # Each of many different steps is drawn with evenly spread words.
    rng = np.random.default_rng(0)
    n, words = 10_000, np.arange(0, 2**32, 2**23, dtype=np.uint32)
    theta = np.ldexp(rng.uniform(0.5, 1, n), rng.integers(-3, 3, n))
    theta = np.where(rng.random(n) < 0.1, 0, theta)
    u = np.ldexp(rng.uniform(-1, 1, n), rng.integers(-12, 4, n))
    theta, u = theta.astype(LOW[dtype])[:, None], u.astype(LOW[dtype])[:, None]

    @jax.jit
    def move(theta, u, words):
        step = _stochastic_rounding._round_step(theta, u, words)
        return step, optax.apply_updates(theta, step)

    shape = (n, len(words))
    step, moved = move(
        *(np.broadcast_to(x, shape) for x in (theta, u, words[None]))
    )
    assert step.dtype == dtype
    moved = np.asarray(moved).astype(np.float64)
    x = theta.astype(np.float64) + u.astype(np.float64)
    low, high = (f(moved, 1, keepdims=True) for f in (np.min, np.max))
    assert np.all((moved == low) | (moved == high))
    # All words together miss the expectation by one of them at most, and with
    # fewer than one to expect there is but one number.
    eps = float(ml_dtypes.finfo(LOW[dtype]).eps)
    size = np.maximum(abs(x), abs(u.astype(np.float64)))
    gap = np.maximum(high - low, 2 * eps * size)
    error = np.abs(moved.mean(1, keepdims=True) - x)
    assert np.all(error <= 1.01 * gap / len(words) + 1e-9)
    # Up to twice the parameter they are neighbours.
    for i in np.flatnonzero(abs(u) <= abs(theta) / 2)[:300]:
        low_i, high_i = neighbours(x[i, 0], LOW[dtype])
        assert low_i <= low[i, 0] <= high[i, 0] <= high_i


@pytest.mark.parametrize("u_dtype", ["low", "float32"])
@pytest.mark.parametrize("dtype", LOW)
def test_infinities_nan_and_zeros(dtype, u_dtype):
    inf, nan = jnp.inf, jnp.nan
    params = jnp.array([1, 1, 1, inf, -inf, nan, 0, 1, inf], dtype)
    u_dtype = dtype if u_dtype == "low" else jnp.float32
    u = jnp.array([inf, -inf, nan, 0, 1, 0, 0, 0, -inf], u_dtype)
    after = _step(params, u)
    assert after.dtype == dtype
    np.testing.assert_array_equal(
        np.asarray(after, np.float32),
        np.float32([inf, -inf, nan, inf, -inf, nan, 0, 1, nan]),
    )


@pytest.mark.parametrize("u_dtype", ["low", "float32"])
@pytest.mark.parametrize("dtype", LOW)
def test_never_moves_a_parameter_whose_update_is_zero(dtype, u_dtype):
    numbers = np.arange(2**16, dtype=np.uint16).view(LOW[dtype])
    wide = numbers.astype(np.float32)
    # XLA's CPU flushes subnormal float32 numbers to zero.
    params = numbers[~np.isnan(wide) & (abs(wide) >= 2.0**-126)]
    u = jnp.zeros(params.shape, dtype if u_dtype == "low" else u_dtype)
    np.testing.assert_array_equal(np.asarray(_step(params, u)), params)


@pytest.mark.parametrize(
    "v",
    [
        1.0,
        1 + 2**-9,
        3.3e-5,
        1e-30,
        3.38e38,
        3.4e38,  # beyond bfloat16's largest number
        0.0,
        np.inf,
        np.nan,
    ],
)
def test_v_rounds_to_neighbours_without_bias(v):
    x = np.full((1000, DRAWS // 1000), v, np.float32)
    rounded = _stochastic_rounding.cast_like(
        x, jnp.zeros(x.shape, jnp.bfloat16), 0, jnp.int32(1)
    )
    assert rounded.dtype == jnp.bfloat16
    if v == 3.4e38:
        assert np.all(np.asarray(rounded) == ml_dtypes.finfo("bfloat16").max)
    elif np.isfinite(v):
        assert_unbiased(rounded, float(x[0, 0]), ml_dtypes.bfloat16)
    else:
        np.testing.assert_array_equal(np.asarray(rounded, np.float32), x)


@pytest.mark.parametrize("b2", [0.999, 0.5])
def test_ftml_rounds_v_and_uses_it_unrounded(b2):
    wide = optax_ftml.ftml(0.1, b2=b2)
    low = optax_ftml.ftml(0.1, b2=b2, accumulator_dtype=jnp.bfloat16)
    shape = (1000, DRAWS // 1000)
    params, grads = jnp.ones(shape), jnp.full(shape, 0.7)
    updates, state = jax.jit(wide.update)(grads, wide.init(params))
    low_updates, low_state = jax.jit(low.update)(grads, low.init(params))
    np.testing.assert_array_equal(low_updates, updates)
    v = float(state[0].v[0, 0])
    assert_unbiased(low_state[0].v, v, ml_dtypes.bfloat16)


def _words(kind, seed, count, path, shape):
    """The random words, as each platform makes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            jax.lax, "platform_dependent", lambda **makers: makers[kind]()
        )
        return np.asarray(
            _stochastic_rounding._random_words(
                seed, count, "v", path, np.zeros(shape)
            )
        )


def _correlations(a, b):
    """Correlation of every bit of a with every bit of b, (32, 32)."""
    a, b = (
        np.unpackbits(x.astype("<u4").reshape(-1, 1).view(np.uint8), axis=1)
        for x in (a, b)
    )
    a, b = (2 * x.astype(np.float32) - 1 for x in (a, b))
    return a.T @ b / len(a)


@pytest.mark.parametrize("kind", ["cpu", "default"])
@pytest.mark.parametrize("shape", [(200, 300), (3, 3, 32, 128), (60_000,)])
def test_bits_are_fair_and_uncorrelated(kind, shape):
    path = (jax.tree_util.DictKey("w"),)
    words = _words(kind, 0, 1, path, shape)
    n = words.size
    bits = np.unpackbits(words.astype("<u4").reshape(-1, 1).view(np.uint8), 1)
    # 32 bits, or 1,024 pairs of them, are compared at once: 6 sigma.
    limit = 6 / np.sqrt(n)
    assert np.max(np.abs(2 * bits.mean(axis=0) - 1)) < limit
    others = {
        "next step": _words(kind, 0, 2, path, shape),
        "next seed": _words(kind, 1, 1, path, shape),
        "next leaf": _words(kind, 0, 1, (jax.tree_util.DictKey("x"),), shape),
    }
    for axis in range(len(shape)):
        others[f"next along axis {axis}"] = np.roll(words, 1, axis)
    for name, other in others.items():
        assert np.max(np.abs(_correlations(words, other))) < limit, name
    # Two bits of the same word.
    among = _correlations(words, words) - np.eye(32)
    assert np.max(np.abs(among)) < limit
    # Values, not bits, a row and a column apart at once.
    if len(shape) == 2:
        centred = words / 2.0**32 - 0.5
        product = np.mean(centred[1:, 1:] * centred[:-1, :-1]) * 12
        assert abs(product) < limit


@pytest.mark.parametrize("kind", ["cpu", "default"])
def test_any_two_of_the_words_are_independent(kind):
    # Over many steps: pairs of positions, also the far corners of rectangles.
    path = (jax.tree_util.DictKey("w"),)
    words = np.stack(
        [_words(kind, 0, count, path, (8, 16)) for count in range(2000)]
    )
    high = (words >> 31).reshape(2000, -1) * 2.0 - 1
    correlation = high.T @ high / 2000
    np.fill_diagonal(correlation, 0)
    assert np.max(np.abs(correlation)) < 6 / np.sqrt(2000)


@pytest.mark.parametrize("kind", ["cpu", "default"])
@pytest.mark.parametrize("shape", [(), (7,), (5, 8), (3, 4, 2, 5), (0, 3)])
def test_leaves_of_any_shape_have_words(shape, kind):
    words = _words(kind, 3, 9, (), shape)
    assert words.shape == shape
    assert np.unique(words).size == words.size


@pytest.mark.parametrize(
    "shape", [(80, 8192, 28672), (3, 2**16, 2**17), (2**31, 4), (2, 2**32 - 1)]
)
def test_positions_do_not_repeat_in_leaves_of_more_than_2_to_the_32(shape):
    rng = np.random.default_rng(0)
    size = math.prod(shape)
    flat = rng.integers(0, size, 100_000, dtype=np.uint64)
    neighbours = [(flat + np.uint64(d)) % size for d in (0, 1, 2**31, 2**32)]
    flat = np.unique(np.concatenate([*neighbours, [0, size - 1]]))
    coordinates = [
        np.uint32(x) for x in np.unravel_index(flat.astype(np.int64), shape)
    ]
    words = np.stack(_stochastic_rounding._position(coordinates, shape))
    assert words.dtype == np.uint32
    assert np.unique(words, axis=1).shape == (2, flat.size)


def test_sharding_changes_no_word():
    subprocess.run(
        [sys.executable, "-m", "tests.programs.sharded_words"],
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )


def _both(seed=0):
    return optax.chain(
        optax_ftml.ftml(1e-3, accumulator_dtype=jnp.bfloat16, seed=seed),
        optax_ftml.stochastic_rounding(seed),
    )


def _run(optimizer, params, steps=20):
    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for t in range(steps):
        grads = jax.tree.map(
            lambda p, t=t: (
                np.random.default_rng(t).normal(size=p.shape).astype(p.dtype)
            ),
            params,
        )
        params, state = step(params, state, grads)
    return params, state


def test_the_same_seed_gives_the_same_run_and_another_another():
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    first, again = _run(_both(), params), _run(_both(), params)
    chex.assert_trees_all_equal(first, again)
    other = _run(_both(seed=1), params)
    assert np.mean(np.asarray(first[0]["w"] != other[0]["w"])) > 0.1


def test_a_leaf_does_not_depend_on_the_other_leaves():
    w = jnp.ones((64, 64), jnp.bfloat16)
    together = _run(_both(), {"w": w, "a": w, "z": [w, w]})[0]
    alone = _run(_both(), {"w": w})[0]
    chex.assert_trees_all_equal(together["w"], alone["w"])
    assert not np.array_equal(together["w"], together["a"])


def test_seed_may_be_injected_and_mapped_over():
    params = {"w": jnp.ones((16, 16), jnp.bfloat16)}
    plain = _run(optax_ftml.stochastic_rounding(3), params)[0]
    injected = optax.inject_hyperparams(optax_ftml.stochastic_rounding)(3)
    chex.assert_trees_all_equal(_run(injected, params)[0], plain)
    many = jax.vmap(
        lambda seed: _run(optax_ftml.stochastic_rounding(seed), params)[0]
    )(jnp.arange(4))
    np.testing.assert_array_equal(many["w"][3], plain["w"])


def test_state_and_updates_keep_their_dtypes():
    params = {
        "low": jnp.ones((4, 4), jnp.bfloat16),
        "half": jnp.ones((), jnp.float16),
        "empty": jnp.ones((0, 3), jnp.bfloat16),
        "wide": jnp.ones(3),
        "complex": jnp.ones(3, jnp.complex64),
    }
    optimizer = _both()
    state = optimizer.init(params)
    updates, after = optimizer.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        optax.apply_updates(params, updates), params
    )


def test_errors():
    for seed in (0.5, "0", None):
        with pytest.raises(TypeError, match="seed must be an integer, got"):
            optax_ftml.stochastic_rounding(seed)
    optimizer = optax_ftml.stochastic_rounding()
    params = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="params must be given"):
        optimizer.update(params, optimizer.init(params))
