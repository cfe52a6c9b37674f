"""Both forms against the textbook recursion, and the paper's relations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference

STEPS = 2000
FORMS = pytest.mark.parametrize(
    "prox", [None, reference.free], ids=["delta", "leader"]
)
injected = optax.inject_hyperparams(
    optax_ftml.ftml, static_args=("prox", "seed")
)


@functools.partial(jax.jit, static_argnums=0)
def trajectory(optimizer, theta, grads):
    return reference.trajectory(optimizer, theta, grads)


def problem(shape, steps=STEPS, decades=0):
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.uniform(-decades, decades, size=shape)
    return rng.normal(size=shape), scales * rng.normal(size=(steps, *shape))


def relative_error(actual, expected):
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


def project_simplex(leader, step_size):
    """The projection in the metric, by sorting."""
    order = np.argsort(-leader / step_size)
    x, s = (np.take_along_axis(a, order, -1) for a in (leader, step_size))
    levels = (np.cumsum(x, -1) - 1) / np.cumsum(s, -1)
    count = np.sum(x > levels * s, -1, keepdims=True)
    level = np.take_along_axis(levels, count - 1, -1)
    return np.maximum(leader - level * step_size, 0)


PROXES = {
    "none": (None, reference.free),
    "identity": (reference.free, reference.free),
    "box": (optax_ftml.prox.box(-0.3, 0.2), lambda x, s: np.clip(x, -0.3, 0.2)),
    "l1": (
        optax_ftml.prox.l1(0.1),
        lambda x, s: np.sign(x) * np.maximum(np.abs(x) - 0.1 * s, 0),
    ),
    "simplex": (optax_ftml.prox.simplex(), project_simplex),
}
TIMES = np.arange(STEPS)
RATES = {
    "constant": np.full(STEPS, 0.01),
    "cosine": 0.01 * np.cos(np.pi / 2 * TIMES / STEPS) ** 2,
    "jumping": np.where(TIMES % 5 == 0, 0.01, 1e-5),
}


@pytest.mark.parametrize(
    ("dtype", "bounded", "unbounded"),
    [("float64", 1e-11, 1e-11), ("float32", 5e-6, 2e-5)],
)
@pytest.mark.parametrize("name", PROXES)
def test_equals_the_textbook(x64, name, dtype, bounded, unbounded):
    prox, numpy_prox = PROXES[name]
    theta, grads = problem((6,))
    theta, grads = 0.1 * theta, grads + np.linspace(-0.5, 0.5, 6)
    b1s = np.array([0, 0.6, 0.9, 0.99])
    rates = np.stack(list(RATES.values()))

    def run(rates, b1):
        optimizer = optax_ftml.ftml(lambda t: rates[t], b1, prox=prox)
        return reference.trajectory(
            optimizer, jnp.asarray(theta, dtype), jnp.asarray(grads, dtype)
        )

    every = jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None))
    actual = jax.jit(every)(rates, b1s)
    expected = reference.dvz(
        np.broadcast_to(theta, (len(rates), len(b1s), 6)),
        grads,
        rates.T[:, :, None, None],
        np.broadcast_to(b1s[:, None], (STEPS, len(b1s), 1)),
        prox=numpy_prox,
    )
    assert actual.dtype == dtype
    assert np.max(np.abs(expected - theta)) > 0.1
    errors = np.abs(actual - np.moveaxis(expected, 0, 2)).max((1, 2, 3))
    limits = np.full(3, bounded if name in ("box", "simplex") else unbounded)
    if dtype == "float32" and prox is not None:
        # What a rounding holds at a small rate counts at a large one.
        limits[list(RATES).index("jumping")] = 1e-3
    assert np.all(errors < limits), dict(zip(RATES, errors, strict=True))


@pytest.mark.parametrize("prox", [None, reference.free, PROXES["box"][0]])
def test_equals_the_textbook_with_every_number_changing(x64, prox):
    theta, grads = problem((2, 1, 3), decades=3)
    b1s = 0.6 + 0.35 * np.sin(TIMES / 100)
    rates = RATES["cosine"]
    project = PROXES["box"][1] if prox is PROXES["box"][0] else reference.free
    expected = reference.dvz(
        *(theta, grads, rates, b1s, 0.9, 1e-3, 1e-4), prox=project
    )
    optimizer = injected(
        lambda t: jnp.asarray(rates)[t],
        b1=lambda t: jnp.asarray(b1s)[t],
        b2=0.9,
        eps=1e-3,
        eps_root=1e-4,
        prox=prox,
    )
    assert relative_error(trajectory(optimizer, theta, grads), expected) < 1e-11


@FORMS
def test_equals_the_textbook_in_a_chain(x64, prox):
    theta, grads = problem((7,), decades=3)

    def rule(g, theta):
        g = np.clip(0.125 * g, -0.5, 0.5)
        return g / max(1, np.linalg.norm(g)) + 0.01 * theta

    constants = np.full(STEPS, 0.002), np.full(STEPS, 0.6)
    expected = reference.dvz(theta, grads, *constants, gradient_rule=rule)
    optimizer = optax.chain(
        optax.scale(0.125),
        optax.clip(0.5),
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.01),
        optax_ftml.ftml(0.002, prox=prox),
    )
    assert relative_error(trajectory(optimizer, theta, grads), expected) < 1e-11


@FORMS
def test_complex_parameters_share_the_scale_of_both_parts(x64, prox):
    theta, grads = problem((2, 6), steps=100, decades=2)
    theta, grads = theta[0] + 1j * theta[1], grads[:, 0] + 1j * grads[:, 1]
    v = np.zeros(6)
    expected = []
    for t, g in enumerate(grads, start=1):
        v = 0.999 * v + 0.001 * np.abs(g) ** 2
        size = np.sqrt(v / (1 - 0.999**t)) + 1e-8
        theta = theta - 0.0025 * 0.4 / (1 - 0.6**t) * g / size
        expected.append(theta)
    start = problem((2, 6), steps=1, decades=2)[0]
    actual = trajectory(
        optax_ftml.ftml(prox=prox), start[0] + 1j * start[1], grads
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-11)


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_is_rms_with_a_step_factor(x64, b1):
    theta, grads = problem((3,), decades=3)
    rms = optax.chain(
        optax.scale_by_rms(
            0.999, 1e-8, eps_in_sqrt=False, bias_correction=True
        ),
        optax.scale_by_schedule(lambda t: (1 - b1) / (1 - b1 ** (t + 1))),
    )
    actual = trajectory(optax_ftml.scale_by_ftml(b1=b1), theta, grads)
    expected = trajectory(rms, theta, grads)
    assert relative_error(actual, expected) < 1e-12


def test_is_adagrad_in_the_limit(x64):
    # With b1 = 0, b2 -> 1, lr_t = lr / sqrt(t) and eps_t = eps / sqrt(t).
    theta, grads = problem((3,), steps=500, decades=3)
    sums = np.cumsum(grads**2, axis=0)
    expected = theta - np.cumsum(0.1 * grads / (np.sqrt(sums) + 1e-6), axis=0)
    optimizer = injected(
        lambda t: 0.1 / jnp.sqrt(t + 1.0),
        b1=0.0,
        b2=1 - 1e-9,
        eps=lambda t: 1e-6 / jnp.sqrt(t + 1.0),
    )
    assert relative_error(trajectory(optimizer, theta, grads), expected) < 1e-6


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize(
    "make",
    [
        optax_ftml.ftml,
        functools.partial(optax_ftml.ftml, prox=reference.free),
        functools.partial(optax_ftml.proximal_adam, prox=reference.free),
    ],
    ids=["delta", "leader", "adam"],
)
@pytest.mark.parametrize(
    ("rate", "f", "start", "minimizer"),
    [
        (0.1, lambda x: (x[0] - 1) ** 2 + (x[1] + 2) ** 2, (3, 3), (1, -2)),
        (0.02, rosenbrock, (-1, 1), (1, 1)),
    ],
    ids=["parabola", "rosenbrock"],
)
def test_converges(make, rate, f, start, minimizer):
    steps = 20_000
    optimizer = make(optax.cosine_decay_schedule(rate, steps))

    def step(_, carry):
        theta, state = carry
        updates, state = optimizer.update(jax.grad(f)(theta), state, theta)
        return optax.apply_updates(theta, updates), state

    theta = jnp.array(start, float)
    end, _ = jax.lax.fori_loop(0, steps, step, (theta, optimizer.init(theta)))
    np.testing.assert_allclose(end, minimizer, atol=1e-2)


@FORMS
def test_derivative_by_every_number_and_through_the_gradients(x64, prox):
    def loss(x, grads):
        learning_rate, b1, b2, eps, scale = x
        optimizer = optax_ftml.ftml(
            learning_rate, b1, b2, eps, eps_root=1e-2, prox=prox
        )
        params = jnp.array([1.0, -2.0])
        state = optimizer.init(params)
        for _ in range(3):
            g = grads + (scale - 1) * params
            updates, state = optimizer.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**2)

    x = jnp.array(
        [
            [0.1, b1, b2, 1e-3, 1.0]
            for b1, b2 in ((0.6, 0.9), (0.0, 0.9), (0.6, 0.0), (0.5, 0.5))
        ]
    )
    both = jax.jit(
        jax.vmap(
            jax.vmap(jax.value_and_grad(loss), in_axes=(0, None)),
            in_axes=(None, 0),
        )
    )
    grads = jnp.array([[0.0, 0.0], [0.3, -2.0]])
    _, derivative = both(x, grads)
    for i, h in enumerate(1e-6 * np.eye(5)):
        difference = (both(x + h, grads)[0] - both(x - h, grads)[0]) / 2e-6
        np.testing.assert_allclose(
            derivative[..., i], difference, rtol=1e-5, atol=1e-8
        )
