"""The FTML object in MXNet's files of states: to our options, and back.

Its fields are MXNet's own, learning-rate scheduler and counts of updates
included. What has another type than MXNet gives it is an error.
"""

import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

import numpy as np

from optax_ftml.mxnet import _factory
from optax_ftml.mxnet import _pickles
from optax_ftml.mxnet import _schedulers

Key = int | str

# The options of ftml that are numbers, and MXNet's names of them.
_NUMBERS = {
    "learning_rate": "lr",
    "beta1": "beta1",
    "beta2": "beta2",
    "epsilon": "epsilon",
    "rescale_grad": "rescale_grad",
    "clip_gradient": "clip_gradient",
    "wd": "wd",
    "begin_num_update": "begin_num_update",
    "multi_precision": "multi_precision",
}


def read(optimizer: Any, keys: Collection[Key]) -> tuple[int, dict[str, Any]]:
    """Returns the number of updates and the options of a pickled optimizer.

    Args:
        optimizer: What the pickle has where the optimizer is expected.
        keys: MXNet's indices or names of the parameters.

    Raises:
        ValueError: It is not FTML's, or a field is not what it should be.
    """
    if getattr(optimizer, "name", None) not in _pickles.FTML:
        raise ValueError("its optimizer must be FTML")
    fields = _fields(optimizer)
    options = {
        option: _number(fields, name, optional=name in ("lr", "clip_gradient"))
        for option, name in _NUMBERS.items()
    }
    options["order"] = _pickles.FTML[optimizer.name]
    scheduler = fields.get("lr_scheduler")
    if scheduler is not None:
        options["lr_scheduler"] = _scheduler(scheduler)
        # MXNet has made it the scheduler's base already.
        options["learning_rate"] = None
    names = _dict(fields, "idx2name")
    for field in ("lr_mult", "wd_mult"):
        given = _dict(fields, field)
        options[field] = {
            key: _number(given, name)
            for key in keys
            for name in (key, names.get(key))
            # A tuple may be too deep to look it up.
            if isinstance(name, int | str) and name in given
        }
    return _num_update(fields), options


def make(
    options: Mapping[str, Any],
    num_update: int,
    keys: Collection[Key],
    order: str,
) -> _pickles.Object:
    """Returns the FTML object that MXNet would have pickled.

    Args:
        options: Arguments of :func:`optax_ftml.mxnet.ftml`.
        num_update: Number of updates so far.
        keys: MXNet's indices or names of the parameters.
        order: The MXNet to pickle for, "1.x" or "2.x".

    Raises:
        ValueError: A learning-rate schedule that is not MXNet's.
    """
    options = {**_factory.DEFAULTS, **options}
    scheduler = None
    learning_rate = _factory.resolve_learning_rate(
        options["learning_rate"], options["lr_scheduler"]
    )
    if callable(learning_rate):
        scheduler, learning_rate = learning_rate, None
    options["learning_rate"] = learning_rate
    counts = dict.fromkeys(keys, num_update)
    is_1 = order == "1.x"
    fields = {
        **{name: _plain(options[option]) for option, name in _NUMBERS.items()},
        "lr_scheduler": scheduler and _scheduler_object(scheduler, num_update),
        "lr_mult": dict(options["lr_mult"] or {}),
        "wd_mult": dict(options["wd_mult"] or {}),
        "num_update": num_update,
        "_all_index_update_counts": {0: counts},
        "_index_update_count": counts,
        "aggregate_num": 0 if is_1 else 1,
        "idx2name": {},
        "sym_info": (),
        "allow_np_array": True,
        **({} if is_1 else {"use_fused_step": True}),
    }
    module = "mxnet.optimizer.optimizer" if is_1 else "mxnet.optimizer.ftml"
    return _pickles.make(f"{module}.FTML", fields)


def _num_update(fields):
    counts = _dict(fields, "_all_index_update_counts") or {
        0: _dict(fields, "_index_update_count")
    }
    numbers = {
        _number(_dict(counts, device), key)
        for device in counts
        for key in _dict(counts, device)
    } or {_number(fields, "num_update")}
    if len(numbers) > 1:
        raise ValueError(
            "its parameters must have been updated equally often, got "
            f"{sorted(numbers)} updates"
        )
    return numbers.pop()


def _scheduler(value):
    if getattr(value, "name", None) not in _pickles.SCHEDULERS:
        raise ValueError("its lr_scheduler must be one of MXNet's")
    fields = _fields(value)
    kind = value.name.rpartition(".")[2]
    names = _field_names(getattr(_schedulers, kind))
    arguments = {name: _number(fields, field) for name, field in names.items()}
    arguments["warmup_mode"] = fields.get("warmup_mode")
    if kind == "MultiFactorScheduler":
        arguments["step"] = fields.get("step")
    return getattr(_schedulers, kind)(**arguments)


def _field_names(scheduler):
    """Returns MXNet's name of each argument of a scheduler that is a number."""
    names = {field.name: field.name for field in dataclasses.fields(scheduler)}
    del names["warmup_mode"]
    if "pwr" in names:
        names["pwr"] = "power"
    if "cur_step_ind" in names:
        del names["step"]  # a list
    return names


def _fields(value):
    if not isinstance(value, _pickles.Object) or type(value.state) is not dict:
        raise ValueError("its optimizer and lr_scheduler must have fields")
    return value.state


def _number(fields, name, optional=False):
    value = fields.get(name)
    if optional and value is None:
        return None
    if not isinstance(value, int | float):
        raise ValueError(
            f"its field {name!r} must be a number, got a {type(value).__name__}"
        )
    return value


def _dict(fields, name):
    value = fields.get(name, {})
    if type(value) is not dict:
        raise ValueError(
            f"its field {name!r} must be a dict, got a {type(value).__name__}"
        )
    return value


def _scheduler_object(scheduler, num_update):
    if not isinstance(scheduler, _schedulers.Scheduler):
        raise ValueError(
            "lr_scheduler must be one of MXNet's to be written with the "
            f"optimizer, got {scheduler!r}. states._replace(options=None) is "
            "written without."
        )
    fields = {
        field: _plain(getattr(scheduler, name))
        for name, field in _field_names(scheduler).items()
    }
    fields["warmup_mode"] = scheduler.warmup_mode
    if isinstance(scheduler, _schedulers.MultiFactorScheduler):
        fields.update(step=list(scheduler.step), count=0)
    if isinstance(
        scheduler, _schedulers.PolyScheduler | _schedulers.CosineScheduler
    ):
        fields["base_lr_orig"] = fields["warmup_final_lr"]
        fields["max_steps"] = scheduler.max_update - scheduler.warmup_steps
        # MXNet does not compute it again after that.
        if num_update >= scheduler.max_update:
            fields["base_lr"] = float(scheduler(num_update - 1))
    name = f"mxnet.lr_scheduler.{type(scheduler).__name__}"
    return _pickles.make(name, fields)


def _plain(number):
    return np.asarray(number).item()
