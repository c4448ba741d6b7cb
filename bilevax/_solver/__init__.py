"""Bilevel solvers: each a frozen configuration with a pure ``init`` and ``step``."""

from .anderson import Anderson
from .annealed import Annealed
from .base import AbstractSolver, Alternating, MirrorDescent, Progress, SoftmaxLogits, State
from .implicit import ImplicitGradient
from .independent import IndependentGradient
from .meta_gradient import MetaGradient
from .panda import PANDA
from .pbrl import PBRL
from .quasi_newton import QuasiNewton
from .weight import AutomaticWeight, ConstantWeight, Homotopy

__all__ = [
    "PANDA",
    "PBRL",
    "AbstractSolver",
    "Alternating",
    "Anderson",
    "Annealed",
    "AutomaticWeight",
    "ConstantWeight",
    "Homotopy",
    "ImplicitGradient",
    "IndependentGradient",
    "MetaGradient",
    "MirrorDescent",
    "Progress",
    "QuasiNewton",
    "SoftmaxLogits",
    "State",
]
