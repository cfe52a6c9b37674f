"""A home for MXNet's FTML jobs: same arguments, same numbers, same files.

`ftml` is ``mxnet.optimizer.FTML`` with its arguments, and the schedulers are
``mxnet.lr_scheduler``'s. `load_params` and `load_states` read what Gluon has
saved, and `state_from_mxnet` makes it the state of an optimizer here;
`state_to_mxnet`, `save_params` and `save_states` are the way back. None of it
needs MXNet. docs/coming_from_mxnet.md goes through a whole script.
"""

from optax_ftml.mxnet._factory import ftml
from optax_ftml.mxnet._params_file import load_params, save_params
from optax_ftml.mxnet._schedulers import (
    CosineScheduler,
    FactorScheduler,
    MultiFactorScheduler,
    PolyScheduler,
)
from optax_ftml.mxnet._state import state_from_mxnet, state_to_mxnet
from optax_ftml.mxnet._states_file import (
    FtmlSlots,
    load_states,
    save_states,
    UpdaterStates,
)

__all__ = [
    "CosineScheduler",
    "FactorScheduler",
    "FtmlSlots",
    "MultiFactorScheduler",
    "PolyScheduler",
    "UpdaterStates",
    "ftml",
    "load_params",
    "load_states",
    "save_params",
    "save_states",
    "state_from_mxnet",
    "state_to_mxnet",
]
