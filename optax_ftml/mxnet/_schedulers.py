"""MXNet's learning-rate schedulers, as optax schedules.

MXNet asks a scheduler for the learning rate of update 1, 2, ...; optax asks a
schedule with the number of updates before, 0, 1, .... MXNet's keep the last
answer and change it; these are functions of the count alone.

Optax's own schedules lose the small learning rates at the end of a decay to
cancellation in float32 (1 - t/T, 1 + cos(pi t/T)), and at the start of a
warm-up too. The formulas here are exact to a few units in the last place.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

WarmupMode = Literal["linear", "constant"]


class Scheduler:
    """The warm-up that the four schedulers share."""

    base_lr: float
    warmup_steps: int
    warmup_begin_lr: float
    warmup_mode: WarmupMode
    first_base_lr: float | None

    def __post_init__(self):
        if self.first_base_lr is None:
            object.__setattr__(self, "first_base_lr", self.base_lr)
        _check_int("warmup_steps", self.warmup_steps, 0)
        if not 0 <= self.first_base_lr < np.inf:
            raise ValueError(
                "base_lr must be at least 0 and finite, got "
                f"{self.first_base_lr}."
            )
        if not 0 <= self.warmup_begin_lr <= self.first_base_lr:
            raise ValueError(
                "warmup_begin_lr must be at least 0 and at most base_lr "
                f"({self.first_base_lr}), got {self.warmup_begin_lr}."
            )
        if self.warmup_mode not in ("linear", "constant"):
            raise ValueError(
                "warmup_mode must be 'linear' or 'constant', got "
                f"{self.warmup_mode!r}."
            )

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
        rise = self.first_base_lr - self.warmup_begin_lr
        return self.warmup_begin_lr + rise * (
            _float(update) / max(self.warmup_steps, 1)
        )

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
        first_base_lr: `base_lr` before a learning rate replaced it.
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
    first_base_lr: float | None = _hidden(None)
    count: int = _hidden(0)

    def __post_init__(self):
        super().__post_init__()
        _check_int("step", self.step, 1)
        _check_factor(self.factor)

    def _decay(self, count):
        k = (jnp.maximum(count - self.count, 0) // self.step).astype(int)
        decayed = self.base_lr * _power(self.factor, k)
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
        first_base_lr: `base_lr` before a learning rate replaced it.
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
    first_base_lr: float | None = _hidden(None)
    cur_step_ind: int = _hidden(0)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.step, list | tuple) or not self.step:
            raise ValueError(
                f"step must be a list of updates, got {self.step!r}."
            )
        for step, last in zip(self.step, [0, *self.step], strict=False):
            _check_int("step", step, 1)
            if step <= last:
                raise ValueError(f"step must be increasing, got {self.step}.")
        object.__setattr__(self, "step", tuple(self.step))
        _check_factor(self.factor)

    def _decay(self, count):
        steps = self.step[self.cur_step_ind :]
        k = sum((count >= step).astype(int) for step in steps)
        return self.base_lr * _power(self.factor, k)


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
        first_base_lr: `base_lr` before a learning rate replaced it.

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
    first_base_lr: float | None = _hidden(None)

    def __post_init__(self):
        super().__post_init__()
        _check_int("max_update", self.max_update, 1)
        if not 0 <= self.pwr < np.inf:
            raise ValueError(f"pwr must be at least 0, got {self.pwr}.")
        _check_final_lr(self.final_lr)

    def _decay(self, count):
        if self.warmup_steps >= self.max_update:
            return self.base_lr
        return _between(
            self.final_lr, self.first_base_lr, _left(self, count) ** self.pwr
        )


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
        first_base_lr: `base_lr` before a learning rate replaced it.

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
    first_base_lr: float | None = _hidden(None)

    def __post_init__(self):
        super().__post_init__()
        _check_int("max_update", self.max_update, 1)
        _check_final_lr(self.final_lr)

    def _decay(self, count):
        if self.warmup_steps >= self.max_update:
            return self.base_lr
        # (1 + cos(pi (1 - r))) / 2 = sin(pi r / 2)^2, which does not cancel.
        return _between(
            self.final_lr,
            self.first_base_lr,
            jnp.sin(np.pi / 2 * _left(self, count)) ** 2,
        )


def _left(scheduler, count):
    # Subtracted as integers: 1 - n / max_update would cancel.
    left = jnp.maximum(scheduler.max_update - 1 - jnp.asarray(count), 0)
    return _float(left) / (scheduler.max_update - scheduler.warmup_steps)


def _between(final_lr, base_lr, fraction):
    return final_lr + (base_lr - final_lr) * fraction


def _power(factor, k):
    """Returns factor^k for integers k of up to 32 bits, however far from 1.

    As a product over the base-16 digits of k of powers that are right: the
    rounding of `factor` to float32 would be magnified k times.
    """

    def of_digit(i):
        powers = float(factor) ** (16.0**i * np.arange(16))
        return _float(powers)[k >> 4 * i & 15]

    return math.prod(of_digit(i) for i in range(8))


def _float(x):
    return jnp.asarray(x, float)


def _check_int(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name} must be an integer of at least {least}, got {value!r}."
        )


def _check_factor(factor: float) -> None:
    if not 0 <= factor <= 1:
        raise ValueError(f"factor must be in [0, 1], got {factor}.")


def _check_final_lr(final_lr: float) -> None:
    if not 0 <= final_lr < np.inf:
        raise ValueError(
            f"final_lr must be at least 0 and finite, got {final_lr}."
        )
