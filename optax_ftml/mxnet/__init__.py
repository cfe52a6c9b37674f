"""A home for MXNet's FTML jobs."""

from optax_ftml.mxnet._factory import ftml
from optax_ftml.mxnet._params_file import load_params
from optax_ftml.mxnet._params_file import save_params
from optax_ftml.mxnet._schedulers import CosineScheduler
from optax_ftml.mxnet._schedulers import FactorScheduler
from optax_ftml.mxnet._schedulers import MultiFactorScheduler
from optax_ftml.mxnet._schedulers import PolyScheduler
from optax_ftml.mxnet._state import state_from_mxnet
from optax_ftml.mxnet._state import state_to_mxnet
from optax_ftml.mxnet._states_file import FtmlSlots
from optax_ftml.mxnet._states_file import load_states
from optax_ftml.mxnet._states_file import save_states
from optax_ftml.mxnet._states_file import UpdaterStates

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
