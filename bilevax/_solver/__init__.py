"""Bilevel solvers: each a frozen configuration with a pure ``init`` and ``step``."""

from .anderson import Anderson
from .annealed import Annealed
from .base import AbstractSolver, Progress, State
from .implicit import ImplicitGradient
from .independent import IndependentGradient
from .meta_gradient import MetaGradient
from .panda import PANDA
from .pbrl import PBRL
from .quasi_newton import QuasiNewton
from .update import Alternating, MirrorDescent, SoftmaxLogits
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
