"""BC-HG: the hypergradient as a Boltzmann covariance (akimotolab/BC-HG, ICAPS 2026)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._hypergradient import AbstractAdjoint, ExactAdjoint, Rollouts
from .._oracle import AbstractOracle, PolicyIteration
from .._solver.base import AbstractSolver, step_key
from ._descent import begin, best_response, descend_through_response, no_measure
from ._method import Method, Request, adam


class BCHG(AbstractSolver):
    """Descends F(x) by the Boltzmann-covariance hypergradient.

        dF/dx = d_x f - 1/tau E_{s ~ d} Cov_{a ~ pi*(.|s)} ( Q_leader(s, a), d_x Q_follower(s, a) ),

    d the leader's discounted visits. No derivative passes through the follower's solve: d_x Q is
    that of the follower's values with its policy held. Needs tau > 0, and followers that do not
    play against each other.

    Attributes:
        optimizer: any optax optimiser of x.
        oracle: answers for the follower.
        rollouts: ``None`` takes the expectation over states exactly; ``Rollouts(critic=True)``
            over visited states, all actions of each by the leader's critic, as in the paper.
        adjoint: how the covariance with d_x Q is found: ``ExactAdjoint()`` or ``Rollouts()``.
    """

    optimizer: optax.GradientTransformation = eqx.field(default=optax.adam(0.05))
    oracle: AbstractOracle = PolicyIteration()
    rollouts: Rollouts | None = None
    adjoint: AbstractAdjoint = ExactAdjoint()

    def init(self, estimator, x, policy, key):
        measure = no_measure(estimator, self.oracle, x, key)
        return begin(estimator, self.optimizer, self.oracle, x, policy, key, measure)

    def step(self, estimator, state):
        key = jax.random.fold_in(step_key(state), 0)
        memory = estimator.respond(
            self.oracle, state.x, state.policy, state.memory, key, single_loop=False
        )
        return descend_through_response(
            estimator, self.optimizer, state, memory, self.rollouts, self.adjoint
        )

    def settled(self, state):
        # A sampled gradient may be small by chance.
        return jnp.asarray(self.rollouts is None and not isinstance(self.adjoint, Rollouts))

    def answer(self, estimator, state):
        return state.x, best_response(estimator, self.oracle, state)


def _build(request: Request) -> AbstractSolver:
    return BCHG(adam(request))


METHOD = Method(
    name="bc-hg",
    summary="hypergradient as a covariance of both players' action values; needs tau > 0",
    source="akimotolab/BC-HG, ICAPS 2026",
    model=True,
    follower_reward=True,
    second_order=False,
    cost="best response, one factorisation, one adjoint solve",
    build=_build,
)
