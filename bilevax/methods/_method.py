"""What a method says of itself, and what it is built from."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax

from .._exact import induced
from .._mdp import MDP
from .._penalty import is_mdp
from .._regularizer import Unregularized
from .._solver import ConstantWeight, Homotopy
from .._solver.base import AbstractSolver
from .._solver.update import AbstractUpdate
from .._types import PyTree
from ..problems import ZooProblem

_HORIZON = 1000
"""An episode is cut off here at the latest, and where the discount has fallen to .001."""


@dataclass(frozen=True)
class Request:
    """What a solver is wanted for; ``None`` stands for the problem's or the method's own default.

    Attributes:
        zoo: the problem.
        x0: a start, for shapes and for the lower level there.
        steps: the run's length; the problem's own by default.
        learning_rate: of x.
        penalty_weight, penalty_final: the first and the last weight; the first alone is a constant.
        anneal: the first factor on tau; 1 does not anneal.
    """

    zoo: ZooProblem
    x0: PyTree
    steps: int | None = None
    learning_rate: float | None = None
    penalty_weight: float | None = None
    penalty_final: float | None = None
    anneal: float | None = None

    def update(self) -> AbstractUpdate:
        """The zoo problem's own update of (x, policy), at the learning rate asked for."""
        update = self.zoo.update(self.steps or self.zoo.steps)
        return update if self.learning_rate is None else replace(update, optimizer=adam(self))


@dataclass(frozen=True)
class Method:
    """A published method: what it is, what it is given, and how a solver of it is made.

    Attributes:
        name: as on the command line.
        summary: one sentence, without its full stop.
        source: where it was published.
        model: whether it reads kernels and values of the model (else it meets the problem by
            episodes or by answers alone).
        follower_reward: whether it uses the follower's reward or its derivative in x.
        second_order: whether it differentiates through the follower's solve or learning.
        cost: of one step.
        build: a solver from a request; ``ValueError`` where the method does not apply.
        penalised: whether it has a penalty weight.
        anneals: whether it starts from the problem's own factor on tau.
    """

    name: str
    summary: str
    source: str
    model: bool
    follower_reward: bool
    second_order: bool
    cost: str
    build: Callable[[Request], AbstractSolver]
    penalised: bool = False
    anneals: bool = False


def adam(request: Request | None = None) -> optax.GradientTransformation:
    """Adam at the rate asked for, .05 by default."""
    return optax.adam((request and request.learning_rate) or 0.05)


def settling_adam(request: Request) -> optax.GradientTransformation:
    """Adam at a rate that falls to a hundredth along the run, for gradients that are noisy."""
    rate, steps = request.learning_rate or 0.05, request.steps or request.zoo.steps
    return optax.adam(optax.cosine_decay_schedule(rate, steps, 0.01))


def penalty_weight(request: Request, factor: float = 1.0) -> ConstantWeight | Homotopy:
    """The weight asked for; else the problem's own, along this run's steps, times ``factor``."""
    zoo = request.zoo
    own = zoo.solver.penalty_weight
    initial, final = request.penalty_weight, request.penalty_final
    steps = request.steps or zoo.steps
    if final is None and initial is not None:
        return ConstantWeight(initial)
    if not isinstance(own, Homotopy):
        own = Homotopy(1.0, 1e3, zoo.steps)
    rising = max(1, round(own.steps * steps / zoo.steps)) if final is None else steps
    return Homotopy(
        own.initial * factor if initial is None else initial,
        own.final * factor if final is None else final,
        rising,
    )


def constant_weight(request: Request) -> float:
    """One weight: the last asked for, else the first, else half way through the problem's own."""
    asked = request.penalty_final or request.penalty_weight
    if asked is not None:
        return asked
    own = request.zoo.solver.penalty_weight
    if not isinstance(own, Homotopy):
        own = Homotopy(1.0, 1e3, 1)
    return math.sqrt(own.initial * own.final)


def mdps(request: Request) -> list[MDP]:
    """The players' MDPs at the start."""
    return jax.tree.leaves(induced(request.zoo.problem, request.x0), is_leaf=is_mdp)


def smallest_tau(request: Request) -> float:
    """The smallest tau of all players; 0 where one is not regularised."""
    return min(float(jnp.min(mdp.tau)) for mdp in mdps(request))


def is_unregularized(request: Request) -> bool:
    """Whether some player is not regularised."""
    return any(isinstance(mdp.regularizer, Unregularized) for mdp in mdps(request))


def horizon(request: Request) -> float:
    """1/(1-discount), by which the Bellman penalty is smaller than the value penalty."""
    discount = max(float(jnp.max(mdp.discount)) for mdp in mdps(request))
    return 1 / (1 - discount) if discount < 1 else 100.0


def length(request: Request) -> int:
    """Steps of an episode until what is left counts a thousandth."""
    discount = max(float(jnp.max(mdp.discount)) for mdp in mdps(request))
    if not 0 < discount < 1:
        return _HORIZON if discount else 1
    return min(_HORIZON, math.ceil(math.log(1e-3) / math.log(discount)))


def returns(request: Request) -> bool:
    """Whether f is minus the return of an upper reward, which episodes can sample."""
    return hasattr(request.zoo.problem, "upper_reward")
