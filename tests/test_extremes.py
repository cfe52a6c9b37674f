"""All that is allowed, its ends included, against extended precision.

Learning rates, gradients, decay rates and eps are drawn over their whole
ranges, in magnitude and from step to step, subnormal numbers among them.
"""

import decimal

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import optax_ftml

STEPS = 4
SIZE = 5
LARGEST = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)
ROUNDING = float(np.finfo(np.float32).eps)
DTYPES = ["float32", "bfloat16", "float16"]
PROXES = {
    "delta": None,
    "leader": lambda leader, _: leader,
    "box": optax_ftml.prox.box(-1.0, 1.0),
}

# 0, what is subnormal, each power of 10, and the largest.
magnitudes = (
    st.sampled_from([0.0, 1e-45, 1e-38, 1e-8, 1.0, 2e19, LARGEST])
    | st.integers(-45, 38).map(lambda k: 10.0**k)
    | st.floats(-45, 38).map(lambda k: 10.0**k)
)
decays = (
    st.sampled_from([0.0, 1e-45, 1e-6, 0.5, 0.6, 0.999, 1 - 2**-24, 1 - 2**-53])
    | st.floats(-16, 0, exclude_max=True).map(lambda k: 1 - 10.0**k)
    | st.floats(0, 1, exclude_max=True)
)


@st.composite
def problems(draw, dtype, magnitudes=magnitudes):
    """Gradients of each step, learning rates, and the other numbers."""
    dtype = jnp.dtype(dtype)
    largest = float(jnp.finfo(dtype).max)
    grads = [
        [
            draw(st.sampled_from([-1, 1])) * min(draw(magnitudes), largest)
            for _ in range(SIZE)
        ]
        for _ in range(STEPS)
    ]
    return {
        "grads": np.asarray(grads, dtype),
        "rates": [draw(magnitudes) for _ in range(STEPS)],
        "b1": draw(decays),
        "b2": draw(decays),
        "eps": draw(magnitudes),
        "eps_root": draw(st.sampled_from([0.0, 0.0, 1e-16, 1.0, LARGEST])),
    }


def run(problem, prox):
    """Yields the parameters before each step, its update and its state."""
    grads, rates = problem["grads"], jnp.asarray(problem["rates"], jnp.float32)
    if prox is None:  # Optax's scale gives a learning rate its updates' dtype.
        rates = jnp.minimum(rates, float(jnp.finfo(grads.dtype).max))
    optimizer = optax_ftml.ftml(
        lambda count: rates[count],
        *(problem[name] for name in ("b1", "b2", "eps", "eps_root")),
        prox=prox,
    )
    params = jnp.linspace(-1, 1, SIZE).astype(grads.dtype)
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(jnp.asarray(g), state, params)
        yield params, updates, state
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", PROXES)
@hypothesis.given(data=st.data())
def test_no_finite_input_makes_nan_or_infinity(data, form, dtype):
    problem = data.draw(problems(dtype))
    for _, updates, state in run(problem, PROXES[form]):
        for x in jax.tree.leaves((updates, state)):
            assert jnp.isfinite(x).all(), x


def textbook(problem):
    """Returns v and the delta form's steps, in extended precision."""
    wide = np.longdouble
    b1, b2 = wide(problem["b1"]), wide(problem["b2"])
    eps, eps_root = wide(problem["eps"]), wide(problem["eps_root"])
    v, vs, steps = np.zeros(SIZE, wide), [], []
    for t, (g, lr) in enumerate(
        zip(problem["grads"], problem["rates"], strict=True), start=1
    ):
        g, lr = g.astype(wide), wide(np.float32(lr))
        v = b2 * v + (1 - b2) * g**2
        d = np.sqrt(v / (1 - b2**t) + eps_root) + eps
        step = (1 - b1) / (1 - b1**t) * g / np.where(d == 0, np.inf, d)
        vs.append(v)
        steps.append(lr * step)
    return np.stack(vs), np.stack(steps)


@pytest.mark.parametrize("dtype", DTYPES)
@hypothesis.given(data=st.data())
def test_close_to_extended_precision(data, dtype):
    problem = data.draw(problems(dtype))
    hypothesis.assume(not 0 < problem["b2"] < TINY)  # XLA takes it for 0.
    info = jnp.finfo(dtype)
    rounding = max(ROUNDING, float(info.eps))
    vs, steps = textbook(problem)
    sizes = np.abs(problem["grads"].astype(np.longdouble))
    # Elsewhere float32 has no such square, number or quotient.
    has_square = ((sizes == 0) | ((sizes > 1e-17) & (sizes < 1e19))).all(0)
    eps = problem["eps"]
    has_eps = eps == 0 or TINY < eps < 1e29
    has_eps &= problem["eps_root"] < 1e29
    for t, (_, updates, state) in enumerate(run(problem, None)):
        v, step = vs[t], steps[t]
        found = np.asarray(state[0].v, np.longdouble)
        bound = 32 * ROUNDING * v + 8 * TINY
        assert (np.abs(found - v) <= bound)[has_square].all()
        if not has_eps or not TINY < problem["rates"][t] < 6e4:
            continue
        has_step = has_square & ((v == 0) | (v > 1e-30))
        has_step &= np.abs(step) < 0.99 * float(info.max)
        found = -np.asarray(updates, np.longdouble)
        bound = 32 * rounding * np.abs(step) + float(info.tiny)
        assert (np.abs(found - step) <= bound)[has_step].all()


# The recursion cancels over all of float32's range, and decimals do not mind.
EXACT = decimal.Context(prec=400, Emin=-(10**6), Emax=10**6)


def exact(x):
    return np.vectorize(decimal.Decimal, otypes=[object])(
        np.asarray(x, np.float64)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["leader", "box"])
@hypothesis.given(data=st.data())
def test_leader_is_close_to_the_d_v_z_recursion(data, form, dtype):
    problem = data.draw(
        problems(dtype, st.floats(-4, 4).map(lambda k: 10.0**k))
    )
    problem |= {"eps_root": 0.0}
    hypothesis.assume(all(not 0 < problem[b] < TINY for b in ("b1", "b2")))
    hypothesis.assume(problem["b1"] > 0)  # Without it no leader is kept.
    with decimal.localcontext(EXACT):
        compare_leader(problem, form, dtype)


def compare_leader(problem, form, dtype):
    b1, b2, eps, rounding, low, tiny, most = (
        decimal.Decimal(float(x))
        for x in (
            *(problem[name] for name in ("b1", "b2", "eps")),
            ROUNDING,
            jnp.finfo(dtype).eps,
            jnp.finfo(dtype).tiny,
            jnp.finfo(dtype).max,
        )
    )
    d, v, z, leader, bound = exact(np.zeros((5, SIZE)))
    for t, (params, updates, state) in enumerate(
        run(problem, PROXES[form]), start=1
    ):
        g = exact(problem["grads"][t - 1])
        theta = exact(params)
        last_d, last_leader = d, leader
        v = b2 * v + (1 - b2) * g**2
        d = (np.sqrt(v / (1 - b2**t)) + eps) * (1 - b1**t)
        d = d / exact(np.float32(problem["rates"][t - 1]))
        z = b1 * z + (1 - b1) * g - (d - b1 * last_d) * theta
        leader = -z / d
        # What rounding makes of the last leader, of this move and of the sum.
        ratio = b1 * last_d / d
        bound = ratio * (bound + 32 * rounding * abs(theta - last_leader))
        bound += 32 * rounding * abs((1 - b1) * g / d)
        bound += 4 * rounding * (abs(theta) + abs(leader))
        found = exact(state.leader)
        assert (abs(found - leader) <= bound).all(), (found, leader)
        target = leader if form == "leader" else np.clip(leader, -1, 1)
        nearest = bound + 2 * low * (abs(target) + abs(theta)) + tiny
        # Beyond the dtype's largest number there is no parameter and no step.
        step = np.clip(np.clip(target, -most, most) - theta, -most, most)
        assert (abs(exact(updates) - step) <= nearest).all()
