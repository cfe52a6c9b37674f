"""Random settings of MXNet's FTML, and how far ours is from MXNet on one."""

import random

import jax
import jax.numpy as jnp
import numpy as np

from optax_ftml import mxnet
from tests import reference
from tests.programs import mxnet_runs

RECORD = [1, 2, 5, 10, 20, 30, 40, 50]

PARAMS = (
    {"weight": [3, 4], "bias": [4]},
    {"conv/weight": [2, 1, 3, 3], "conv/bias": [2], "scale": [1]},
    {"weight": [17]},
    {"embedding": [5, 2], "dense/weight": [2, 2], "dense/bias": [2]},
)


def random_setting(seed):
    """Returns a setting as tests/programs/mxnet_runs.py wants it.

    Left out is what MXNet cannot do: a learning rate of 0, by which it
    divides. With parameters in float64 the numbers are multiples of 1/1024:
    MXNet's fused step takes them in float32, and from text that it does not
    read to the last bit.
    """
    rng = random.Random(seed)

    def uniform(low, high):
        return float(np.float32(rng.uniform(low, high)))

    def log_uniform(low, high):
        return float(np.float32(low * (high / low) ** rng.random()))

    def factors():
        names = (name for name in params if rng.random() < 0.3)
        return {name: rng.choice([0.5, 2.0, 0.25]) for name in names}

    params = rng.choice(PARAMS)
    begin_num_update = rng.choice([0, 0, 0, 7, 40])
    scheduler = None
    if rng.random() < 0.5:
        scheduler = _random_scheduler(rng, log_uniform(1e-3, 0.1))
    rates = [None, 0.0025, log_uniform(1e-4, 0.1), log_uniform(1e-4, 0.1)]
    options = {
        "learning_rate": rng.choice(rates),
        "beta1": rng.choice([0.0, 0.6, uniform(0, 0.95)]),
        "beta2": rng.choice([0.999, 0.9999, uniform(0.8, 0.999)]),
        "epsilon": rng.choice([1e-8, log_uniform(1e-8, 1e-2)]),
        "rescale_grad": rng.choice([1.0, 1 / 32, log_uniform(0.01, 10)]),
    }
    bounds = [log_uniform(0.1, 3) for _ in range(3)]
    options["clip_gradient"] = rng.choice([None, 0, -1.0, *bounds])
    options["wd"] = rng.choice([0.0, log_uniform(1e-4, 0.3)])
    options["begin_num_update"] = begin_num_update
    dtype = rng.choice(["float16", "float32", "float32", "float64"])
    if dtype == "float64":
        options = {
            name: _binary(x) if isinstance(x, float) else x
            for name, x in options.items()
        }
    options["multi_precision"] = dtype == "float16" or rng.random() < 0.2
    return {
        "options": options,
        "scheduler": scheduler,
        "lr_mult": factors(),
        "wd_mult": factors() | {n: 0.0 for n in params if rng.random() < 0.2},
        "params": params,
        "dtype": dtype,
        "order": rng.choice(["1.x", "2.x"]),
        "seed": seed,
        "grad_scale": log_uniform(1e-2, 10),
        "record": RECORD,
    }


def _binary(x):
    x = max(round(x * 1024), min(x, 1)) / 1024
    return 1023 / 1024 if x == 1 else x


def _random_scheduler(rng, base_lr):
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
    arguments = {
        "FactorScheduler": {
            "step": rng.randint(1, 30),
            "factor": rng.uniform(0.5, 1),
            "stop_factor_lr": base_lr / 20,
        },
        "MultiFactorScheduler": {
            "step": sorted(rng.sample(range(1, 80), rng.randint(1, 4))),
            "factor": rng.uniform(0.3, 1),
        },
        "PolyScheduler": {"pwr": rng.choice([1, 2, 0.5]), **end},
        "CosineScheduler": end,
    }
    name = rng.choice(list(arguments))
    return [name, {**arguments[name], **warmup}]


def scheduler_of(setting):
    """Returns our scheduler with a setting's arguments, or None."""
    if not setting["scheduler"]:
        return None
    name, arguments = setting["scheduler"]
    return getattr(mxnet, name)(**arguments)


def learning_rates(setting):
    """Returns our recorded learning rates."""
    scheduler = scheduler_of(setting)
    learning_rate = setting["options"]["learning_rate"]
    if learning_rate is not None:
        scheduler = scheduler.with_base_lr(learning_rate)
    return np.asarray(scheduler(jnp.array(setting["record"]) - 1))


def trajectory(setting):
    """Returns the recorded weights of a run of ours, by parameter."""
    options = {x: setting[x] for x in ("lr_mult", "wd_mult", "order")}
    options |= setting["options"]
    optimizer = mxnet.ftml(**options, lr_scheduler=scheduler_of(setting))
    params, grads = mxnet_runs.inputs(setting)

    def grads_at(t, _):
        return jax.tree.map(lambda g: g[t], grads)

    updates = setting["record"][-1]
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", setting["dtype"] == "float64")
    try:
        grads = jax.tree.map(lambda *g: jnp.stack(g), *grads)
        weights, *_ = reference.run(optimizer, params, grads_at, updates)
    finally:
        jax.config.update("jax_enable_x64", before)
    record = np.array(setting["record"]) - 1
    return {name: np.asarray(x)[record] for name, x in weights.items()}


def runs_of(setting):
    """Returns the names of the MXNet runs that a setting is compared with."""
    if setting["order"] == "1.x":
        return ["1.9.1"]
    clip = setting["options"].get("clip_gradient")
    # MXNet's plain step takes 0 and negative numbers to its clip, which then
    # returns constants.
    return ["fused"] if clip is not None and clip <= 0 else ["fused", "step"]


def errors(number, setting, results):
    """Yields the runs of MXNet and the largest error, in units of the allowed.

    Args:
        number: The setting's.
        setting: The setting.
        results: MXNet's, by run.
    """
    ours = trajectory(setting)
    for run in runs_of(setting):
        theirs = {name: results[run][f"{number}/{name}"] for name in ours}
        yield run, max(_excess(setting, run, ours[n], theirs[n]) for n in ours)


def _excess(setting, run, ours, theirs):
    """Returns the largest error of an array, in units of what is allowed.

    That is one unit in the last place in float16 (or what is allowed in
    float32, which is more where a weight is close to 0), 2e-5 of the
    parameters' size in float32, and 1e-12 of it in float64; but 1e-6 where
    MXNet's fused step rounds a scheduled learning rate to float32. With a
    master copy it is 2^-11 of the size in float16: a step that more than halves
    a weight is rounded to float16, as its gradient is.
    """
    assert ours.dtype == theirs.dtype == setting["dtype"]
    ours, theirs = ours.astype(float), theirs.astype(float)
    options = setting["options"]
    relative = 2e-5
    if setting["dtype"] == "float64":
        is_scheduled = setting["scheduler"] or options["learning_rate"] is None
        relative = 1e-6 if is_scheduled and run != "step" else 1e-12
    elif setting["dtype"] == "float16" and options["multi_precision"]:
        relative = 2**-11
    allowed = relative * np.max(np.abs(theirs))
    if setting["dtype"] == "float16":
        unit = np.spacing(np.abs(theirs).astype(np.float16))
        allowed = np.maximum(unit.astype(float), allowed)
    return float(np.max(np.abs(ours - theirs) / allowed))
