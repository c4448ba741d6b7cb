"""Bilevel actor-critic with an entropy that attenuates (arXiv 2601.16399)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._oracle import AbstractOracle, PolicyMirrorDescent
from .._penalty import NikaidoIsoda
from .._solver.base import AbstractSolver, descended, first_policy, first_state, step_key
from .._solver.update import learning_step
from ._method import Method, Request, adam, constant_weight, smallest_tau


class ActorCritic(AbstractSolver):
    """A single loop over x and two tracked policies, on a follower whose tau falls to its own.

    With tau_k = tau (1 + (initial - 1) (1 + k)^-attenuation), each step k moves once, in turn,

    - the answering policy up V_{tau_k}, by one step of ``oracle``,
    - the penalty-side policy down f + weight (V_{tau_k} of the answer - V_{tau_k} of its own),
    - and x down the same, both policies held.

    Critics are exact here: values of the known model stand in for the paper's learned ones, so this
    shows what the updates do and not what estimation costs. Needs tau > 0; tau_k never falls below
    the problem's own. ``state.policy`` is the penalty-side policy.

    Attributes:
        optimizer: any optax optimiser of x.
        penalty_weight: a constant.
        initial: the first factor on tau, at least 1.
        attenuation: the exponent, positive.
        policy_step: in (0, 1], the share of a whole step of soft policy iteration.
        oracle: whose single step is the answering policy's.
    """

    optimizer: optax.GradientTransformation = eqx.field(default=optax.adam(0.05))
    penalty_weight: float = 100.0
    initial: float = 10.0
    attenuation: float = 1.0
    policy_step: float = 0.5
    oracle: AbstractOracle = PolicyMirrorDescent(step_size=1.0)

    def __check_init__(self):
        if not self.penalty_weight > 0:
            raise ValueError(
                f"ActorCritic: penalty_weight is {self.penalty_weight}; give a positive number."
            )
        if not self.initial >= 1:
            raise ValueError(f"ActorCritic: initial is {self.initial}; give a factor of 1 or more.")
        if not self.attenuation > 0:
            raise ValueError(
                f"ActorCritic: attenuation is {self.attenuation}; give a positive exponent."
            )
        if not 0 < self.policy_step <= 1:
            raise ValueError(
                f"ActorCritic: policy_step is {self.policy_step}; it must lie in (0, 1]."
            )

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(self.oracle, x, key)
        policy = first_policy(uniform, policy)
        return first_state(x, policy, self.optimizer.init(x), memory, self.penalty_weight, key)

    def step(self, estimator, state):
        estimator = estimator.tempered(jnp.asarray(1 + self._excess(state), state.weight.dtype))
        x, weight = state.x, state.weight
        respond, first, second = jax.random.split(step_key(state), 3)
        memory = estimator.respond(
            self.oracle, x, state.policy, state.memory, respond, single_loop=True
        )
        gradient = lambda policy, memory, key: estimator.penalised_gradient(
            NikaidoIsoda(), x, policy, weight, memory, key
        )
        terms, (_, in_policy), memory = gradient(state.policy, memory, first)
        move = learning_step("ActorCritic", terms, in_policy, self.policy_step)
        policy = estimator.mirror_step(x, state.policy, move)
        terms, (in_x, _), memory = gradient(policy, memory, second)
        return descended(estimator, self.optimizer, state, in_x, terms, policy, memory)

    def settled(self, state):
        # Until tau has come within a hundredth of the problem's own, another problem is solved.
        return self._excess(state) <= 0.01

    def answer(self, estimator, state):
        return state.x, state.policy

    def _excess(self, state):
        """By what share tau_k lies above tau."""
        return (self.initial - 1) * (1.0 + state.step) ** -self.attenuation


def _build(request: Request) -> AbstractSolver:
    tau = smallest_tau(request)
    if tau == 0:
        raise ValueError("the solver actor-critic: tau is 0; give a positive --tau, or take pbrl.")
    return ActorCritic(
        adam(request),
        constant_weight(request),
        oracle=PolicyMirrorDescent(step_size=1 / tau),
    )


METHOD = Method(
    name="actor-critic",
    summary="single loop over x and two tracked policies, entropy attenuating; needs tau > 0",
    source="arXiv 2601.16399",
    model=True,
    follower_reward=True,
    second_order=False,
    cost="one mirror step, two penalised gradients",
    build=_build,
    penalised=True,
)
