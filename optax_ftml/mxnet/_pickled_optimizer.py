"""The FTML object in MXNet's files of states: to our options, and back.

Its fields are MXNet's own, learning-rate scheduler and counts of updates
included.
"""

import inspect
import operator
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from optax_ftml import _checks
from optax_ftml.mxnet import _factory, _pickles, _schedulers

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
    names = _pickles.FTML
    fields = _pickles.fields_of(optimizer, names, "its optimizer", "FTML")
    options = _arguments(fields, _OPTIONS)
    options["order"] = names[optimizer.name]
    options["multi_precision"] = bool(options["multi_precision"])
    scheduler = fields.get("lr_scheduler")
    if scheduler is not None:
        options["lr_scheduler"] = _read_scheduler(scheduler)
        # MXNet has made it the scheduler's base already.
        options["learning_rate"] = None
    _factory.ftml(**options)  # for its errors
    idx2name = fields.get("idx2name", {})
    for field in ("lr_mult", "wd_mult"):
        factors = fields.get(field, {})
        options[field] = {
            key: float(factors[name])
            for key in keys
            for name in (key, idx2name.get(key))
            # A tuple may be too deep for its hash.
            if isinstance(name, int | str) and factors.get(name) is not None
        }
    return _num_update(fields), options


def make(
    options: Mapping[str, Any], num_update: int, keys: Collection[Key]
) -> _pickles.Object:
    """Returns the FTML object that MXNet would have pickled.

    Args:
        options: Arguments of :func:`optax_ftml.mxnet.ftml`, `order` being that
            of the MXNet to pickle for.
        num_update: Number of updates so far.
        keys: MXNet's indices or names of the parameters.

    Raises:
        ValueError: A learning-rate schedule that is not MXNet's.
    """
    options = {**_factory.DEFAULTS, **options}
    rate, scheduler = options["learning_rate"], options["lr_scheduler"]
    rate = _factory.resolve_learning_rate(rate, scheduler)
    if scheduler is not None:
        rate, scheduler = None, _make_scheduler(rate, num_update)
    counts = dict.fromkeys(keys, num_update)
    fields = {
        **_fields({**options, "learning_rate": rate}, _OPTIONS),
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
    if options["order"] == "1.x":
        fields["aggregate_num"] = 0
        return _pickles.make("mxnet.optimizer.optimizer.FTML", fields)
    fields.update(aggregate_num=1, use_fused_step=True)
    return _pickles.make("mxnet.optimizer.ftml.FTML", fields)


def _num_update(fields):
    counts = fields.get("_all_index_update_counts")
    counts = counts or {0: fields.get("_index_update_count", {})}
    numbers = [n for device in counts.values() for n in device.values()]
    numbers = set(map(operator.index, numbers or [fields["num_update"]]))
    is_one, right = len(numbers) == 1, "the same for every parameter"
    _checks.check(is_one, "its number of updates", right, sorted(numbers))
    return numbers.pop()


def _read_scheduler(value):
    names, right = _pickles.SCHEDULERS, "one of MXNet's"
    fields = _pickles.fields_of(value, names, "its lr_scheduler", right)
    kind = getattr(_schedulers, value.name.rpartition(".")[2])
    return kind(**_arguments(fields, inspect.signature(kind).parameters))


def _make_scheduler(scheduler, num_update):
    is_mxnets = isinstance(scheduler, _schedulers.Scheduler)
    right = (
        "one of MXNet's to be written with the optimizer "
        "(states._replace(options=None) is written without)"
    )
    _checks.check(is_mxnets, "lr_scheduler", right, repr(scheduler))
    fields = _fields(vars(scheduler), vars(scheduler))
    if "max_update" in fields:
        fields["base_lr_orig"] = fields["warmup_final_lr"]
        fields["max_steps"] = scheduler.max_update - scheduler.warmup_steps
        # MXNet does not compute it again after that.
        if num_update >= scheduler.max_update:
            fields["base_lr"] = float(scheduler(num_update - 1))
    name = f"mxnet.lr_scheduler.{type(scheduler).__name__}"
    return _pickles.make(name, fields)


def _arguments(fields, names):
    """Returns the fields by the names of our arguments, which check them."""
    arguments = {name: fields.get(_FIELDS.get(name, name)) for name in names}
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        is_plain = all(isinstance(x, int | float | str | None) for x in values)
        # Others could be too long for an error that shows them.
        what, got = f"its field {name!r}", type(value).__name__
        _checks.check(is_plain, what, "of plain numbers or text", got)
    return arguments


def _fields(arguments, names):
    """Returns arguments by MXNet's names, as Python's numbers and lists."""
    return {
        _FIELDS.get(name, name): np.asarray(arguments[name]).tolist()
        for name in names
    }
