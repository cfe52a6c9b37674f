"""The optimizers against the textbook recursion, Optax's, and a solver."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from tests import reference
from tests.prox import cases

STEPS = 2000
TIMES = np.arange(STEPS)
FORMS = pytest.mark.parametrize(
    "prox", [None, reference.free], ids=["delta", "leader"]
)
trajectory = jax.jit(reference.trajectory, static_argnums=0)


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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("none", "float64"),
        ("identity", "float64"),
        ("box", "float64"),
        ("none", "complex128"),
        ("identity", "complex128"),
    ],
)
def test_equals_the_textbook_in_a_chain_with_every_number_changing(
    x64, name, dtype
):
    """Both parts of a complex parameter have the same step size."""
    prox, numpy_prox = PROXES[name]
    theta, grads = problem((3, 2), decades=3)
    # Two numbers next to each other are the parts of a complex one.
    theta, grads = theta.view(dtype), grads.view(dtype)
    b1s = 0.6 + 0.35 * np.sin(TIMES / 100)

    def rule(g, theta):
        g = 0.125 * g
        return g / max(1, np.linalg.norm(g)) + 0.01 * theta

    expected = reference.dvz(
        *(theta, grads, RATES["cosine"], b1s, 0.9, 1e-3, 1e-4),
        prox=numpy_prox,
        gradient_rule=rule,
    )
    injected = optax.inject_hyperparams(
        optax_ftml.ftml, ("prox", "seed"), hyperparam_dtype=jnp.float64
    )
    optimizer = optax.chain(
        optax.scale(0.125),
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.01),
        injected(
            lambda t: jnp.asarray(RATES["cosine"])[t],
            b1=lambda t: jnp.asarray(b1s)[t],
            b2=0.9,
            eps=1e-3,
            eps_root=1e-4,
            prox=prox,
        ),
    )
    assert relative_error(trajectory(optimizer, theta, grads), expected) < 1e-11


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
    # With b1 = 0, b2 -> 1 and lr_t = lr / sqrt(t).
    theta, grads = problem((3,), steps=500, decades=3)
    sums = np.cumsum(grads**2, axis=0)
    expected = theta - np.cumsum(0.1 * grads / np.sqrt(sums), axis=0)
    optimizer = optax_ftml.ftml(
        lambda t: 0.1 / jnp.sqrt(t + 1.0), b1=0.0, b2=1 - 1e-9, eps=0.0
    )
    assert relative_error(trajectory(optimizer, theta, grads), expected) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_proximal_adam_with_the_prox_of_nothing_is_adam(x64, dtype):
    theta, grads = problem((6,), steps=500, decades=3)
    if dtype == "complex64":
        grads, theta = grads * (1 + 2j), theta * (1 - 1j)
    theta, grads = jnp.asarray(theta, dtype), jnp.asarray(grads, dtype)
    arguments = optax.cosine_decay_schedule(0.01, 500), 0.8, 0.99, 1e-6, 1e-7
    optimizer = optax_ftml.proximal_adam(*arguments, prox=reference.free)
    actual = trajectory(optimizer, theta, grads)
    expected = trajectory(optax.adam(*arguments), theta, grads)
    assert actual.dtype == dtype
    tolerance = 1e-13 if dtype == "float64" else 3e-6
    np.testing.assert_allclose(actual, expected, tolerance, tolerance)


def train(optimizer, f, start, steps=20_000):
    def step(_, carry):
        theta, state = carry
        updates, state = optimizer.update(jax.grad(f)(theta), state, theta)
        return optax.apply_updates(theta, updates), state

    theta = jnp.asarray(start, float)
    return jax.lax.fori_loop(0, steps, step, (theta, optimizer.init(theta)))[0]


@pytest.mark.parametrize("name", ["box", "l1", "simplex", "group_lasso"])
def test_proximal_adam_ends_on_the_solver_s_optimum(x64, name):
    """Least squares with columns over two decades, as for ftml."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, cases.SIZE)) * np.logspace(-1, 1, cases.SIZE)
    x /= np.sqrt(len(x))
    y = x @ (1 + rng.normal(size=cases.SIZE)) + rng.normal(size=len(x))

    def f(theta):
        return jnp.sum((x @ theta - y) ** 2) / 2

    case = cases.CONVEX[name]
    schedule = optax.cosine_decay_schedule(0.02, 20_000, alpha=1e-6)
    optimizer = optax_ftml.proximal_adam(
        schedule, prox=case.make(None), b2=0.99
    )
    end = train(optimizer, f, np.zeros(cases.SIZE))
    theta = cp.Variable(cases.SIZE)
    penalty, constraints = case.problem(theta)
    objective = cp.Minimize(cp.sum_squares(x @ theta - y) / 2 + penalty)
    problem = cp.Problem(objective, constraints)
    least = problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_feas=1e-9)
    theta.value = np.asarray(end)
    assert max([0, *(np.max(c.violation()) for c in constraints)]) < 1e-9
    assert problem.objective.value <= least * (1 + 1e-4)


def parabola(x):
    return (x[0] - 1) ** 2 + (x[1] + 2) ** 2


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize("form", reference.FORMS)
@pytest.mark.parametrize(
    ("rate", "f", "start", "minimizer"),
    [(0.1, parabola, (3, 3), (1, -2)), (0.02, rosenbrock, (-1, 1), (1, 1))],
)
def test_converges(form, rate, f, start, minimizer):
    schedule = optax.cosine_decay_schedule(rate, 20_000)
    end = train(reference.FORMS[form](schedule), f, start)
    np.testing.assert_allclose(end, minimizer, atol=1e-2)


@FORMS
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
