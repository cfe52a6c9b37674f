"""MXNet's learning-rate schedulers give MXNet's learning rates."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet
from tests.programs import mxnet_settings

DATA = pathlib.Path(__file__).parents[1] / "data"

SCHEDULERS = [
    mxnet.FactorScheduler(3, 0.7, base_lr=0.5, warmup_steps=4),
    mxnet.MultiFactorScheduler([2, 5, 90], 0.1, base_lr=0.5, warmup_steps=4),
    mxnet.PolyScheduler(50, base_lr=0.5, warmup_steps=4),
    mxnet.CosineScheduler(50, base_lr=0.5, final_lr=0.1),
]
each_scheduler = pytest.mark.parametrize(
    "scheduler", SCHEDULERS, ids=lambda scheduler: type(scheduler).__name__
)


@pytest.mark.parametrize(
    "start",
    [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 8))],
)
def test_agrees_with_mxnet(start):
    with np.load(DATA / "mxnet_schedulers.npz") as recorded:
        schedules = json.loads(str(recorded["settings"]))
        for i in range(start, len(schedules), 8):
            np.testing.assert_allclose(
                mxnet_settings.learning_rates(schedules[i]),
                recorded[f"{i}/learning_rate"],
                rtol=1e-6,
                atol=1e-15,  # which moves nothing
                err_msg=str(schedules[i]),
            )


@each_scheduler
def test_takes_arrays_of_counts(scheduler):
    counts = 5 * np.arange(24).reshape(2, 3, 4)
    rates = scheduler(counts)
    assert rates.shape == counts.shape
    for others in (
        np.reshape([scheduler(int(i)) for i in counts.flat], counts.shape),
        jax.jit(scheduler)(counts),
        jax.vmap(scheduler)(counts),
    ):
        np.testing.assert_allclose(others, rates, rtol=1e-6)


def test_schedulers_are_values():
    """They are compared, and MXNet's mutable list of steps becomes a tuple."""
    step = [1, 3]
    scheduler = mxnet.MultiFactorScheduler(step, 0.5)
    step.append(4)
    same = mxnet.MultiFactorScheduler((1, 3), 0.5)
    assert len({scheduler, same, scheduler.with_base_lr(0.25)}) == 2


def test_is_an_optax_schedule():
    scheduler = mxnet.CosineScheduler(100, base_lr=0.1, warmup_steps=10)
    by_hand = optax.chain(
        optax_ftml.scale_by_ftml(), optax.scale_by_learning_rate(scheduler)
    )
    ours = mxnet.ftml(learning_rate=None, lr_scheduler=scheduler)
    one = jnp.ones(())
    for optimizer in (by_hand, ours):
        state = optimizer.init(one)
        for i in range(2):
            updates, state = optimizer.update(one, state)
            step = scheduler(i) * 0.4 / (1 - 0.6 ** (i + 1))
            np.testing.assert_allclose(updates, -step, rtol=1e-5)


def test_the_last_count_is_the_end():
    last = jnp.iinfo(jnp.int32).max
    assert jax.jit(mxnet.CosineScheduler(100))(last) == 0
    assert mxnet.FactorScheduler(7, 0.9)(last) == jnp.float32(1e-8)
    assert mxnet.FactorScheduler(7, 0.0, stop_factor_lr=0)(last) == 0


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("step .*0", lambda: mxnet.FactorScheduler(0)),
        (r"factor .*\[0, 1\].*1.1", lambda: mxnet.FactorScheduler(1, 1.1)),
        (r"step .*\[\]", lambda: mxnet.MultiFactorScheduler([])),
        ("increasing", lambda: mxnet.MultiFactorScheduler([3, 3])),
        ("step .*0", lambda: mxnet.MultiFactorScheduler([0, 3])),
        ("max_update .*2.5", lambda: mxnet.CosineScheduler(2.5)),
        ("pwr .*-1", lambda: mxnet.PolyScheduler(9, pwr=-1)),
        ("base_lr .*nan", lambda: mxnet.PolyScheduler(9, np.nan)),
        (
            "warmup_begin_lr .*0.2",
            lambda: mxnet.PolyScheduler(9, 0.1, warmup_begin_lr=0.2),
        ),
        ("warmup_mode .*'x'", lambda: mxnet.PolyScheduler(9, warmup_mode="x")),
    ],
)
def test_arguments_are_checked(match, make):
    with pytest.raises(ValueError, match=match):
        make()
