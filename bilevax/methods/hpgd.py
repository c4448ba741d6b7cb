"""HPGD: stochastic hypergradients from the followers' trajectories (Thoma et al., NeurIPS 2024)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._hypergradient import AbstractAdjoint, ExactAdjoint, Rollouts
from .._oracle import AbstractOracle, PolicyIteration
from .._solver.base import AbstractSolver, step_key
from ._descent import begin, best_response, descend_through_response, no_measure
from ._method import Method, Request, length, returns, settling_adam


class HPGD(AbstractSolver):
    """Descends F(x) by an estimate of its gradient from episodes of the answering follower.

        dF/dx = d_x f + E sum_t discount^t G_t / tau d_x A*(s_t, a_t),

    with G_t the leader's (negated) return from t on and A* the follower's soft advantage (Thoma et
    al. 2024, theorem 3). The follower is asked for its answer, which an oracle gives; the leader
    sees episodes of it. Needs tau > 0, and followers that do not play against each other.

    Attributes:
        optimizer: any optax optimiser of x.
        oracle: answers for the follower.
        rollouts: the leader's episodes; ``None`` takes d_x f and the weights exactly, as where f is
            no expected return.
        advantage: how d_x A* is found: ``ExactAdjoint()`` from the follower's model (the oracle
            variant), or ``Rollouts()``, a Monte-Carlo estimate from episodes of their own.
    """

    optimizer: optax.GradientTransformation = eqx.field(default=optax.adam(0.05))
    oracle: AbstractOracle = PolicyIteration()
    rollouts: Rollouts | None = Rollouts()
    advantage: AbstractAdjoint = ExactAdjoint()

    def init(self, estimator, x, policy, key):
        measure = no_measure(estimator, self.oracle, x, key)
        return begin(estimator, self.optimizer, self.oracle, x, policy, key, measure)

    def step(self, estimator, state):
        key = jax.random.fold_in(step_key(state), 0)
        memory = estimator.respond(
            self.oracle, state.x, state.policy, state.memory, key, single_loop=False
        )
        return descend_through_response(
            estimator, self.optimizer, state, memory, self.rollouts, self.advantage
        )

    def settled(self, state):
        # A sampled gradient may be small by chance.
        return jnp.asarray(self.rollouts is None and not isinstance(self.advantage, Rollouts))

    def answer(self, estimator, state):
        return state.x, best_response(estimator, self.oracle, state)


def _build(request: Request) -> AbstractSolver:
    rollouts = Rollouts(32, length(request))
    sampled = returns(request)
    return HPGD(
        settling_adam(request),
        rollouts=rollouts if sampled else None,
        advantage=ExactAdjoint() if sampled else Rollouts(256, length(request)),
    )


METHOD = Method(
    name="hpgd",
    summary="hypergradient estimated from the answering follower's episodes; needs tau > 0",
    source="Thoma et al. 2024, arXiv 2406.01575",
    model=True,
    follower_reward=True,
    second_order=False,
    cost="best response, 32 episodes, one adjoint solve",
    build=_build,
)
