"""Published methods as solvers, one file each, and what every method says of itself.

A new method is one file: a solver and its ``METHOD``, named in ``METHODS`` below. This package
imports the core, never the reverse.
"""

from dataclasses import replace

from .._hypergradient import AdjointSweeps as AdjointSweeps
from .._hypergradient import ExactAdjoint as ExactAdjoint
from .._hypergradient import Rollouts as Rollouts
from .._solver.base import AbstractSolver
from . import actor_critic, amd, bc_hg, hpgd, nested, pbrl_sl, sobirl, zero_order
from ._core import CORE
from ._method import Method as Method
from ._method import Request as Request
from ._method import is_unregularized
from .actor_critic import ActorCritic as ActorCritic
from .amd import amd as adaptive_model_design
from .bc_hg import BCHG as BCHG
from .hpgd import HPGD as HPGD
from .nested import Nested as Nested
from .pbrl_sl import pbrl_sl as single_loop_pbrl
from .sobirl import MSoBiRL as MSoBiRL
from .sobirl import SoBiRL as SoBiRL
from .zero_order import ZeroOrder as ZeroOrder

_FILES = (hpgd, amd, sobirl, bc_hg, pbrl_sl, actor_critic, zero_order, nested)

METHODS: dict[str, Method] = {
    method.name: method for method in (*CORE, *(file.METHOD for file in _FILES))
}

__all__ = [
    "BCHG",
    "HPGD",
    "METHODS",
    "ActorCritic",
    "AdjointSweeps",
    "ExactAdjoint",
    "MSoBiRL",
    "Method",
    "Nested",
    "Request",
    "Rollouts",
    "SoBiRL",
    "ZeroOrder",
    "adaptive_model_design",
    "build_solver",
    "single_loop_pbrl",
]


def build_solver(name: str, request: Request) -> AbstractSolver:
    """A method's solver for a request, annealed where that is asked for or the method's own way.

    Raises ``ValueError`` where the method does not apply, or where an option does not belong to it.
    """
    method = METHODS[name]
    if not method.penalised and (request.penalty_weight or request.penalty_final):
        owners = [other.name for other in METHODS.values() if other.penalised]
        raise ValueError(
            f"the solver {name} has no penalty: --penalty-weight and --penalty-final belong to "
            f"{', '.join(owners[:-1])} and {owners[-1]}."
        )
    solver = method.build(request)
    own = request.zoo.hot if method.anneals and not is_unregularized(request) else 1.0
    hot = own if request.anneal is None else request.anneal
    return replace(request.zoo, hot=hot).annealed(solver, request.steps or request.zoo.steps)
