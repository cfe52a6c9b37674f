"""FTML, Follow the Moving Leader, as an Optax gradient transformation."""

from optax_ftml import prox
from optax_ftml._ftml import ftml
from optax_ftml._ftml import FtmlLeaderState
from optax_ftml._ftml import scale_by_ftml
from optax_ftml._ftml import ScaleByFtmlState
from optax_ftml._master_params import MasterParamsState
from optax_ftml._master_params import with_master_params

__version__ = "0.1.0"

__all__ = [
    "FtmlLeaderState",
    "MasterParamsState",
    "ScaleByFtmlState",
    "ftml",
    "prox",
    "scale_by_ftml",
    "with_master_params",
]
