"""Both forms against the textbook recursion, and the paper's relations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference

STEPS = 10_000


def identity(leader, step_size):
    del step_size
    return leader


def trajectory(optimizer, theta, grads):
    """Returns the parameters after each step, (steps, *theta.shape)."""

    def step(carry, g):
        theta, state = carry
        updates, state = optimizer.update(g, state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), theta

    return jax.jit(
        lambda theta, grads: jax.lax.scan(
            step, (theta, optimizer.init(theta)), grads
        )[1]
    )(theta, grads)


def problem(shape, seed=0):
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-3, 3, size=shape)
    return rng.normal(size=shape), rng.normal(size=(STEPS, *shape)) * scales


def relative_error(actual, expected):
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


def constant(value):
    return np.full(STEPS, value)


COSINE = optax.cosine_decay_schedule(0.01, STEPS, alpha=0.01)
CHANGING_B1 = 0.6 + 0.35 * np.sin(np.arange(STEPS) / 100)


@pytest.mark.parametrize("prox", [None, identity], ids=["delta", "leader"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize(
    "schedule", [0.0025, COSINE], ids=["constant", "cosine"]
)
def test_equals_textbook(x64, prox, shape, schedule):
    theta, grads = problem(shape)
    learning_rates = (
        np.asarray(jax.vmap(schedule)(jnp.arange(STEPS)))
        if callable(schedule)
        else constant(schedule)
    )
    expected = reference.dvz(theta, grads, learning_rates, constant(0.6))
    actual = trajectory(optax_ftml.ftml(schedule, prox=prox), theta, grads)
    assert actual.dtype == jnp.float64
    assert relative_error(actual, expected) < 1e-11


@pytest.mark.parametrize("prox", [None, identity], ids=["delta", "leader"])
@pytest.mark.parametrize(
    ("transforms", "rule"),
    [
        (
            [optax.add_decayed_weights(0.01)],
            lambda g, theta: g + 0.01 * theta,
        ),
        ([optax.clip(0.5)], lambda g, theta: np.clip(g, -0.5, 0.5)),
        (
            [optax.clip_by_global_norm(1.0)],
            lambda g, theta: g * min(1, 1 / np.linalg.norm(g)),
        ),
        (
            [
                optax.scale(0.125),
                optax.clip_by_global_norm(0.1),
                optax.add_decayed_weights(0.001),
            ],
            lambda g, theta: (
                g * 0.125 * min(1, 0.8 / np.linalg.norm(g)) + 0.001 * theta
            ),
        ),
    ],
    ids=["l2", "clip", "clip_by_global_norm", "all"],
)
def test_equals_textbook_in_chains(x64, prox, transforms, rule):
    theta, grads = problem((7,))
    expected = reference.dvz(
        theta, grads, constant(0.002), constant(0.6), gradient_rule=rule
    )
    optimizer = optax.chain(*transforms, optax_ftml.ftml(0.002, prox=prox))
    assert relative_error(trajectory(optimizer, theta, grads), expected) < 1e-11


@pytest.mark.parametrize("prox", [None, identity], ids=["delta", "leader"])
def test_equals_textbook_with_changing_b1(x64, prox):
    theta, grads = problem((4,))
    expected = reference.dvz(
        theta, grads, constant(0.0025), CHANGING_B1, eps=1e-3, eps_root=1e-4
    )
    b1s = jnp.asarray(CHANGING_B1)
    optimizer = optax.inject_hyperparams(
        optax_ftml.ftml, static_args=("prox", "seed")
    )(0.0025, b1=lambda count: b1s[count], eps=1e-3, eps_root=1e-4, prox=prox)
    assert relative_error(trajectory(optimizer, theta, grads), expected) < 1e-11


@pytest.mark.parametrize(
    ("learning_rate", "b1s"),
    [(0.0025, constant(0.6)), (COSINE, CHANGING_B1)],
    ids=["constant", "changing"],
)
def test_box_equals_projected_textbook(x64, learning_rate, b1s):
    theta, grads = problem((9,))
    theta = np.clip(theta, -0.3, 0.2)
    if callable(learning_rate):
        learning_rates = np.asarray(jax.vmap(learning_rate)(jnp.arange(STEPS)))
    else:
        learning_rates = constant(learning_rate)
    expected = reference.dvz(
        theta,
        grads,
        learning_rates,
        b1s,
        project=lambda theta: np.clip(theta, -0.3, 0.2),
    )
    assert np.mean(np.isin(expected, (-0.3, 0.2))) > 0.01  # It binds.
    b1s = jnp.asarray(b1s)
    optimizer = optax.inject_hyperparams(
        optax_ftml.ftml, static_args=("prox", "seed")
    )(
        learning_rate,
        b1=lambda count: b1s[count],
        prox=optax_ftml.prox.box(-0.3, 0.2),
    )
    actual = trajectory(optimizer, theta, grads)
    # Absolute, as the parameters stay of the order of the box.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("prox", [None, identity], ids=["delta", "leader"])
def test_float32_stays_close_to_float64(prox):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=50).astype(np.float32)
    grads = rng.normal(size=(STEPS, 50)).astype(np.float32)
    expected = reference.dvz(theta, grads, constant(0.0025), constant(0.6))
    actual = trajectory(optax_ftml.ftml(0.0025, prox=prox), theta, grads)
    assert actual.dtype == jnp.float32
    assert 0.5 < np.max(np.abs(expected)) < 5
    assert np.max(np.abs(actual - expected)) < 2e-5


def test_complex_equals_textbook_with_a_real_v(x64):
    theta, grads = problem((2, 6))
    complex_theta, complex_grads = (
        theta[0] + 1j * theta[1],
        (grads[:100, 0] + 1j * grads[:100, 1]),
    )
    actual = trajectory(optax_ftml.ftml(), complex_theta, complex_grads)
    # |g|^2 is shared by both parts, so neither is a recursion of its own;
    # both are rescaled by the same positive factor.
    first = complex_theta - 0.0025 * complex_grads[0] / (
        np.abs(complex_grads[0]) + 1e-8
    )
    np.testing.assert_allclose(actual[0], first, rtol=1e-12)
    leader = trajectory(
        optax_ftml.ftml(prox=identity), complex_theta, complex_grads
    )
    np.testing.assert_allclose(leader, actual, rtol=1e-11)


def scale_by_rms(b2=0.999, eps=1e-8):
    return optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)


def test_with_b1_0_is_rms_with_bias_correction(x64):
    theta, grads = problem((3,))
    actual = trajectory(optax_ftml.scale_by_ftml(b1=0.0), theta, grads[:1000])
    expected = trajectory(scale_by_rms(), theta, grads[:1000])
    assert relative_error(actual, expected) < 1e-12


def test_is_rms_with_a_step_factor(x64):
    theta, grads = problem((3,))
    b1 = 0.9
    actual = trajectory(optax_ftml.scale_by_ftml(b1=b1), theta, grads[:1000])
    factor = optax.scale_by_schedule(
        lambda count: (1 - b1) / (1 - b1 ** (count + 1))
    )
    expected = trajectory(
        optax.chain(scale_by_rms(), factor), theta, grads[:1000]
    )
    assert relative_error(actual, expected) < 1e-12


def test_is_adagrad_in_the_limit(x64):
    # With b1 = 0, b2 -> 1, lr_t = lr / sqrt(t) and eps_t = eps / sqrt(t).
    theta, grads = problem((3,))
    grads = grads[:500]
    lr, eps = 0.1, 1e-6
    expected = theta - np.cumsum(
        lr * grads / (np.sqrt(np.cumsum(grads**2, axis=0)) + eps), axis=0
    )
    optimizer = optax.inject_hyperparams(
        optax_ftml.ftml, static_args=("prox", "seed")
    )(
        lambda count: lr / jnp.sqrt(count + 1.0),
        b1=0.0,
        b2=1 - 1e-9,
        eps=lambda count: eps / jnp.sqrt(count + 1.0),
    )
    actual = trajectory(optimizer, theta, grads)
    assert relative_error(actual, expected) < 1e-6


@pytest.mark.parametrize("b", [0.0, 0.6, 0.9, 0.999, 0.999999])
def test_bias_correction_is_right_to_a_few_units(b):
    # v_1 = (1 - b2) g^2 makes the first direction exactly sign(g), and later
    # ones with equal gradients too, if 1 - b2^t is right; b1 likewise.
    optimizer = optax_ftml.scale_by_ftml(b1=0.0, b2=b, eps=0.0)
    state = optimizer.init(jnp.ones(()))
    for _ in range(3):
        updates, state = optimizer.update(jnp.ones(()), state)
        np.testing.assert_allclose(updates, 1, rtol=5e-7)
    optimizer = optax_ftml.scale_by_ftml(b1=b, b2=0.0, eps=0.0)
    for t in [1, 2, 7, 100, 5_000, 10**6, 2**31 - 1]:
        state = optax_ftml.ScaleByFtmlState(
            jnp.asarray(t - 1, jnp.int32), jnp.zeros(())
        )
        updates, _ = optimizer.update(jnp.ones(()), state)
        exact = np.longdouble(1) - np.longdouble(b) ** t
        expected = (np.longdouble(1) - np.longdouble(b)) / exact
        np.testing.assert_allclose(updates, float(expected), rtol=5e-7)


@pytest.mark.parametrize("prox", [None, identity], ids=["delta", "leader"])
@pytest.mark.parametrize(
    ("learning_rate", "f", "start", "minimiser"),
    [
        (
            optax.cosine_decay_schedule(0.1, 1000),
            lambda x: jnp.sum((x - jnp.array([1.0, -2.0])) ** 2),
            [3.0, 3.0],
            [1.0, -2.0],
        ),
        (
            optax.cosine_decay_schedule(0.02, 20_000),
            lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2,
            [-1.0, 1.0],
            [1.0, 1.0],
        ),
    ],
    ids=["parabola", "rosenbrock"],
)
def test_converges(prox, learning_rate, f, start, minimiser):
    optimizer = optax_ftml.ftml(learning_rate, prox=prox)

    @jax.jit
    def run(theta):
        def step(_, carry):
            theta, state = carry
            updates, state = optimizer.update(jax.grad(f)(theta), state, theta)
            return optax.apply_updates(theta, updates), state

        return jax.lax.fori_loop(
            0, 20_000, step, (theta, optimizer.init(theta))
        )[0]

    chex.assert_trees_all_close(
        run(jnp.array(start)), jnp.array(minimiser), atol=1e-2
    )
