"""Bilevel solvers: each a frozen configuration with a pure ``init`` and ``step``."""

from .base import AbstractSolver, MirrorDescent, Progress, SoftmaxLogits, State
from .implicit import ImplicitGradient
from .independent import IndependentGradient
from .pbrl import PBRL
from .weight import AutomaticWeight, ConstantWeight, Homotopy

__all__ = [
    "PBRL",
    "AbstractSolver",
    "AutomaticWeight",
    "ConstantWeight",
    "Homotopy",
    "ImplicitGradient",
    "IndependentGradient",
    "MirrorDescent",
    "Progress",
    "SoftmaxLogits",
    "State",
]
