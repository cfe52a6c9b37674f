"""The optimizers against the textbook recursion, and Optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference

STEPS = 2000
TIMES = np.arange(STEPS)
trajectory = jax.jit(reference.trajectory, static_argnums=0)


def problem(shape, steps=STEPS, decades=0):
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.uniform(-decades, decades, size=shape)
    return rng.normal(size=shape), scales * rng.normal(size=(steps, *shape))


PROXES = {
    "none": (None, reference.free),
    "identity": (reference.free, reference.free),
    "box": (optax_ftml.prox.box(-0.3, 0.2), lambda x, s: np.clip(x, -0.3, 0.2)),
    "l1": (
        optax_ftml.prox.l1(0.1),
        lambda x, s: np.sign(x) * np.maximum(np.abs(x) - 0.1 * s, 0),
    ),
}
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
    limits = np.full(3, bounded if name == "box" else unbounded)
    if dtype == "float32" and prox is not None:
        # What a rounding holds at a small rate counts at a large one.
        limits[list(RATES).index("jumping")] = 1e-3
    assert np.all(errors < limits), errors


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("none", "complex128"),
        ("identity", "complex128"),
        ("box", "float64"),
    ],
)
def test_equals_the_textbook_with_every_number_changing(x64, name, dtype):
    """Both parts of a complex parameter have the same step size."""
    prox, numpy_prox = PROXES[name]
    theta, grads = problem((3, 2), decades=3)
    # Two numbers next to each other are the parts of a complex one.
    theta, grads = theta.view(dtype), grads.view(dtype)
    b1s = 0.6 + 0.35 * np.sin(TIMES / 100)
    numbers = {"b2": 0.9, "eps": 1e-3, "eps_root": 1e-4}
    rates = RATES["cosine"]
    expected = reference.dvz(
        theta, grads, rates, b1s, **numbers, prox=numpy_prox
    )
    injected = optax.inject_hyperparams(
        optax_ftml.ftml, ("prox", "seed"), hyperparam_dtype=jnp.float64
    )
    schedules = (lambda t, x=x: jnp.asarray(x)[t] for x in (rates, b1s))
    optimizer = injected(*schedules, **numbers, prox=prox)
    actual = trajectory(optimizer, theta, grads)
    size = np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11 * size)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-13), ("complex64", 3e-6)]
)
def test_proximal_adam_with_the_prox_of_nothing_is_adam(x64, dtype, tolerance):
    theta, grads = problem((6,), steps=500, decades=3)
    if dtype == "complex64":
        grads, theta = grads * (1 + 2j), theta * (1 - 1j)
    theta, grads = jnp.asarray(theta, dtype), jnp.asarray(grads, dtype)
    arguments = optax.cosine_decay_schedule(0.01, 500), 0.8, 0.99, 1e-6, 1e-7
    optimizer = optax_ftml.proximal_adam(*arguments, prox=reference.free)
    actual = trajectory(optimizer, theta, grads)
    expected = trajectory(optax.adam(*arguments), theta, grads)
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, tolerance, tolerance)


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize("form", reference.FORMS)
def test_converges(form):
    optimizer = reference.FORMS[form](optax.cosine_decay_schedule(0.02, 20_000))
    start, gradient = jnp.array([-1.0, 1.0]), jax.grad(rosenbrock)
    theta, _ = reference.train(optimizer, gradient, start, 20_000)
    np.testing.assert_allclose(theta, [1, 1], atol=1e-2)


@pytest.mark.parametrize(
    "prox", [None, reference.free], ids=["delta", "leader"]
)
def test_derivative_by_every_number_and_through_the_gradients(x64, prox):
    def loss(x, grads):
        *numbers, scale = x
        optimizer = optax_ftml.ftml(*numbers, eps_root=1e-2, prox=prox)
        params = jnp.array([1.0, -2.0])
        state = optimizer.init(params)
        for _ in range(3):
            g = grads + (scale - 1) * params
            updates, state = optimizer.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**2)

    decays = (0.6, 0.9), (0.0, 0.9), (0.6, 0.0), (0.5, 0.5)
    x = jnp.array([[0.1, b1, b2, 1e-3, 1.0] for b1, b2 in decays])
    grads = jnp.array([[0.0, 0.0], [0.3, -2.0]])
    at_each = jax.vmap(jax.value_and_grad(loss), in_axes=(0, None))
    both = jax.jit(jax.vmap(at_each, in_axes=(None, 0)))
    _, derivative = both(x, grads)
    for i, h in enumerate(1e-6 * np.eye(5)):
        difference = (both(x + h, grads)[0] - both(x - h, grads)[0]) / 2e-6
        np.testing.assert_allclose(
            derivative[..., i], difference, rtol=1e-5, atol=1e-8
        )
