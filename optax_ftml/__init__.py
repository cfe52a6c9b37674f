"""FTML, Follow the Moving Leader, as an Optax gradient transformation."""

from optax_ftml import mxnet, prox
from optax_ftml._ftml import (
    ftml,
    FtmlState,
    multipliers,
    proximal_adam,
    scale_by_ftml,
    ScaleByFtmlState,
)
from optax_ftml._precision._master_params import (
    MasterParamsState,
    with_master_params,
)
from optax_ftml._precision._stochastic_rounding import (
    stochastic_rounding,
    StochasticRoundingState,
)
from optax_ftml._report._fusion_report import fusion_report, FusionReport

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
