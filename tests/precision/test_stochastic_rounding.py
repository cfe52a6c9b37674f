"""Stochastic rounding: neighbours only, no bias, no correlation."""

import functools
import math
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ftml
from optax_ftml._precision import _stochastic_rounding

LOW = ("bfloat16", "float16")
PAIRS = pytest.mark.parametrize(
    ("dtype", "u_dtype"),
    [(low, u_dtype) for low in LOW for u_dtype in (low, "float32")],
)
EVENLY = np.arange(0, 2**32, 2**23, dtype=np.uint32)  # 512 words.


def finite_numbers(dtype):
    """All finite numbers of a dtype, in order."""
    numbers = np.arange(2**16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):  # Of NaN.
        numbers = numbers.astype(np.float64)
    return np.unique(numbers[np.isfinite(numbers)])


def assert_unbiased(draws, x, dtype):
    """Row by row, draws are x's neighbours and in the mean x."""
    draws, numbers = np.asarray(draws).astype(np.float64), finite_numbers(dtype)
    low = numbers[np.searchsorted(numbers, x, side="right") - 1][:, None]
    high = numbers[np.searchsorted(numbers, x)][:, None]
    assert np.all((draws == low) | (draws == high))
    error = np.abs(draws.mean(axis=1) - x)
    assert np.all(error <= 1.01 * (high - low)[:, 0] / len(EVENLY))


@pytest.fixture
def evenly(monkeypatch):
    """Every row of a leaf is drawn with evenly spread words."""

    def words(seed, count, tree, path, like):
        return jnp.broadcast_to(EVENLY, like.shape)

    monkeypatch.setattr(_stochastic_rounding, "_random_words", words)


def moved(theta, u):
    """Where the transformation and optax.apply_updates take parameters."""

    @jax.jit
    def step(params, u):
        optimizer = optax_ftml.stochastic_rounding()
        updates, _ = optimizer.update(u, optimizer.init(params), params)
        assert updates.dtype == u.dtype
        return optax.apply_updates(params, updates)

    after = np.asarray(step(theta, u))
    assert after.dtype == theta.dtype
    return after


@PAIRS
def test_the_expected_step_is_exact(dtype, u_dtype, evenly):
    rng, numbers = np.random.default_rng(0), finite_numbers(dtype)
    info = jnp.finfo(dtype)
    largest, eps = float(info.max), float(info.eps)
    # XLA's CPU flushes subnormal float32 numbers to zero.
    numbers = numbers[abs(numbers) >= 2.0**-126]
    theta = rng.choice(np.r_[numbers, np.zeros(numbers.size // 10)], 5_000)
    size = np.where(abs(theta) < 2.0**-80, theta == 0, abs(theta))
    u = rng.choice([-1, 1], 5_000) * 2 ** rng.uniform(-12, 4, 5_000) * size
    u = np.clip(u, -largest / 256, largest / 256).astype(u_dtype)
    theta = theta.astype(dtype)
    draws = moved(*(np.tile(x[:, None], len(EVENLY)) for x in (theta, u)))
    theta, wide_u = theta.astype(np.float32), u.astype(np.float32)
    # A step beyond the largest number ends there.
    x = np.clip(theta + wide_u, -largest, largest).astype(np.float64)
    is_exact = (u_dtype == "float32") | (abs(wide_u) <= abs(theta) / 2)
    assert_unbiased(draws[is_exact], x[is_exact], dtype)
    # Farther, an update in a low precision is rounded as it was.
    error = np.max(abs(draws.astype(np.float64) - x[:, None]), axis=1)
    size = np.maximum(abs(x), abs(wide_u)) + float(info.smallest_normal)
    assert np.all(error[~is_exact] <= 2 * eps * size[~is_exact])


@pytest.mark.parametrize("prox", [None, lambda leader, step_size: leader])
def test_ftml_rounds_v_and_uses_it_unrounded(prox, evenly):
    wide = optax_ftml.ftml(0.1, prox=prox)
    low = optax_ftml.ftml(0.1, accumulator_dtype=jnp.bfloat16, prox=prox)
    g = np.r_[0.0, 2 ** np.random.default_rng(0).uniform(-40, 60, 200)]
    rows = np.r_[g, np.inf, np.nan]
    grads = np.tile(np.float32(rows)[:, None], len(EVENLY))
    params = np.zeros_like(grads)
    (updates, state), (low_updates, low_state) = (
        jax.jit(optimizer.update)(grads, optimizer.init(params), params)
        for optimizer in (wide, low)
    )
    np.testing.assert_array_equal(low_updates, updates)
    v, low_v = (optax.tree.get(x, "v") for x in (state, low_state))
    assert_unbiased(low_v[:-2], np.float64(v[:-2, 0]), "bfloat16")
    np.testing.assert_array_equal(low_v[-2:].astype(float), v[-2:])


@PAIRS
def test_infinities_and_nan(dtype, u_dtype):
    inf, nan = np.inf, np.nan
    params = np.array([1, 1, 1, inf, -inf, nan, inf], dtype)
    u = np.array([inf, -inf, nan, 0, 1, 0, -inf], u_dtype)
    expected = np.array([inf, -inf, nan, inf, -inf, nan, nan])
    np.testing.assert_array_equal(moved(params, u).astype(float), expected)


@functools.partial(jax.jit, static_argnames=("kind", "leaf"))
def words(kind, like, seed=0, count=1, leaf="w"):
    """The random words of a leaf, as each kind of platform makes them."""
    with mock.patch.object(
        jax.lax, "platform_dependent", lambda **makers: makers[kind]()
    ):
        path = (jax.tree_util.DictKey(leaf),)
        return _stochastic_rounding._random_words(seed, count, "v", path, like)


KINDS = pytest.mark.parametrize("kind", ["cpu", "default"])


@KINDS
def test_bits_are_fair_and_uncorrelated(kind):
    """Over many steps, those of any two positions, leaves and seeds."""
    steps, like = jnp.arange(4000), jnp.zeros((2, 8))
    over_steps = jax.vmap(words, (None, None, None, 0, None))
    drawn = [
        over_steps(kind, like, seed, steps, leaf)
        for seed, leaf in [(0, "w"), (1, "w"), (0, "x")]
    ]
    drawn = np.stack(drawn, axis=1).astype("<u4").reshape(4000, -1)
    bits = np.unpackbits(drawn.view(np.uint8), axis=1)
    bits = 2 * bits.astype(np.float32) - 1
    # 1,536 bits, and as many pairs of them as that squared: 6.5 sigma.
    limit = 6.5 / np.sqrt(4000)
    assert np.max(np.abs(bits.mean(axis=0))) < limit
    correlation = bits.T @ bits / 4000 - np.eye(bits.shape[1])
    assert np.max(np.abs(correlation)) < limit
    correlation = bits[1:].T @ bits[:-1] / 4000  # With the step before.
    assert np.max(np.abs(correlation)) < limit


@pytest.mark.parametrize("shape", [(80, 8192, 28672), (2**31, 4)])
def test_positions_do_not_repeat_in_leaves_of_more_than_2_to_the_32(shape):
    size = math.prod(shape)
    flat = np.random.default_rng(0).integers(0, size, 20_000, dtype=np.uint64)
    near = [(flat + np.uint64(d)) % size for d in (0, 1, 2**31, 2**32)]
    flat = np.unique(np.concatenate([*near, [0, size - 1]]))
    coordinates = np.unravel_index(flat.astype(np.int64), shape)
    digits, total = _stochastic_rounding._position(
        list(map(np.uint32, coordinates)), shape
    )
    pairs = digits.astype(np.uint64) << np.uint64(32) | total
    assert np.unique(pairs).size == flat.size


@pytest.mark.usefixtures("eight_devices")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@KINDS
def test_sharding_changes_no_word(kind, axis_type):
    like = jnp.zeros((4, 8, 16))
    expected = np.asarray(words(kind, like))
    assert np.unique(expected).size == expected.size
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(like, NamedSharding(mesh, P("x", None, "y")))
        np.testing.assert_array_equal(words(kind, sharded), expected)


@pytest.mark.parametrize("prox", [None, lambda leader, step_size: leader])
def test_a_run_depends_on_the_seed_and_the_leaf_s_path_alone(prox):
    def run(seed, params):
        low = {"accumulator_dtype": jnp.bfloat16, "prox": prox}
        optimizer = optax.chain(
            optax_ftml.ftml(1e-3, seed=seed, **low),
            optax.inject_hyperparams(optax_ftml.stochastic_rounding)(seed),
        )
        state = optimizer.init(params)
        grads = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return params, optax.tree.get(state, "v")

    w = jnp.ones((64, 64), jnp.bfloat16)
    together = {"w": w, "a": w}
    seeds = jnp.arange(3)
    many = jax.jit(jax.vmap(run, (0, None)))(seeds, together)
    again = jax.jit(lambda params: run(2, params))({"w": w})
    if prox:  # It has rounded the step itself; v is what is random.
        many, again = many[1:], again[1:]
    for runs, one in zip(many, again, strict=True):
        np.testing.assert_array_equal(runs["w"][2], one["w"])
        for other in (runs["w"][1], runs["a"][2]):
            assert np.mean(np.asarray(other != one["w"])) > 0.05


@pytest.mark.parametrize("seed", [2**70, -1, np.int64(2**20)])
def test_leaves_of_any_shape_and_dtype_and_any_integer_as_seed(seed):
    params = {
        "half": jnp.ones((), jnp.float16),
        "empty": jnp.ones((0, 3), jnp.bfloat16),
        "wide": jnp.ones(3),
        "complex": jnp.ones((1, 2, 3), jnp.complex64),
    }
    optimizer = optax_ftml.stochastic_rounding(seed)
    state = optimizer.init(params)
    updates, after = optimizer.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert after.count == 1
    chex.assert_trees_all_equal(updates, params)
    with pytest.raises(ValueError, match="params must be given"):
        optimizer.update(params, state)


@pytest.mark.parametrize("seed", [0.5, "0", None])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="seed must be an integer, got"):
        optax_ftml.stochastic_rounding(seed)
