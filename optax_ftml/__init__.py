"""FTML, Follow the Moving Leader, as an Optax gradient transformation."""

from optax_ftml import mxnet
from optax_ftml import prox
from optax_ftml._ftml import ftml
from optax_ftml._ftml import FtmlState
from optax_ftml._ftml import multipliers
from optax_ftml._ftml import proximal_adam
from optax_ftml._ftml import scale_by_ftml
from optax_ftml._ftml import ScaleByFtmlState
from optax_ftml._precision._master_params import MasterParamsState
from optax_ftml._precision._master_params import with_master_params
from optax_ftml._precision._stochastic_rounding import stochastic_rounding
from optax_ftml._precision._stochastic_rounding import StochasticRoundingState
from optax_ftml._report._fusion_report import fusion_report
from optax_ftml._report._fusion_report import FusionReport

__version__ = "0.1.0"

__all__ = [
    "FtmlState",
    "FusionReport",
    "MasterParamsState",
    "ScaleByFtmlState",
    "StochasticRoundingState",
    "ftml",
    "fusion_report",
    "multipliers",
    "mxnet",
    "prox",
    "proximal_adam",
    "scale_by_ftml",
    "stochastic_rounding",
    "with_master_params",
]
