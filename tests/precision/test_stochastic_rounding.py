"""Stochastic rounding: neighbours only, no bias, no correlation."""

import functools
import math
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ftml
from optax_ftml._precision import _stochastic_rounding

LOW = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
PAIRS = pytest.mark.parametrize(
    ("dtype", "u_dtype"),
    [(low, u_dtype) for low in LOW for u_dtype in (low, "float32")],
)
EVENLY = np.arange(0, 2**32, 2**23, dtype=np.uint32)  # 512 words.
EDGES = {  # Parameters and steps.
    "float16": [
        (2.0**-14, -(2.0**-26)),  # from the smallest normal number
        (2.0**-24, 2.0**-26),  # from the smallest of all
        (65504.0, -3.0),  # from the largest
        (1.0, -0.999),
        (0.0, -1e-5),
    ],
    "bfloat16": [
        (2.0**-100, 2.0**-110 / 3),
        (3.3895313892515355e38, -1e35),
        (3.0, -3.001),  # to the other side of zero
        (1.0, 2**-9),  # a tie
        (1.0, -1e-3),  # into the binade below, where the gap is half as wide
    ],
}


def neighbours(x, dtype):
    """The numbers of a dtype on either side of x, among all of them."""
    numbers = np.arange(2**16, dtype=np.uint16).view(LOW[dtype])
    with np.errstate(invalid="ignore"):  # Of NaN.
        numbers = numbers.astype(np.float64)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    above = numbers[np.searchsorted(numbers, x)]
    below = numbers[np.searchsorted(numbers, x, side="right") - 1]
    return below, above


def assert_unbiased(draws, x, dtype):
    """Row by row, draws are x's neighbours and in the mean x."""
    draws = np.asarray(draws).astype(np.float64)
    low, high = (n[:, None] for n in neighbours(x, dtype))
    assert np.all((draws == low) | (draws == high))
    error = np.abs(draws.mean(axis=1) - x)
    assert np.all(error <= 1.01 * (high - low)[:, 0] / len(EVENLY))


@pytest.fixture
def evenly(monkeypatch):
    """Every row of a leaf is drawn with evenly spread words."""
    monkeypatch.setattr(
        _stochastic_rounding,
        "_random_words",
        lambda seed, count, tree, path, like: jnp.broadcast_to(
            EVENLY, like.shape
        ),
    )


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
    rng = np.random.default_rng(0)
    n = 5_000
    theta = rng.choice([-1, 1, 1, 1, 0], n) * 2 ** rng.uniform(-4, 3, n)
    u = rng.choice([-1, 1], n) * 2 ** rng.uniform(-12, 4, n)
    edges = np.transpose(EDGES[dtype])
    theta = np.r_[theta, edges[0]].astype(LOW[dtype])
    u = np.r_[u, edges[1]].astype(u_dtype)
    draws = moved(*(np.tile(x[:, None], len(EVENLY)) for x in (theta, u)))
    theta, wide_u = theta.astype(np.float32), u.astype(np.float32)
    x = (theta + wide_u).astype(np.float64)
    is_exact = (u_dtype == "float32") | (abs(wide_u) <= abs(theta) / 2)
    assert_unbiased(draws[is_exact], x[is_exact], dtype)
    # Farther, an update in a low precision is rounded as it was.
    eps = float(ml_dtypes.finfo(LOW[dtype]).eps)
    error = np.abs(draws.astype(np.float64) - x[:, None])
    size = 2 * np.maximum(abs(x), abs(wide_u))[:, None]
    assert np.all(error[~is_exact] <= eps * size[~is_exact])


@pytest.mark.parametrize("prox", [None, lambda leader, step_size: leader])
def test_ftml_rounds_v_and_uses_it_unrounded(prox, evenly):
    wide = optax_ftml.ftml(0.1, prox=prox)
    low = optax_ftml.ftml(0.1, accumulator_dtype=jnp.bfloat16, prox=prox)
    g = np.r_[0.0, 2 ** np.random.default_rng(0).uniform(-40, 60, 200)]
    rows = np.r_[g, np.inf, np.nan]
    grads = np.tile(np.float32(rows)[:, None], len(EVENLY))
    params = np.zeros_like(grads)
    updates, state = jax.jit(wide.update)(grads, wide.init(params), params)
    low_updates, state_of_low = jax.jit(low.update)(
        grads, low.init(params), params
    )
    np.testing.assert_array_equal(low_updates, updates)
    v, low_v = (optax.tree.get(x, "v") for x in (state, state_of_low))
    assert_unbiased(low_v[:-2], np.float64(v[:-2, 0]), "bfloat16")
    np.testing.assert_array_equal(low_v[-2:].astype(float), v[-2:])


@PAIRS
def test_infinities_nan_and_steps_of_zero(dtype, u_dtype):
    inf, nan, largest = np.inf, np.nan, ml_dtypes.finfo(LOW[dtype]).max
    params = np.array([1, 1, 1, inf, -inf, nan, 0, 1, inf, largest])
    u = np.array([inf, -inf, nan, 0, 1, 0, 0, 0, -inf, largest / 256])
    after = moved(params.astype(LOW[dtype]), u.astype(u_dtype))
    expected = [inf, -inf, nan, inf, -inf, nan, 0, 1, nan, largest]
    np.testing.assert_array_equal(after.astype(float), np.float64(expected))

    numbers = np.arange(2**16, dtype=np.uint16).view(LOW[dtype])
    wide = numbers.astype(np.float32)
    # XLA's CPU flushes subnormal float32 numbers to zero.
    params = numbers[~np.isnan(wide) & (abs(wide) >= 2.0**-126)]
    after = moved(params, np.zeros(params.shape, u_dtype))
    np.testing.assert_array_equal(after, params)


@functools.partial(jax.jit, static_argnames=("kind", "leaf"))
def words(kind, like, seed=0, count=1, leaf="w"):
    """The random words of a leaf, as each kind of platform makes them."""
    with mock.patch.object(
        jax.lax, "platform_dependent", lambda **makers: makers[kind]()
    ):
        path = (jax.tree_util.DictKey(leaf),)
        return _stochastic_rounding._random_words(seed, count, "v", path, like)


def bits_of(x):
    """The 32 bits of each word, as -1 and 1."""
    x = np.asarray(x).astype("<u4").reshape(-1, 1)
    return 2 * np.unpackbits(x.view(np.uint8), axis=1).astype(np.float32) - 1


KINDS = pytest.mark.parametrize("kind", ["cpu", "default"])


@KINDS
def test_bits_are_fair_and_uncorrelated(kind):
    """Over many steps, those of any two positions, leaves and seeds."""
    steps, like = jnp.arange(4000), jnp.zeros((4, 8))
    drawn = [
        jax.vmap(
            lambda count, seed=seed, leaf=leaf: words(
                kind, like, seed=seed, count=count, leaf=leaf
            )
        )(steps)
        for seed, leaf in [(0, "w"), (1, "w"), (0, "x")]
    ]
    bits = bits_of(np.stack(drawn, axis=1)).reshape(4000, -1)
    # 3,072 bits, and as many pairs of them as that squared: 6.5 sigma.
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
        for spec in [P("x", None, "y"), P(None, ("y", "x")), P()]:
            sharded = jax.device_put(like, NamedSharding(mesh, spec))
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
        for _ in range(2):
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


@pytest.mark.parametrize("seed", [2**32 - 1, 2**70, -1, np.int64(2**20)])
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


def test_errors():
    for seed in (0.5, "0", None):
        with pytest.raises(TypeError, match="seed must be an integer, got"):
            optax_ftml.stochastic_rounding(seed)
    optimizer = optax_ftml.stochastic_rounding()
    params = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="params must be given"):
        optimizer.update(params, optimizer.init(params))
