"""Search spaces: distributions with conditions, nested names, grids, neighbours and a unit cube."""

from sweep.space.base import Distribution, RandomSource
from sweep.space.naming import flatten, nest
from sweep.space.numeric import Integer, LogInteger, LogitUniform, LogNormal, LogUniform, Normal, Uniform
from sweep.space.options import Choice, Constant, Ordinal
from sweep.space.searchspace import SearchSpace
from sweep.space.values import Params

__all__ = [
    "Choice",
    "Constant",
    "Distribution",
    "Integer",
    "LogInteger",
    "LogNormal",
    "LogUniform",
    "LogitUniform",
    "Normal",
    "Ordinal",
    "Params",
    "RandomSource",
    "SearchSpace",
    "Uniform",
    "flatten",
    "nest",
]
