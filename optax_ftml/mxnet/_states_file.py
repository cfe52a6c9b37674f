"""MXNet's files of optimizer states, read without running what is in them."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from optax_ftml import _checks
from optax_ftml.mxnet import _params_file, _pickled_optimizer, _pickles

Key = _pickled_optimizer.Key


class FtmlSlots(NamedTuple):
    """What MXNet's FTML keeps for one parameter.

    Attributes:
        d: (1 - beta1^t) / step size; of the parameter's shape, like the others.
        v: Moving average of the squared gradients.
        z: Minus d times the leader.
        weight: The float32 copy of the parameter in multi-precision, or None.

    Examples:
        >>> import numpy as np
        >>> from optax_ftml import mxnet
        >>> slots = mxnet.FtmlSlots(d=np.ones(2), v=np.ones(2), z=-np.ones(2))
        >>> -slots.z / slots.d  # the leader
        array([1., 1.])
    """

    d: np.ndarray
    v: np.ndarray
    z: np.ndarray
    weight: np.ndarray | None = None


class UpdaterStates(NamedTuple):
    """What a file of optimizer states holds.

    Attributes:
        slots: :class:`FtmlSlots` by MXNet's index or name of the parameter.
        num_update: Number of updates so far; None from a file without the
            optimizer, where ``states._replace(num_update=...)`` adds it.
        options: Arguments for :func:`optax_ftml.mxnet.ftml`; None from a file
            without the optimizer. `lr_mult` and `wd_mult` are by MXNet's
            indices or names until :meth:`with_paths`.

    Examples:
        >>> import numpy as np
        >>> from optax_ftml import mxnet
        >>> slots = mxnet.FtmlSlots(d=np.ones(2), v=np.ones(2), z=-np.ones(2))
        >>> states = mxnet.UpdaterStates({0: slots}, num_update=100)
        >>> list(states.with_paths({0: "dense/kernel"}).slots)
        ['dense/kernel']
    """

    slots: dict[Key, FtmlSlots]
    num_update: int | None = None
    options: dict[str, Any] | None = None

    def with_paths(self, paths: Mapping[Key, str]) -> "UpdaterStates":
        """Returns the states by parameter path.

        Args:
            paths: The path of each of MXNet's indices or names.

        Raises:
            ValueError: `paths` does not say where one of the slots belongs.
        """
        missing = [key for key in self.slots if key not in paths]
        right = "a mapping from every index or name of the states"
        _checks.check(not missing, "paths", right, f"none for {missing}")

        def by_path(values):
            return {paths[key]: value for key, value in values.items()}

        slots = by_path(self.slots)
        is_right = len(slots) == len(self.slots)
        _checks.check(is_right, "paths", "to different parameters", dict(paths))
        options = self.options and {
            **self.options,
            "lr_mult": by_path(self.options.get("lr_mult") or {}),
            "wd_mult": by_path(self.options.get("wd_mult") or {}),
        }
        return self._replace(slots=slots, options=options)


def load_states(path: _params_file.Path) -> UpdaterStates:
    """Reads a file of FTML's states, as MXNet 1.x and 2.x write it.

    That is what ``gluon.Trainer.save_states``, ``Updater.get_states`` and
    ``KVStore.save_optimizer_states`` write, with and without the optimizer,
    plain and multi-precision. These files are pickles. Nothing in them is run:
    what a pickle names is not looked up, and what is not arrays, FTML, its
    schedulers or plain values is refused.

    Args:
        path: Where the file is.

    Returns:
        The :class:`UpdaterStates`. Its options make the optimizer anew,
        ``mxnet.ftml(**states.with_paths(paths).options)``, with the learning
        rate going on from where it was. Gluon leaves out the multipliers that
        its Parameters have.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a file or is corrupted, names something
            else, has a sparse array or one of an unknown dtype, or is another
            optimizer's; the error says which entry or field.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from optax_ftml import mxnet
        >>> slots = mxnet.FtmlSlots(*np.ones((3, 2), "float32"))
        >>> states = mxnet.UpdaterStates({0: slots}, 7, {"beta1": 0.5})
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     mxnet.save_states(f"{directory}/net.states", states)
        ...     loaded = mxnet.load_states(f"{directory}/net.states")
        >>> print(loaded.slots[0].z, loaded.num_update, loaded.options["beta1"])
        [1. 1.] 7 0.5
    """
    data = pathlib.Path(path).read_bytes()
    what = f"{os.fspath(path)!r} is not a file of FTML states"
    with _params_file.about(what):
        states, optimizer = _pickles.loads(data), None
        if isinstance(states, tuple) and len(states) == 2:
            states, optimizer = states
        is_right, got = isinstance(states, dict), type(states).__name__
        _checks.check(is_right, "it", "a dict of states", got)
        slots, size = {}, 0
        for key, state in states.items():
            with _params_file.about(f"entry {key!r}"):
                slots[key] = _slots(state)
            # A pickle may name the same array any number of times.
            size += sum(x.nbytes for x in slots[key] if x is not None)
            right = f"at most the file's {len(data)} bytes"
            _checks.check(size <= len(data), "its arrays' size", right, size)
        if optimizer is None:
            return UpdaterStates(slots)
        return UpdaterStates(slots, *_pickled_optimizer.read(optimizer, slots))


def save_states(
    path: _params_file.Path, states: UpdaterStates, order: str | None = None
) -> None:
    """Writes a file of FTML's states that ``gluon.Trainer.load_states`` loads.

    Args:
        path: Where to write.
        states: By MXNet's indices or names, as
            :func:`optax_ftml.mxnet.state_to_mxnet` makes them. With `options`
            the optimizer is written too, and MXNet goes on counting updates
            at `num_update`. Without, MXNet keeps the optimizer that it has,
            whose `begin_num_update` should be that number.
        order: The MXNet to write for: "1.x", or "2.x" after
            ``mxnet.npx.set_np()``. By default the option `order`, and "2.x"
            without options.

    Raises:
        ValueError: A learning-rate schedule that is not MXNet's, or options
            without a number of updates.

    Examples:
        >>> import pathlib
        >>> import tempfile
        >>> import numpy as np
        >>> from optax_ftml import mxnet
        >>> slots = mxnet.FtmlSlots(*np.ones((3, 2), "float32"))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory, "net.states")
        ...     mxnet.save_states(path, mxnet.UpdaterStates({0: slots}))
        ...     print(mxnet.load_states(path).slots[0].v)
        [1. 1.]
    """
    slots, num_update, options = states
    order = order or (options or {}).get("order", "2.x")
    value: Any = {
        key: (d, v, z) if weight is None else (weight, (d, v, z))
        for key, (d, v, z, weight) in slots.items()
    }
    if options is not None:
        if num_update is None:
            raise ValueError("states must say how many updates there were.")
        options = {**options, "order": order}
        value = value, _pickled_optimizer.make(options, num_update, slots)
    data = _pickles.dumps(value, np_shape=order == "2.x")
    pathlib.Path(path).write_bytes(data)


def _slots(state):
    """Returns the slots of a pickled (d, v, z) or (weight, (d, v, z))."""
    match state:
        case (d, v, z):
            arrays = d, v, z
        case (weight, (d, v, z)):
            arrays = d, v, z, weight
        case _:
            is_tuple, kind = isinstance(state, tuple), type(state).__name__
            got = f"{len(state)} of them" if is_tuple else kind
            raise ValueError(f"it must be FTML's d, v and z, got {got}.")
    slots = FtmlSlots(*map(_pickles.array_of, arrays))
    kinds = {(x.shape, x.dtype.name) for x in slots if x is not None}
    right = "of one shape and dtype"
    _checks.check(len(kinds) == 1, "its arrays", right, sorted(kinds))
    return slots
