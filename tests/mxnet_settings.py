"""Random settings of MXNet's FTML, and how far ours is from MXNet on one."""

import contextlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ftml import mxnet
from tests import mxnet_runs

STEPS = 50
RECORD = [1, 2, 5, 10, 20, 30, 40, 50]

PARAMS = (
    {"weight": [3, 4], "bias": [4]},
    {"conv/weight": [2, 1, 3, 3], "conv/bias": [2], "scale": [1]},
    {"weight": [17]},
    {"embedding": [5, 2], "dense/weight": [2, 2], "dense/bias": [2]},
)


def random_setting(seed):
    """Returns a setting as tests/mxnet_runs.py wants it.

    Left out is what MXNet cannot do: a learning rate of 0, by which it
    divides. With parameters in float64 the numbers are rounded to float32, in
    which MXNet's fused step takes them.
    """
    rng = random.Random(seed)
    params = rng.choice(PARAMS)
    begin_num_update = rng.choice([0, 0, 0, 7, 40])
    scheduler = _random_scheduler(rng) if rng.random() < 0.5 else None
    options = {
        "learning_rate": rng.choice(
            [None, 0.0025, *(_log_uniform(rng, 1e-4, 0.1) for _ in range(2))]
        ),
        "beta1": rng.choice([0.0, 0.6, _float32(rng.uniform(0, 0.95))]),
        "beta2": rng.choice([0.999, 0.9999, _float32(rng.uniform(0.8, 0.999))]),
        "epsilon": rng.choice([1e-8, _log_uniform(rng, 1e-8, 1e-2)]),
        "rescale_grad": rng.choice([1.0, 1 / 32, _log_uniform(rng, 0.01, 10)]),
        "clip_gradient": rng.choice(
            [None, 0, -1.0, *(_log_uniform(rng, 0.1, 3) for _ in range(3))]
        ),
        "wd": rng.choice([0.0, _log_uniform(rng, 1e-4, 0.3)]),
        "begin_num_update": begin_num_update,
    }
    dtype = rng.choice(["float16", "float32", "float32", "float64"])
    if dtype == "float64":
        options = {
            name: _float32(x) if isinstance(x, float) else x
            for name, x in options.items()
        }
    options["multi_precision"] = dtype == "float16" or rng.random() < 0.2
    return {
        "options": options,
        "scheduler": scheduler,
        "lr_mult": _random_factors(rng, params),
        "wd_mult": {**_random_factors(rng, params), **_some_zero(rng, params)},
        "params": params,
        "dtype": dtype,
        "order": rng.choice(["1.x", "2.x"]),
        "seed": seed,
        "grad_scale": _log_uniform(rng, 1e-2, 10),
        "record": RECORD,
    }


def _float32(x):
    return float(np.float32(x))


def _log_uniform(rng, low, high):
    return _float32(low * (high / low) ** rng.random())


def _random_factors(rng, params):
    return {
        name: rng.choice([0.5, 2.0, 0.25])
        for name in params
        if rng.random() < 0.3
    }


def _some_zero(rng, params):
    return dict.fromkeys([n for n in params if rng.random() < 0.2], 0.0)


def _random_scheduler(rng):
    base_lr = _log_uniform(rng, 1e-3, 0.1)
    warmup = {
        "base_lr": base_lr,
        "warmup_steps": rng.choice([0, 0, 5, 20, 60]),
        "warmup_begin_lr": base_lr * rng.choice([0.1, 0.5, 1.0]),
        "warmup_mode": rng.choice(["linear", "constant"]),
    }
    end = {
        "max_update": rng.randint(65, 150),
        "final_lr": base_lr * rng.choice([0.01, 0.1]),
    }
    return rng.choice(
        [
            [
                "FactorScheduler",
                {
                    "step": rng.randint(1, 30),
                    "factor": rng.uniform(0.5, 1),
                    "stop_factor_lr": base_lr / 20,
                    **warmup,
                },
            ],
            [
                "MultiFactorScheduler",
                {
                    "step": sorted(rng.sample(range(1, 80), rng.randint(1, 4))),
                    "factor": rng.uniform(0.3, 1),
                    **warmup,
                },
            ],
            [
                "PolyScheduler",
                {"pwr": rng.choice([1, 2, 0.5]), **end, **warmup},
            ],
            ["CosineScheduler", {**end, **warmup}],
        ]
    )


def optimizer_of(setting):
    """Returns ours with a setting's arguments."""
    scheduler = setting["scheduler"]
    if scheduler:
        name, arguments = scheduler
        scheduler = getattr(mxnet, name)(**arguments)
    return mxnet.ftml(
        **setting["options"],
        lr_scheduler=scheduler,
        lr_mult=setting["lr_mult"],
        wd_mult=setting["wd_mult"],
        order=setting["order"],
    )


def trajectory(setting, optimizer):
    """Returns the recorded weights of a run of ours, by parameter."""
    with x64() if setting["dtype"] == "float64" else contextlib.nullcontext():
        params, grads = mxnet_runs.inputs(setting)
        grads = jax.tree.map(lambda *g: jnp.stack(g), *grads)

        def step(carry, grads):
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        @jax.jit
        def run(params, grads):
            start = (params, optimizer.init(params))
            return jax.lax.scan(step, start, grads)[1]

        record = np.array(setting["record"]) - 1
        return {
            name: np.asarray(values)[record]
            for name, values in run(params, grads).items()
        }


@contextlib.contextmanager
def x64():
    """Enables float64."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def runs_of(setting):
    """Returns the names of the MXNet runs that a setting is compared with."""
    if setting["order"] == "1.x":
        return ["1.9.1"]
    clip = setting["options"].get("clip_gradient")
    # MXNet's plain step takes 0 and negative numbers to its clip, which then
    # returns constants.
    return ["fused"] if clip is not None and clip <= 0 else ["fused", "step"]


def excess(setting, run, ours, theirs):
    """Returns the largest error, in units of what is allowed.

    That is one unit in the last place in float16, 2e-5 of the parameters' size
    in float32 and 1e-12 in float64; but 1e-6 where MXNet's fused step rounds a
    scheduled learning rate to float32.
    """
    if setting["dtype"] == "float16":
        # As far apart as neighbours: one unit in the last place.
        order = [_in_order(x).astype(int) for x in (ours, theirs)]
        return float(np.max(np.abs(order[0] - order[1])))
    allowed = 2e-5 if setting["dtype"] == "float32" else 1e-12
    unrounded = (
        setting["scheduler"] or setting["options"]["learning_rate"] is None
    )
    if setting["dtype"] == "float64" and run != "step" and unrounded:
        allowed = 1e-6
    error = np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))
    return float(error) / allowed


def _in_order(x):
    bits = x.view(np.int16).astype(int)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)
