"""What solvers ask of a problem, and the answers where the model is known.

Solvers never touch a model. They consume the small protocol ``AbstractEstimator``; ``Exact``
derives it from a problem's two functions, to rounding, and a sampled problem can implement it by
estimates.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._gap import Gap, best_responses, duality_gap
from ._linear import improved, solves_densely
from ._mdp import MDP, Evaluation, action_values, evaluate, greedy_policy, per_context, soft_maximum
from ._oracle import AbstractOracle, Response, cold_start, respond, track
from ._penalty import AbstractPenalty, is_mdp
from ._problem import Problem
from ._regularizer import Unregularized
from ._types import Array, Bool, Key, PyTree, Scalar


class Memory(eqx.Module):
    """What one solver step leaves for the next: warm starts, no part of the answer.

    Attributes:
        responses: the best responses last computed, one per player.
        inverses: inverses of the evaluated policies' systems, or ``None`` where none is kept.
    """

    responses: PyTree[Response]
    inverses: PyTree[Array | None]


class Terms(eqx.Module):
    """What comes with a gradient.

    Attributes:
        upper: f.
        penalty: p, by the solver's own oracle (NaN where not computed).
        converged: whether every oracle met its tolerance.
        curvature: per player, the modulus of the differentiated function in the policy of each
            state, in the geometry of the regulariser; shape ``[S]``. ``None`` where tau is 0.
    """

    upper: Scalar
    penalty: Scalar
    converged: Bool[Array, ""]
    curvature: PyTree[Array] | None


class Certificate(eqx.Module):
    """f(x, policy), F(x) = f(x, pi*_x), and the certified gap."""

    upper: Scalar
    upper_at_best_response: Scalar
    gap: Gap


class AbstractEstimator(eqx.Module):
    """Values and gradients for solvers, exact or estimated."""

    @abc.abstractmethod
    def init(self, oracle: AbstractOracle, x: PyTree, key: Key) -> tuple[PyTree, Memory]:
        """A uniform policy of the right shape, and cold warm starts."""

    @abc.abstractmethod
    def respond(
        self,
        oracle: AbstractOracle,
        x: PyTree,
        policy: PyTree,
        memory: Memory,
        key: Key,
        *,
        single_loop: bool,
    ) -> Memory:
        """The memory with the players' best responses at (x, policy)."""

    @abc.abstractmethod
    def penalised_gradient(
        self,
        penalty: AbstractPenalty,
        x: PyTree,
        policy: PyTree,
        weight: Scalar,
        memory: Memory,
        key: Key,
    ) -> tuple[Terms, tuple[PyTree, PyTree], Memory]:
        """The gradient of f + weight p in (x, policy) at the responses kept in ``memory``."""

    @abc.abstractmethod
    def independent_gradient(
        self, x: PyTree, policy: PyTree, memory: Memory, key: Key
    ) -> tuple[Terms, tuple[PyTree, PyTree], Memory]:
        """The gradient of f in x alone and of minus each player's own return in its policy."""

    @abc.abstractmethod
    def hypergradient(
        self, oracle: AbstractOracle, x: PyTree, memory: Memory, key: Key
    ) -> tuple[Terms, PyTree, PyTree, Memory]:
        """F(x) = f(x, pi*_x), its gradient, pi*_x, and the memory renewed."""

    @abc.abstractmethod
    def certify(self, x: PyTree, policy: PyTree) -> "Certificate":
        """f at the policy and at the best response, and a bound on the lower level's gap."""

    @abc.abstractmethod
    def tempered(self, factor: Scalar) -> "AbstractEstimator":
        """The same problem with every tau of the lower level multiplied by ``factor``."""

    @abc.abstractmethod
    def mirror_step(self, x: PyTree, policy: PyTree, step: PyTree) -> PyTree:
        """Each policy's proximal step in the geometry of its regulariser."""

    @abc.abstractmethod
    def project(self, x: PyTree) -> PyTree:
        """The projection onto X."""


class Exact(AbstractEstimator):
    """Exact values and gradients of a problem whose model is known."""

    problem: Problem
    temperature: Scalar | None = None

    def init(self, oracle, x, key):
        mdps = self._induced(x)
        policy = over_players(lambda mdp: mdp.uniform_policy(), mdps)
        responses = over_players(lambda mdp: cold_start(oracle, mdp), mdps)
        return policy, Memory(responses, over_players(_no_inverse, mdps))

    def respond(self, oracle, x, policy, memory, key, *, single_loop=False):
        answer = track if single_loop else respond
        mdps = lax.stop_gradient(self._induced(x, policy))
        responses = over_players(lambda m, warm: answer(oracle, m, warm), mdps, memory.responses)
        return Memory(over_players(_renew_inverse, mdps, responses), memory.inverses)

    def penalised_gradient(self, penalty, x, policy, weight, memory, key):
        def objective(point):
            x, policy = point
            mdps, evaluations = self._evaluate(x, policy, memory.inverses)
            upper = self.problem.upper(x, policy, evaluations)
            gap, per_state = penalty(mdps, evaluations, memory.responses)
            curvature = _curvature(weight, mdps, per_state)
            return upper + weight * gap, (upper, gap, curvature, _inverses(evaluations))

        (_, aux), gradient = jax.value_and_grad(objective, has_aux=True)((x, policy))
        upper, gap, curvature, inverses = aux
        terms = Terms(upper, gap, _all_converged(memory.responses), curvature)
        return terms, gradient, Memory(memory.responses, inverses)

    def independent_gradient(self, x, policy, memory, key):
        def objective(point):
            x, policy = point
            # Each player's return is to move with its own policy alone.
            mdps = self._induced(x, lax.stop_gradient(policy))
            evaluations = over_players(evaluate, mdps, policy, memory.inverses)
            upper = self.problem.upper(x, policy, evaluations)
            returns = over_players(lambda mdp, e: e.expected_return(), mdps, evaluations)
            curvature = _curvature(
                1, mdps, over_players(lambda _, e: e.occupancy, mdps, evaluations)
            )
            aux = (upper, curvature, _inverses(evaluations))
            return (upper, sum(jax.tree.leaves(returns))), aux

        _, pullback, (upper, curvature, inverses) = jax.vjp(objective, (x, policy), has_aux=True)
        one, zero = jnp.ones_like(upper), jnp.zeros_like(upper)
        ((in_x, _),) = pullback((one, zero))
        ((_, in_policy),) = pullback((zero, -one))
        terms = Terms(upper, jnp.full_like(upper, jnp.nan), jnp.asarray(True), curvature)
        return terms, (in_x, in_policy), Memory(memory.responses, inverses)

    def hypergradient(self, oracle, x, memory, key):
        mdps = lax.stop_gradient(self._induced(x))
        responses = over_players(lambda m, warm: respond(oracle, m, warm), mdps, memory.responses)
        held = lax.stop_gradient(responses)

        def objective(x):
            policy = over_players(differentiable_policy, self._induced(x), held)
            _, evaluations = self._evaluate(x, policy, memory.inverses)
            return self.problem.upper(x, policy, evaluations), (policy, _inverses(evaluations))

        (upper, (policy, inverses)), gradient = jax.value_and_grad(objective, has_aux=True)(x)
        terms = Terms(upper, jnp.zeros_like(upper), _all_converged(responses), None)
        return terms, gradient, policy, Memory(responses, inverses)

    def certify(self, x, policy):
        mdps = self._induced(x, policy)
        responses = best_responses(mdps)
        upper = self.problem.upper(x, policy, over_players(evaluate, mdps, policy))
        best = over_players(lambda _, response: response.policy, mdps, responses)
        at_best = self.problem.upper(x, best, over_players(evaluate, mdps, best))
        return Certificate(upper, at_best, duality_gap(mdps, policy, responses))

    def mirror_step(self, x, policy, step):
        def one(mdp, policy, step):
            return mdp.regularizer.mirror_step(policy, step, mdp.available)

        return over_players(one, self._induced(x), policy, step)

    def tempered(self, factor):
        return Exact(self.problem, factor)

    def project(self, x):
        return self.problem.project(x)

    def _evaluate(self, x, policy, inverses):
        mdps = self._induced(x, policy)
        return mdps, over_players(evaluate, mdps, policy, inverses)

    def _induced(self, x, policy=None):
        mdps = induced(self.problem, x, policy)
        if self.temperature is None:
            return mdps
        factor = self.temperature
        return over_players(lambda mdp: eqx.tree_at(_tau, mdp, factor * mdp.tau), mdps)


def _tau(mdp):
    return mdp.tau


def _curvature(weight, mdps, per_state):
    """weight tau (weight of the state), or None where some player's tau is 0."""
    players = jax.tree.leaves(mdps, is_leaf=is_mdp)
    if any(isinstance(mdp.regularizer, Unregularized) for mdp in players):
        return None

    def one(mdp, states):
        tau = mdp.tau[..., None] if mdp.tau.ndim else mdp.tau
        return weight * tau * states

    return over_players(one, mdps, per_state)


def differentiable_policy(mdp: MDP, response: Response) -> Array:
    """pi*(mdp), differentiable in the MDP by one adjoint solve (implicit differentiation).

    V* + (I - discount P_pi*)^-1 (T V* - V*) is one Newton step from the fixed point: it does not
    move the value, and its derivative is that of the fixed point. tau > 0 is needed: the greedy
    policy of an unregularised MDP has no derivative.
    """
    if isinstance(mdp.regularizer, Unregularized):
        raise ValueError(
            "ImplicitGradient: tau is 0, where the best response has no derivative; "
            "give the lower level a positive tau or use the value penalty."
        )

    @per_context
    def one(mdp, response):
        backup = soft_maximum(mdp, action_values(mdp, response.values))
        held = lax.stop_gradient(mdp)
        system = evaluate(held, response.policy, response.inverse).system
        values = response.values + system.solve(backup - response.values)
        return greedy_policy(mdp, action_values(mdp, values))

    return one(mdp, lax.stop_gradient(response))


def induced(problem: Problem, x: PyTree, policy: PyTree = None) -> PyTree[MDP]:
    """The MDPs that the lower level's players face at x, the others playing ``policy``.

    A tuple of lower levels is that many independent followers.
    """
    lower = problem.lower(x)
    if isinstance(lower, tuple):
        policies = [None] * len(lower) if policy is None else policy
        return tuple(level.induced_mdps(p) for level, p in zip(lower, policies, strict=True))
    return lower.induced_mdps(policy)


def over_players(function, mdps: PyTree[MDP], *trees: PyTree) -> PyTree:
    """``function(mdp, ...)`` for every player, in the tree structure of the players."""
    return jax.tree.map(function, mdps, *trees, is_leaf=is_mdp)


@per_context
def _renew_inverse(mdp, response):
    if response.inverse is None:
        return response
    kernel = mdp.transition.under(response.policy)
    # The oracle has replaced what is past improving.
    inverse = improved(kernel, mdp.discount, response.inverse)
    return eqx.tree_at(lambda r: r.inverse, response, inverse)


def _no_inverse(mdp):
    kernel = per_context(lambda m, p: m.transition.under(p))(mdp, mdp.uniform_policy())
    if not solves_densely(kernel):
        return None
    size = mdp.num_states
    # NaN fails the probe of the first step, which then computes the inverse.
    return jnp.full((*mdp.reward.shape[:-2], size, size), jnp.nan, mdp.reward.dtype)


def _inverses(evaluations: PyTree[Evaluation]):
    is_evaluation = lambda node: isinstance(node, Evaluation)
    return lax.stop_gradient(
        jax.tree.map(lambda e: e.system.inverse, evaluations, is_leaf=is_evaluation)
    )


def _all_converged(responses):
    flags = jax.tree.map(
        lambda r: jnp.all(r.converged), responses, is_leaf=lambda n: isinstance(n, Response)
    )
    return jnp.all(jnp.stack(jax.tree.leaves(flags)))
