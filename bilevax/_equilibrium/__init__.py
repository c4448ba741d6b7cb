"""Equilibria of regularised zero-sum Markov games: unique for tau > 0, found from any start.

An oracle is a pair of pure functions, ``init(game)`` and ``step(game, equilibrium)``; an
``Equilibrium`` is its own warm start. ``solve_game`` repeats the step until the residual of
Shapley's equation is small, and says whether it got there.
"""

from .base import AbstractEquilibriumOracle as AbstractEquilibriumOracle
from .base import Equilibrium as Equilibrium
from .base import first_equilibrium as first_equilibrium
from .base import solve_game as solve_game
from .extragradient import Extragradient as Extragradient
from .homotopy import unregularized_equilibrium as unregularized_equilibrium
from .implicit import differentiable_equilibrium as differentiable_equilibrium
from .newton import ShapleyNewton as ShapleyNewton
from .stage import newton_matrix as newton_matrix
from .stage import stage_equilibria as stage_equilibria
