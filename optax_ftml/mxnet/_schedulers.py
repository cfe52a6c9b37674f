"""MXNet's learning-rate schedulers, as optax schedules.

MXNet asks a scheduler for the learning rate of update 1, 2, ...; optax asks a
schedule with the number of updates before, 0, 1, .... MXNet's schedulers keep
their last answer and change it; these are functions of the count alone.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ftml import _checks

WarmupMode = Literal["linear", "constant"]


class Scheduler:
    """The warm-up that the four schedulers share, and the checks."""

    base_lr: float
    warmup_steps: int
    warmup_begin_lr: float
    warmup_mode: WarmupMode
    warmup_final_lr: float | None

    def __post_init__(self):
        if self.warmup_final_lr is None:
            object.__setattr__(self, "warmup_final_lr", self.base_lr)
        for name, value in vars(self).items():
            for x in value if isinstance(value, tuple) else [value]:
                _check(name, x)
        begin, end = self.warmup_begin_lr, self.warmup_final_lr
        right = f"at most base_lr ({end})"
        _checks.check(begin <= end, "warmup_begin_lr", right, begin)

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        """Returns the learning rate after `count` updates, of its shape."""
        count = jnp.asarray(count)
        update = optax.safe_increment(count)
        return jnp.where(
            update < self.warmup_steps, self._warmup(update), self._decay(count)
        )

    def with_base_lr(self, learning_rate: float) -> "Scheduler":
        """Returns what MXNet makes of it, given a learning rate as well.

        The learning rate replaces `base_lr`, but not where the warm-up ends
        nor, in `PolyScheduler` and `CosineScheduler`, where the decay starts:
        MXNet has copied these from `base_lr` before.
        """
        return dataclasses.replace(self, base_lr=learning_rate)  # type: ignore[type-var]

    def _warmup(self, update):
        if self.warmup_mode == "constant":
            return self.warmup_begin_lr
        rise = self.warmup_final_lr - self.warmup_begin_lr
        fraction = _float(update) / max(self.warmup_steps, 1)
        return self.warmup_begin_lr + rise * fraction

    def _decay(self, count):
        raise NotImplementedError


def _hidden(default):
    return dataclasses.field(default=default, kw_only=True, repr=False)


@dataclasses.dataclass(frozen=True)
class FactorScheduler(Scheduler):
    """Multiplies the learning rate by a factor every `step` updates.

    The learning rate of update n = count + 1 is base_lr * factor^k with
    k = floor((n - 1) / step), and at least `stop_factor_lr` once k > 0.

    Args:
        step: Updates between two changes, at least 1.
        factor: In [0, 1].
        stop_factor_lr: The learning rate does not fall below it.
        base_lr: The learning rate to begin with.
        warmup_steps: Updates 1 to `warmup_steps` - 1 are the warm-up. It does
            not delay the decay.
        warmup_begin_lr: Where the warm-up begins, at most `base_lr`.
        warmup_mode: "linear" rises to `base_lr`; "constant" stays at
            `warmup_begin_lr`.
        warmup_final_lr: `base_lr` before a learning rate replaced it.
        count: Updates that `base_lr` has already decayed for, in a scheduler
            out of a file.

    Raises:
        ValueError: An argument out of its range.

    Examples:
        >>> from optax_ftml import mxnet
        >>> schedule = mxnet.FactorScheduler(step=2, factor=0.5, base_lr=1.0)
        >>> print([float(schedule(count)) for count in range(5)])
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    step: int
    factor: float = 1
    stop_factor_lr: float = 1e-8
    base_lr: float = 0.01
    warmup_steps: int = 0
    warmup_begin_lr: float = 0
    warmup_mode: WarmupMode = "linear"
    warmup_final_lr: float | None = _hidden(None)
    count: int = _hidden(0)

    def _decay(self, count):
        k = jnp.maximum(count - self.count, 0) // self.step
        # In float32 the rounding of a factor near 1 would be magnified k
        # times; that of its logarithm is not.
        logarithm = math.log(max(self.factor, 1e-38))
        decayed = self.base_lr * jnp.exp(_float(k) * logarithm)
        return jnp.where(
            k == 0, self.base_lr, jnp.maximum(decayed, self.stop_factor_lr)
        )


@dataclasses.dataclass(frozen=True)
class MultiFactorScheduler(Scheduler):
    """Multiplies the learning rate by a factor after each of some updates.

    The learning rate of update n = count + 1 is base_lr * factor^k, where k is
    how many of `step` are below n.

    Args:
        step: Increasing numbers of updates, each at least 1.
        factor: In [0, 1].
        base_lr: The learning rate to begin with.
        warmup_steps: Updates 1 to `warmup_steps` - 1 are the warm-up. It does
            not delay the decay.
        warmup_begin_lr: Where the warm-up begins, at most `base_lr`.
        warmup_mode: "linear" rises to `base_lr`; "constant" stays at
            `warmup_begin_lr`.
        warmup_final_lr: `base_lr` before a learning rate replaced it.
        cur_step_ind: How many of `step` `base_lr` has already decayed for, in
            a scheduler out of a file.

    Raises:
        ValueError: An argument out of its range.

    Examples:
        >>> from optax_ftml import mxnet
        >>> schedule = mxnet.MultiFactorScheduler(
        ...     step=[1, 3], factor=0.5, base_lr=1.0
        ... )
        >>> print([float(schedule(count)) for count in range(5)])
        [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    step: Sequence[int]
    factor: float = 1
    base_lr: float = 0.01
    warmup_steps: int = 0
    warmup_begin_lr: float = 0
    warmup_mode: WarmupMode = "linear"
    warmup_final_lr: float | None = _hidden(None)
    cur_step_ind: int = _hidden(0)

    def __post_init__(self):
        is_list = isinstance(self.step, list | tuple) and len(self.step) > 0
        _checks.check(is_list, "step", "a list of updates", repr(self.step))
        object.__setattr__(self, "step", tuple(self.step))
        super().__post_init__()
        is_increasing = np.all(np.diff(self.step) > 0)
        _checks.check(is_increasing, "step", "increasing", [*self.step])

    def _decay(self, count):
        steps = self.step[self.cur_step_ind :]
        k = jnp.searchsorted(jnp.array(steps, count.dtype), count, side="right")
        # Optax's piecewise_constant_schedule rounds after each factor.
        powers = float(self.factor) ** np.arange(len(steps) + 1)
        return self.base_lr * _float(powers)[k]


@dataclasses.dataclass(frozen=True)
class PolyScheduler(Scheduler):
    """Lowers the learning rate as a power of the updates that are left.

    The learning rate of update n = count + 1, from the end of the warm-up to
    `max_update`, is final_lr + (base_lr - final_lr) * r^pwr with
    r = (max_update - n) / (max_update - warmup_steps), and after that stays.

    Args:
        max_update: The update that reaches `final_lr`, at least 1.
        base_lr: The learning rate to begin with.
        pwr: The power, at least 0.
        final_lr: The learning rate at the end.
        warmup_steps: Updates 1 to `warmup_steps` - 1 are the warm-up. One that
            is not below `max_update` leaves no decay: `base_lr` stays.
        warmup_begin_lr: Where the warm-up begins, at most `base_lr`.
        warmup_mode: "linear" rises to `base_lr`; "constant" stays at
            `warmup_begin_lr`.
        warmup_final_lr: `base_lr` before a learning rate replaced it.

    Raises:
        ValueError: An argument out of its range.

    Examples:
        >>> from optax_ftml import mxnet
        >>> schedule = mxnet.PolyScheduler(max_update=4, base_lr=1.0)
        >>> print([float(schedule(count)) for count in range(5)])
        [0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    max_update: int
    base_lr: float = 0.01
    pwr: float = 2
    final_lr: float = 0
    warmup_steps: int = 0
    warmup_begin_lr: float = 0
    warmup_mode: WarmupMode = "linear"
    warmup_final_lr: float | None = _hidden(None)

    def _decay(self, count):
        return _to_end(self, count, lambda left: left**self.pwr)


@dataclasses.dataclass(frozen=True)
class CosineScheduler(Scheduler):
    """Lowers the learning rate as half a cosine.

    The learning rate of update n = count + 1, from the end of the warm-up to
    `max_update`, is
    final_lr + (base_lr - final_lr) * (1 + cos(pi (1 - r))) / 2 with
    r = (max_update - n) / (max_update - warmup_steps), and after that stays.

    Args:
        max_update: The update that reaches `final_lr`, at least 1.
        base_lr: The learning rate to begin with.
        final_lr: The learning rate at the end.
        warmup_steps: Updates 1 to `warmup_steps` - 1 are the warm-up. One that
            is not below `max_update` leaves no decay: `base_lr` stays.
        warmup_begin_lr: Where the warm-up begins, at most `base_lr`.
        warmup_mode: "linear" rises to `base_lr`; "constant" stays at
            `warmup_begin_lr`.
        warmup_final_lr: `base_lr` before a learning rate replaced it.

    Raises:
        ValueError: An argument out of its range.

    Examples:
        >>> from optax_ftml import mxnet
        >>> schedule = mxnet.CosineScheduler(max_update=4, base_lr=1.0)
        >>> print([round(float(schedule(count)), 4) for count in range(5)])
        [0.8536, 0.5, 0.1464, 0.0, 0.0]
    """

    max_update: int
    base_lr: float = 0.01
    final_lr: float = 0
    warmup_steps: int = 0
    warmup_begin_lr: float = 0
    warmup_mode: WarmupMode = "linear"
    warmup_final_lr: float | None = _hidden(None)

    def _decay(self, count):
        # It is (1 + cos(pi (1 - left))) / 2, without the cancellation.
        return _to_end(self, count, lambda left: jnp.sin(np.pi / 2 * left) ** 2)


def _to_end(scheduler, count, height_of):
    """Returns the learning rate of a decay that ends with max_update.

    Args:
        scheduler: The scheduler.
        count: Number of updates before.
        height_of: The height of the decay, from 1 to 0, as a function of how
            much of its updates is left, from 1 to 0.
    """
    steps = scheduler.max_update - scheduler.warmup_steps
    if steps <= 0:
        return scheduler.base_lr
    # Subtracted as integers: 1 - n / max_update would cancel.
    left = jnp.maximum(scheduler.max_update - 1 - count, 0)
    begin, end = scheduler.warmup_final_lr, scheduler.final_lr
    return end + (begin - end) * height_of(_float(left) / steps)


def _float(x):
    return jnp.asarray(x, float)


def _check(name, value):
    if name in ("step", "max_update", "warmup_steps", "count", "cur_step_ind"):
        check_integer(name, value, 1 if name in ("step", "max_update") else 0)
        return
    if name == "warmup_mode":
        is_right = value in ("linear", "constant")
        right = "'linear' or 'constant'"
    elif name == "factor":
        is_right = isinstance(value, numbers.Real) and 0 <= value <= 1
        right = "a number in [0, 1]"
    else:  # ftml checks a learning rate that is an array.
        is_number = isinstance(value, numbers.Real) and 0 <= value < np.inf
        is_right = is_number or isinstance(value, jax.Array)
        right = "a finite number, at least 0"
    _checks.check(is_right, name, right, repr(value))


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises unless it is an integer, and at least so large."""
    is_right = isinstance(value, int | np.integer) and value >= least
    right = f"an integer of at least {least}"
    _checks.check(is_right, name, right, repr(value))
