"""All that is allowed, its ends included, against extended precision.

Learning rates, gradients, decay rates and eps are drawn over their whole
ranges, in magnitude and from step to step, subnormal numbers among them.
"""

import decimal
import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import optax_ftml

STEPS = 4
ROUNDINGS = 64  # Of which 25 are those of XLA's log1p in float64.
SIZE = 5
PROXES = {
    "delta": None,
    "leader": lambda leader, _: leader,
    "box": optax_ftml.prox.box(-1.0, 1.0),
}
FORMS = pytest.mark.parametrize("form", PROXES)


@pytest.fixture(
    scope="module",
    params=["float32", "bfloat16", "float16", "float64", "float32 in x64"],
)
def dtype(request):
    """Yields a dtype of the parameters, with float64 available or not."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", "64" in request.param)
    yield jnp.dtype(request.param.split()[0])
    jax.config.update("jax_enable_x64", before)


def arithmetic(dtype):
    return jnp.finfo(jnp.promote_types(dtype, jnp.float32))


decays = (
    st.sampled_from([0.0, 1e-45, 1e-6, 0.5, 0.6, 0.999, 1 - 2**-24, 1 - 2**-53])
    | st.floats(-16, 0, exclude_max=True).map(lambda k: 1 - 10.0**k)
    | st.floats(0, 1, exclude_max=True)
)


@st.composite
def magnitudes(draw, info):
    """Draws 0, the ends, and numbers near each other or far apart."""
    ends = [float(x) for x in (info.smallest_subnormal, info.tiny, info.max)]
    low, high = math.log10(ends[0]), math.log10(ends[-1])
    width = draw(st.sampled_from([1.0, 10.0, high - low]))
    centre = draw(st.just(0.0) | st.floats(low, high))
    decades = st.floats(max(low, centre - width), min(high, centre + width))
    return st.sampled_from(
        [0.0, *ends, 1e-8, 1.0, 1.1 * math.sqrt(ends[-1])]
    ) | decades.map(lambda k: min(10 * 10.0 ** (k - 1), ends[-1]))


@st.composite
def problems(draw, dtype):
    """Gradients of each step, learning rates, and the other numbers."""
    info = arithmetic(dtype)
    magnitude = draw(magnitudes(info))
    largest = float(jnp.finfo(dtype).max)
    grads = [
        [
            draw(st.sampled_from([-1, 1])) * min(draw(magnitude), largest)
            for _ in range(SIZE)
        ]
        for _ in range(STEPS)
    ]
    rate, eps, eps_root = (draw(magnitudes(info)) for _ in range(3))
    return {
        "grads": np.asarray(grads, dtype),
        "rates": np.asarray([draw(rate) for _ in range(STEPS)], info.dtype),
        "b1": draw(decays),
        "b2": draw(decays),
        "eps": draw(st.sampled_from([0.0, 1e-8]) | eps),
        "eps_root": draw(st.just(0.0) | eps_root),
    }


def run(problem, prox):
    """Yields the parameters before each step, its update and its state."""
    grads, rates = problem["grads"], jnp.asarray(problem["rates"])
    if prox is None:
        # Optax's scale gives a learning rate its updates' dtype, and bounds no
        # product: a step may be twice the learning rate.
        rates = jnp.minimum(rates, float(jnp.finfo(grads.dtype).max) / 4)
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


@FORMS
@hypothesis.given(data=st.data())
def test_no_finite_input_makes_nan_or_infinity(data, form, dtype):
    problem = data.draw(problems(dtype))
    for _, updates, state in run(problem, PROXES[form]):
        for x in jax.tree.leaves((updates, state)):
            assert jnp.isfinite(x).all(), x


# The recursion cancels over all of float64's range, and decimals do not mind.
EXACT = decimal.Context(prec=2000, Emin=-(10**6), Emax=10**6)


def exact(x):
    return np.vectorize(decimal.Decimal, otypes=[object])(
        np.asarray(x, np.float64)
    )


def in_decimals(test):
    @functools.wraps(test)
    def decimal_test(*args, **kwargs):
        with decimal.localcontext(EXACT):
            test(*args, **kwargs)

    return decimal_test


def sizes(problem):
    """Yields v and d without its learning rate, and where both are numbers.

    Elsewhere there is no such square or sum: it is beyond the largest number,
    or among the subnormal ones, which XLA takes for 0.
    """
    info = arithmetic(problem["grads"].dtype)
    tiny, most = exact(info.tiny), exact(info.max)

    def is_number(x):
        return (x == 0) | (x > tiny) & (x < most / 4)

    b2, eps, eps_root = exact([problem[n] for n in ("b2", "eps", "eps_root")])
    v, is_right = exact(np.zeros(SIZE)), np.full(SIZE, is_number(eps))
    is_right &= is_number(eps_root)
    for t, g in enumerate(exact(problem["grads"]), start=1):
        v = b2 * v + (1 - b2) * g**2
        is_right &= is_number(g**2) & is_number(eps_root * (1 - b2**t))
        is_large = (v == 0) | (v > tiny / exact(info.eps))
        size = np.sqrt(v / (1 - b2**t) + eps_root) + eps
        yield v, size, is_right.copy(), is_right & is_large


@hypothesis.given(data=st.data())
@in_decimals
def test_close_to_the_textbook(data, dtype):
    problem = data.draw(problems(dtype))
    info, wide = jnp.finfo(dtype), arithmetic(dtype)
    hypothesis.assume(not 0 < problem["b2"] < wide.tiny)  # XLA takes it for 0.
    rounding, low, tiny, low_tiny, most = exact(
        [wide.eps, info.eps, wide.tiny, info.tiny, info.max]
    )
    b1 = decimal.Decimal(problem["b1"])
    rates = np.minimum(exact(problem["rates"]), most / 4)
    for t, ((_, updates, state), (v, size, has_v, has_size)) in enumerate(
        zip(run(problem, None), sizes(problem), strict=True), start=1
    ):
        bound = 32 * rounding * v + 8 * tiny
        assert (abs(exact(state[0].v) - v) <= bound)[has_v].all()
        rate = rates[t - 1]
        if 0 < rate < tiny:
            continue
        g = exact(problem["grads"][t - 1])
        step = g / np.where(size == 0, 1, size)
        step *= rate * (1 - b1) / (1 - b1**t)
        bound = ROUNDINGS * low * abs(step) + (4 + rate) * low_tiny
        is_number = has_size & (abs(step) < decimal.Decimal("0.99") * most)
        assert (abs(exact(updates) + step) <= bound)[is_number].all()


@pytest.mark.parametrize("form", ["leader", "box"])
@hypothesis.given(data=st.data())
@in_decimals
def test_leader_is_close_to_the_d_v_z_recursion(data, form, dtype):
    problem = data.draw(problems(dtype))
    info, wide = jnp.finfo(dtype), arithmetic(dtype)
    hypothesis.assume(all(not 0 < problem[b] < wide.tiny for b in ("b1", "b2")))
    hypothesis.assume(problem["b1"] > 0)  # Without it no leader is kept.
    rounding, low, tiny, low_tiny, wide_most, most = exact(
        [wide.eps, info.eps, wide.tiny, info.tiny, wide.max, info.max]
    )
    b1 = decimal.Decimal(problem["b1"])
    last_rate = decimal.Decimal(0)
    last_size, last_d, z, leader, bound = exact(np.zeros((5, SIZE)))
    is_right = np.full(SIZE, True)
    for t, ((theta, updates, state), (_, size, _, has_size)) in enumerate(
        zip(run(problem, PROXES[form]), sizes(problem), strict=True), start=1
    ):
        g, theta = exact(problem["grads"][t - 1]), exact(theta)
        rate = exact(problem["rates"][t - 1]) / (1 - b1**t)
        distance = abs(theta - leader)
        if problem["rates"][t - 1] < wide.tiny:  # XLA takes it for 0.
            rate = decimal.Decimal(0)
            d = z = last_size = exact(np.zeros(SIZE))
            leader, bound = theta, exact(np.zeros(SIZE))
        else:
            d = size / rate
            z = b1 * z + (1 - b1) * g - (d - b1 * last_d) * theta
            d_or_1 = np.where(size == 0, 1, d)
            leader = np.where(size == 0, theta, -z / d_or_1)
            is_right &= has_size & ((size > 0) | (last_size == 0))
            is_right &= abs(leader - theta) < wide_most / 2**21
            # The products are numbers.
            unit = max((1 - b1) * rate, 1)
            ratio = b1 * rate / unit / last_rate if last_rate else last_rate
            is_right &= ratio * last_size * distance < wide_most / 2**21
            is_right &= max(ratio, 32 * rate) < wide_most
            # What rounding makes of the last leader, the move and the sum.
            bound = (
                b1 * last_d / d_or_1 * (bound + ROUNDINGS * rounding * distance)
            )
            bound += ROUNDINGS * rounding * abs((1 - b1) * g / d_or_1)
            bound += 4 * rounding * (abs(theta) + abs(leader))
            # Where factors and products are too small, XLA takes 0 for them.
            factors = 1 + abs(g) + (ratio + last_size) * (1 + distance)
            bound += 4 * tiny * unit * (1 + factors / (d_or_1 * rate))
        last_d, last_size, last_rate = d, size, rate
        found = exact(state.leader)
        assert (abs(found - leader) <= bound)[is_right].all(), (found, leader)
        target = leader if form == "leader" else np.clip(leader, -1, 1)
        nearest = bound + 2 * low * (abs(target) + abs(theta)) + low_tiny
        # Beyond the dtype's largest number there is no parameter and no step.
        step = np.clip(np.clip(target, -most, most) - theta, -most, most)
        assert (abs(exact(updates) - step) <= nearest)[is_right].all()
