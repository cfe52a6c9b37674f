"""The FTML object in MXNet's files of states: to our options, and back.

Its fields are MXNet's own, learning-rate scheduler and counts of updates
included.
"""

import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

import numpy as np

from optax_ftml import _checks
from optax_ftml.mxnet import _factory
from optax_ftml.mxnet import _pickles
from optax_ftml.mxnet import _schedulers

Key = int | str

_OPTIONS = [
    *("learning_rate", "beta1", "beta2", "epsilon", "rescale_grad"),
    *("clip_gradient", "wd", "begin_num_update", "multi_precision"),
]

# The fields that are not called like our arguments.
_FIELDS = {"learning_rate": "lr", "pwr": "power"}


def read(optimizer: Any, keys: Collection[Key]) -> tuple[int, dict[str, Any]]:
    """Returns the number of updates and the options of a pickled optimizer.

    Args:
        optimizer: What the pickle has where the optimizer is expected.
        keys: MXNet's indices or names of the parameters.

    Raises:
        TypeError, ValueError: It is not FTML's, or a field is not what it
            should be.
    """
    fields = _fields_of(optimizer, "its optimizer", "FTML", _pickles.FTML)
    options = _arguments(fields, _OPTIONS)
    options["order"] = _pickles.FTML[optimizer.name]
    if fields.get("lr_scheduler") is not None:
        options["lr_scheduler"] = _read_scheduler(fields["lr_scheduler"])
        # MXNet has made it the scheduler's base already.
        options["learning_rate"] = None
    options["multi_precision"] = _get(fields, "multi_precision", int)
    _factory.ftml(**options)  # for its errors
    names = _get(fields, "idx2name", dict)
    for field in ("lr_mult", "wd_mult"):
        multipliers = _get(fields, field, dict)
        options[field] = {
            key: _get(multipliers, name, int, float)
            for key in keys
            for name in (key, names.get(key))
            # A tuple may be too deep for its hash.
            if isinstance(name, int | str) and name in multipliers
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
    learning_rate = _factory.resolve_learning_rate(
        options["learning_rate"], options["lr_scheduler"]
    )
    scheduler = None
    if callable(learning_rate):
        scheduler = _make_scheduler(learning_rate, num_update)
        learning_rate = None
    options["learning_rate"] = learning_rate
    counts = dict.fromkeys(keys, num_update)
    fields = {
        **{_FIELDS.get(name, name): _plain(options[name]) for name in _OPTIONS},
        "lr_scheduler": scheduler,
        "lr_mult": dict(options["lr_mult"] or {}),
        "wd_mult": dict(options["wd_mult"] or {}),
        "num_update": num_update,
        "_all_index_update_counts": {0: counts},
        "_index_update_count": counts,
        "idx2name": {},
        "sym_info": (),
        "allow_np_array": True,
    }
    if order == "1.x":
        fields["aggregate_num"] = 0
        return _pickles.make("mxnet.optimizer.optimizer.FTML", fields)
    fields.update(aggregate_num=1, use_fused_step=True)
    return _pickles.make("mxnet.optimizer.ftml.FTML", fields)


def _num_update(fields):
    counts = _get(fields, "_all_index_update_counts", dict)
    counts = counts or {0: _get(fields, "_index_update_count", dict)}
    numbers = {
        _get(_get(counts, device, dict), key, int)
        for device in counts
        for key in counts[device]
    } or {_get(fields, "num_update", int)}
    is_one, right = len(numbers) == 1, "the same for every parameter"
    _checks.check(is_one, "its number of updates", right, sorted(numbers))
    return numbers.pop()


def _read_scheduler(value):
    names = _pickles.SCHEDULERS
    fields = _fields_of(value, "its lr_scheduler", "one of MXNet's", names)
    kind = getattr(_schedulers, value.name.rpartition(".")[2])
    arguments = [field.name for field in dataclasses.fields(kind)]
    return kind(**_arguments(fields, arguments))


def _make_scheduler(scheduler, num_update):
    is_mxnets = isinstance(scheduler, _schedulers.Scheduler)
    right = (
        "one of MXNet's to be written with the optimizer "
        "(states._replace(options=None) is written without)"
    )
    _checks.check(is_mxnets, "lr_scheduler", right, repr(scheduler))
    fields = {
        _FIELDS.get(name, name): _plain(value)
        for name, value in vars(scheduler).items()
    }
    if isinstance(scheduler, _schedulers.MultiFactorScheduler):
        fields["count"] = 0
    if "max_update" in fields:
        fields["base_lr_orig"] = fields["warmup_final_lr"]
        fields["max_steps"] = scheduler.max_update - scheduler.warmup_steps
        # MXNet does not compute it again after that.
        if num_update >= scheduler.max_update:
            fields["base_lr"] = float(scheduler(num_update - 1))
    name = f"mxnet.lr_scheduler.{type(scheduler).__name__}"
    return _pickles.make(name, fields)


def _fields_of(value, name, right, names):
    """Returns the fields of an object of one of these names."""
    is_right = getattr(value, "name", None) in names
    _checks.check(is_right, name, right, type(value).__name__)
    is_right, right = type(value.state) is dict, "an object with fields"
    _checks.check(is_right, name, right, type(value.state).__name__)
    return value.state


def _arguments(fields, names):
    """Returns the fields by the names of our arguments, which check them."""
    return {name: fields.get(_FIELDS.get(name, name)) for name in names}


def _get(fields, name, *kinds):
    """Returns a field of one of these types; without one, an empty dict."""
    value = fields.get(name, {})
    right = " or ".join(kind.__name__ for kind in kinds)
    is_right, got = isinstance(value, kinds), type(value).__name__
    _checks.check(is_right, f"its field {name!r}", right, got)
    return value


def _plain(value):
    """Returns a Python number, string, list or None."""
    return np.asarray(value).tolist()
