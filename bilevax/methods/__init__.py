"""Published methods as solvers, one file each, and what every method says of itself.

A new method is one file: a solver and its ``METHOD``, named in ``METHODS`` below. What a solver is
written with (``AbstractSolver``, ``first_state`` and others) is public here. This package imports
the core, never the reverse.
"""

from dataclasses import replace

from .._hypergradient import AdjointSweeps as AdjointSweeps
from .._hypergradient import ExactAdjoint as ExactAdjoint
from .._nearest import nearest
from .._rollouts import Rollouts as Rollouts
from .._solver.base import AbstractSolver as AbstractSolver
from .._solver.base import State as State
from .._solver.base import first_policy as first_policy
from .._solver.base import first_state as first_state
from .._solver.base import next_state as next_state
from .._solver.base import progress_of as progress_of
from .._solver.base import step_key as step_key
from .._visit_averages import VisitAverages as VisitAverages
from . import (
    _actor_critic,
    _amd,
    _bc_hg,
    _hpgd,
    _nested,
    _pbrl_sl,
    _sobirl,
    _zero_order,
)
from ._actor_critic import ActorCritic as ActorCritic
from ._amd import amd as amd
from ._bc_hg import bc_hg as bc_hg
from ._core import CORE
from ._hpgd import hpgd as hpgd
from ._method import Method as Method
from ._method import Request as Request
from ._method import is_unregularized
from ._nested import nested as nested
from ._pbrl_sl import pbrl_sl as pbrl_sl
from ._sobirl import m_sobirl as m_sobirl
from ._sobirl import sobirl as sobirl
from ._through_response import ThroughResponse as ThroughResponse
from ._zero_order import ZeroOrder as ZeroOrder

_FILES = (_hpgd, _amd, _sobirl, _bc_hg, _pbrl_sl, _actor_critic, _zero_order, _nested)

METHODS: dict[str, Method] = {
    method.name: method for method in (*CORE, *(file.METHOD for file in _FILES))
}


def build_solver(name: str, request: Request) -> AbstractSolver:
    """A method's solver for a request, annealed where that is asked for or the method's own way.

    Raises ``ValueError`` where there is no such method, where it does not apply, or where an option
    does not belong to it.
    """
    method = METHODS[nearest("method", name, METHODS)]
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
