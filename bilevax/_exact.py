"""Values and gradients of a problem whose model is known, to rounding."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._answer import (
    answer_policy,
    as_lower,
    differentiable_answer,
    first_equilibria,
    has_answer,
    induced_mdps,
    interactive,
    levels,
    over_players,
    per_level,
    solve_games,
    solve_lower,
)
from ._equilibrium import Equilibrium, newton_matrix
from ._estimator import AbstractEstimator, Certificate, Curvature, Terms
from ._evaluation import Evaluation, evaluate
from ._game import ZeroSumGame
from ._gap import best_responses, duality_gap
from ._hypergradient import check_followers
from ._linear import improved, solves_densely
from ._mdp import MDP, per_context
from ._oracle import Response, cold_start, respond, track
from ._penalty import AbstractPenalty, BellmanPenalty, is_mdp
from ._problem import Problem
from ._regularizer import Unregularized
from ._rollouts import sampled_gradient, upper_reward_of
from ._types import Array, PyTree, Scalar
from ._unroll import learned_policy
from ._visit_averages import VisitAverages


class Memory(eqx.Module):
    """What one solver step leaves for the next: warm starts, no part of the answer.

    Attributes:
        responses: the best responses last computed, one per player.
        inverses: inverses of the evaluated policies' systems, or ``None`` where none is kept.
        equilibria: the equilibria last computed, one per lower level that is a zero-sum game.
    """

    responses: PyTree[Response]
    inverses: PyTree[Array | None]
    equilibria: tuple[Equilibrium | None, ...]


class Exact(AbstractEstimator):
    """Exact values and gradients of a problem whose model is known."""

    problem: Problem
    temperature: Scalar | None = None

    def init(self, oracle, x, key):
        lower = self._lower(x)
        mdps = induced_mdps(lower)
        policy = over_players(lambda mdp: mdp.uniform_policy(), mdps)
        responses = over_players(lambda mdp: cold_start(oracle, mdp), mdps)
        inverses = over_players(_no_inverse, mdps)
        return policy, Memory(responses, inverses, first_equilibria(lower))

    def respond(self, oracle, x, policy, memory, key, *, single_loop=False):
        answer = track if single_loop else respond
        mdps = lax.stop_gradient(induced_mdps(self._lower(x), policy))
        responses = over_players(lambda m, warm: answer(oracle, m, warm), mdps, memory.responses)
        responses = over_players(_renew_inverse, mdps, responses)
        return eqx.tree_at(lambda m: m.responses, memory, responses)

    def interactive(self, x):
        return interactive(self.problem.lower(x))

    def penalised_gradient(self, penalty, x, policy, weight, memory, key):
        def objective(point):
            x, policy = point
            lower = self._lower(x)
            check_penalty(penalty, lower)
            mdps, evaluations = _evaluate(lower, policy, memory.inverses)
            upper = self.problem.upper(x, policy, evaluations)
            gap, weights = penalty(mdps, evaluations, memory.responses)
            curvature = _curvature(weight, lower, mdps, policy, memory.responses, weights)
            return upper + weight * gap, (upper, gap, curvature, _inverses(evaluations))

        (_, aux), gradient = jax.value_and_grad(objective, has_aux=True)((x, policy))
        upper, gap, curvature, inverses = aux
        terms = Terms(upper, gap, _all_converged(memory.responses), curvature)
        return terms, gradient, eqx.tree_at(_kept, memory, inverses)

    def independent_gradient(self, x, policy, memory, key):
        def objective(point):
            x, policy = point
            # Each player's return is to move with its own policy alone.
            mdps = induced_mdps(self._lower(x), lax.stop_gradient(policy))
            evaluations = over_players(evaluate, mdps, policy, memory.inverses)
            upper = self.problem.upper(x, policy, evaluations)
            returns = over_players(lambda mdp, e: e.expected_return(), mdps, evaluations)
            curvature = _own_curvature(
                1, mdps, over_players(lambda _, e: e.occupancy, mdps, evaluations)
            )
            aux = (upper, curvature, _inverses(evaluations))
            return (upper, sum(jax.tree.leaves(returns))), aux

        _, pullback, (upper, curvature, inverses) = jax.vjp(objective, (x, policy), has_aux=True)
        one, zero = jnp.ones_like(upper), jnp.zeros_like(upper)
        ((in_x, _),) = pullback((one, zero))
        ((_, in_policy),) = pullback((zero, -one))
        terms = Terms(upper, jnp.full_like(upper, jnp.nan), jnp.asarray(True), curvature)
        return terms, (in_x, in_policy), eqx.tree_at(_kept, memory, inverses)

    def hypergradient(self, oracle, x, memory, key):
        lower = lax.stop_gradient(self._lower(x))
        found = solve_lower(oracle, lower, memory.responses, memory.equilibria)
        responses, equilibria, converged = lax.stop_gradient(found)

        def objective(x):
            lower = self._lower(x)
            policy = differentiable_answer(lower, responses, equilibria)
            _, evaluations = _evaluate(lower, policy, memory.inverses)
            return self.problem.upper(x, policy, evaluations), (policy, _inverses(evaluations))

        (upper, (policy, inverses)), gradient = jax.value_and_grad(objective, has_aux=True)(x)
        terms = Terms(upper, jnp.zeros_like(upper), converged, None)
        return terms, gradient, policy, Memory(responses, inverses, equilibria)

    def best_response_value(self, oracle, x, memory, key):
        lower = self._lower(x)
        found = solve_lower(oracle, lower, memory.responses, memory.equilibria)
        responses, equilibria, converged = found
        policy = answer_policy(lower, responses, equilibria)
        _, evaluations = _evaluate(lower, policy, memory.inverses)
        upper = self.problem.upper(x, policy, evaluations)
        terms = Terms(upper, jnp.zeros_like(upper), converged, None)
        return terms, policy, Memory(responses, _inverses(evaluations), equilibria)

    def response_hypergradient(self, x, memory, measure, key, *, rollouts, adjoint):
        check_followers(self._lower(x))
        policy = over_players(lambda _, r: r.policy, self._lower(x), memory.responses)
        for_upper, for_adjoint = jax.random.split(key)
        if isinstance(rollouts, VisitAverages):
            upper, gradient = rollouts.hypergradient(
                self._lower, upper_reward_of(self.problem), x, memory.responses, for_upper
            )
            return _unpenalised(upper, memory), gradient, policy, measure
        if rollouts is None:
            upper, parts = self._upper_gradient(x, policy, memory)
        else:
            reward = upper_reward_of(self.problem)
            upper, parts = sampled_gradient(self._lower, reward, x, policy, rollouts, for_upper)
        direct, in_policy = parts
        indirect, measure = adjoint(
            self._lower, x, memory.responses, in_policy, measure, for_adjoint
        )
        gradient = jax.tree.map(jnp.add, direct, indirect)
        return _unpenalised(upper, memory), gradient, policy, measure

    def unrolled_gradient(self, x, policy, memory, key, *, steps, step_size):
        def objective(x):
            lower = self._lower(x)
            learned = learned_policy(lower, policy, steps, step_size)
            _, evaluations = _evaluate(lower, learned, memory.inverses)
            return self.problem.upper(x, learned, evaluations), (learned, _inverses(evaluations))

        (upper, (learned, inverses)), gradient = jax.value_and_grad(objective, has_aux=True)(x)
        terms = Terms(upper, jnp.full_like(upper, jnp.nan), jnp.asarray(True), None)
        return terms, gradient, learned, eqx.tree_at(_kept, memory, inverses)

    def evidence(self, memory):
        return None

    def certify(self, x, policy, memory=None, key=None):
        lower = self._lower(x)
        mdps, evaluations = _evaluate(lower, policy)
        responses = best_responses(mdps)
        gap = duality_gap(mdps, policy, responses)
        upper = self.problem.upper(x, policy, evaluations)
        if not has_answer(lower):  # F is no function of x
            return Certificate(upper, jnp.full_like(upper, jnp.nan), gap)
        equilibria, found = solve_games(lower, first_equilibria(lower))
        answer = answer_policy(lower, responses, equilibria)
        _, evaluations = _evaluate(lower, answer)
        at_answer = self.problem.upper(x, answer, evaluations)
        found &= _all(responses, lambda response: response.found)
        return Certificate(upper, jnp.where(found, at_answer, jnp.nan), gap)

    def mirror_step(self, x, policy, step):
        def one(mdp, policy, step):
            return mdp.regularizer.mirror_step(policy, step, mdp.available)

        mdps = induced_mdps(self._lower(x), policy)
        return over_players(one, mdps, policy, step)

    def tempered(self, factor):
        before = 1.0 if self.temperature is None else self.temperature
        return Exact(self.problem, before * factor)

    def project(self, x):
        return self.problem.project(x)

    def _lower(self, x):
        lower = self.problem.lower(x)
        if self.temperature is None:
            return lower
        cooled = lambda level: eqx.tree_at(lambda m: m.tau, level, self.temperature * level.tau)
        return tuple(map(cooled, lower)) if isinstance(lower, tuple) else cooled(lower)

    def _upper_gradient(self, x, policy, memory):
        def objective(point):
            x, policy = point
            _, evaluations = _evaluate(self._lower(x), policy, memory.inverses)
            return self.problem.upper(x, policy, evaluations)

        return jax.value_and_grad(objective)((x, policy))


def _kept(memory):
    return memory.inverses


def _unpenalised(upper, memory):
    """The terms of f alone, at the responses kept."""
    unknown = jnp.full_like(upper, jnp.nan)
    return Terms(upper, unknown, _all_converged(memory.responses), None)


def _evaluate(lower, policy, inverses=None):
    mdps = induced_mdps(lower, policy)
    if inverses is None:
        return mdps, over_players(evaluate, mdps, policy)
    return mdps, over_players(evaluate, mdps, policy, inverses)


def _curvature(weight, lower, mdps, policy, responses, weights):
    """That of weight p in every policy, or None where it is not known."""
    trees = (per_level(lower, tree) for tree in (mdps, policy, responses, weights))

    def one(level, mdps, policy, responses, weights):
        own = over_players(lambda _, w: w.own, mdps, weights)
        curvature = _own_curvature(weight, mdps, own)
        if curvature is None or isinstance(level, MDP):
            return curvature
        if not isinstance(level, ZeroSumGame):
            return None
        return lax.stop_gradient(_game_curvature(weight, level, policy, responses, weights))

    parts = tuple(one(*level) for level in zip(levels(lower), *trees, strict=True))
    return None if any(part is None for part in parts) else as_lower(lower, parts)


def _own_curvature(weight, mdps, per_state):
    """weight tau (weight of the state), or None where some player's tau is 0."""
    players = jax.tree.leaves(mdps, is_leaf=is_mdp)
    if any(isinstance(mdp.regularizer, Unregularized) for mdp in players):
        return None

    def one(mdp, states):
        tau = mdp.tau[..., None] if mdp.tau.ndim else mdp.tau
        return Curvature(weight * tau * states, None)

    return over_players(one, mdps, per_state)


def _game_curvature(weight, game, policy, responses, weights):
    """The Hessian of the Nikaido-Isoda gap at an equilibrium, where states do not mix.

    A player's policy moves the gap through the opponent's best response to it: in a state
    d(s) tau (I + Q C_b Q' C_pi / tau^2), with b and d that response and its occupancy, and Q the
    payoffs under its values. At an equilibrium the first variation of the values in the policies of
    other states vanishes, and with it all that would mix states.
    """
    (p, q), (first, second), tau = policy, responses, game.tau
    against_first = game.joint_q(-second.values)  # player 2's values are those it pays
    against_second = jnp.swapaxes(game.joint_q(first.values), 1, 2)
    return (
        Curvature(
            weight * tau * weights[1].opponents,
            newton_matrix(against_first, tau, p, second.policy),
        ),
        Curvature(
            weight * tau * weights[0].opponents,
            newton_matrix(against_second, tau, q, first.policy),
        ),
    )


def check_penalty(penalty: AbstractPenalty, lower: object) -> None:
    """``ValueError`` where the penalty does not fit the lower level."""
    if interactive(lower) and isinstance(penalty, BellmanPenalty):
        raise ValueError(
            "BellmanPenalty: the lower level is a game, for which this penalty is not defined "
            "(a player's optimal action values depend on the others' policies); use NikaidoIsoda."
        )


def induced(problem: Problem, x: PyTree, policy: PyTree = None) -> PyTree[MDP]:
    """The MDPs that the lower level's players face at x, the others playing ``policy``."""
    return induced_mdps(problem.lower(x), policy)


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
    return _all(responses, lambda response: response.converged)


def _all(responses, flag):
    is_response = lambda node: isinstance(node, Response)
    flags = jax.tree.map(lambda r: jnp.all(flag(r)), responses, is_leaf=is_response)
    return jnp.all(jnp.stack(jax.tree.leaves(flags)))
