"""A home for MXNet's FTML jobs."""

from optax_ftml.mxnet._factory import ftml
from optax_ftml.mxnet._schedulers import CosineScheduler
from optax_ftml.mxnet._schedulers import FactorScheduler
from optax_ftml.mxnet._schedulers import MultiFactorScheduler
from optax_ftml.mxnet._schedulers import PolyScheduler

__all__ = [
    "CosineScheduler",
    "FactorScheduler",
    "MultiFactorScheduler",
    "PolyScheduler",
    "ftml",
]
