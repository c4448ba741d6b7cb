"""Oracles for the lower level: the optimal regularised policy of an MDP.

An oracle is a pair of pure functions: ``init(mdp)`` and ``step(mdp, response)``. A ``Response`` is
its own warm start. ``respond`` repeats the step until the Bellman residual is small and says
whether it got there; one step alone tracks a slowly moving MDP (single-loop methods).
"""

from .adaptive import AdaptivePolicyIteration as AdaptivePolicyIteration
from .base import AbstractOracle as AbstractOracle
from .base import Response as Response
from .base import cold_start as cold_start
from .base import respond as respond
from .base import system_of as system_of
from .base import track as track
from .mirror_descent import PolicyMirrorDescent as PolicyMirrorDescent
from .newton_krylov import NewtonKrylov as NewtonKrylov
from .policy_iteration import PolicyIteration as PolicyIteration
from .value_iteration import ValueIteration as ValueIteration
