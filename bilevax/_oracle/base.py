"""What all oracles share: the response, the step and the loop."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from .._linear import PolicySystem, inverse_of, policy_system
from .._mdp import MDP, action_values, per_context, soft_maximum
from .._types import Array, Bool, Float, Int, Scalar

USUAL_RATE = 0.3
"""What is expected of a step about which nothing is known; above it an inverse is renewed."""

MOVING = 1.0
"""The rate of a policy about to move, as a first policy is."""

_ROUNDING = 64
"""A residual of so many units of rounding that no longer halves has met its floor."""

_LONGEST_HORIZON = 1e6
"""At discount 1, a policy that takes more steps than this to end is not evaluated."""


class Response(eqx.Module):
    """An approximately optimal policy, and what the next call can start from.

    Attributes:
        policy: the improved policy, greedy with respect to r + discount P V; shape ``[S, A]``.
        values: V, shape ``[S]``.
        backup: T V, the Bellman operator applied once, shape ``[S]``.
        residual: max |T V - V|, the Bellman residual of ``values``.
        rate: the share of the residual before that the last step's linear model did not foresee;
            small where the policy has settled. The ratio of the residuals where that model is
            solved exactly.
        converged: whether the residual met the oracle's tolerance.
        steps: oracle steps taken by the last call.
        inverse: the inverse of a nearby policy's system, or ``None`` where none is kept.
    """

    policy: Float[Array, "*N S A"]
    values: Float[Array, "*N S"]
    backup: Float[Array, "*N S"]
    residual: Float[Array, "*N"]
    rate: Float[Array, "*N"]
    converged: Bool[Array, "*N"]
    steps: Int[Array, "*N"]
    inverse: Float[Array, "*N S S"] | None

    @property
    def found(self) -> Bool[Array, "*N"]:
        """Whether the residual met the tolerance, or is down to rounding: all that can be had."""
        scale = jnp.max(jnp.abs(self.backup), axis=-1)
        return self.converged | (self.residual <= _ROUNDING * jnp.finfo(scale.dtype).eps * scale)


class AbstractOracle(eqx.Module):
    """A way to solve a regularised MDP: generalised policy iteration (Sutton and Barto 2018, 4.6).

    A step evaluates the policy, exactly or approximately, and improves it. All oracles are the
    iteration V <- V + M (T V - V); they differ in M, an approximate (I - discount P_pi)^-1.

    Attributes:
        tol: the largest Bellman residual accepted, relative to the largest |T V|.
        max_steps: a limit; a response that meets it says ``converged = False``.
    """

    tol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, mdp: MDP) -> Response:
        """A cold start. Its residual is unknown until the first step."""

    @abc.abstractmethod
    def evaluate(self, mdp: MDP, response: Response) -> tuple[Float[Array, " S"], Scalar | float]:
        """V + M (T V - V), and the residual it would have if the policy stayed: 0 where exact."""

    @abc.abstractmethod
    def improve(self, mdp: MDP, q: Float[Array, "S A"], response: Response) -> Float[Array, "S A"]:
        """The next policy, from action values and the response before."""

    def step(self, mdp: MDP, response: Response) -> Response:
        """One evaluation and one improvement, for one context."""
        response = _with_useful_inverse(mdp, response, jnp.asarray(True))
        values, foreseen = self.evaluate(mdp, response)
        values = _possible(mdp, values, response, _reward_scale(mdp))
        new, _ = _observe(self, mdp, response, values, action_values(mdp, values), foreseen)
        return eqx.tree_at(lambda r: r.steps, new, response.steps + 1)


def respond(oracle: AbstractOracle, mdp: MDP, warm: Response | None = None) -> Response:
    """The oracle's response to an MDP, to tolerance, from a warm start or a cold one.

    It ends at the tolerance, where rounding stops the descent above it, or at the oracle's
    ``max_steps``; the last two leave ``converged = False``. A warm start may come from any MDP of
    the same shape: one that is further from T V = V than V = 0 is forgotten.
    """

    def one(mdp, *warm):
        start = _restart(*warm) if warm else oracle.init(mdp)
        scale = _reward_scale(mdp)

        def cond(carry):
            response, _, at_floor, k = carry
            return ~response.converged & ~at_floor & (k <= oracle.max_steps)

        def body(carry):
            # The first round only looks: one copy of the step compiles faster than two.
            response, look, _, k = carry
            response = _with_useful_inverse(mdp, response, ~look)

            def evaluate():
                values, foreseen = oracle.evaluate(mdp, response)
                return values, jnp.asarray(foreseen, values.dtype)

            keep = lambda: (response.values, jnp.zeros_like(response.residual))
            values, foreseen = lax.cond(look, keep, evaluate)
            values = _possible(mdp, values, response, scale)
            if warm:
                q = action_values(mdp, values)
            else:  # a cold start looks at V = 0, for which no product is needed
                q = lax.cond(look, lambda: mdp.reward, lambda: action_values(mdp, values))
            new, at_floor = _observe(oracle, mdp, response, values, q, foreseen)
            rate = jnp.where(look, response.rate, new.rate)
            new = eqx.tree_at(lambda r: (r.rate, r.steps), new, (rate, k))
            worse = jnp.asarray(False)
            if warm:
                worse = look & ~(new.residual <= 2 * scale) & jnp.any(values != 0)
                forgotten = jnp.zeros_like(values), mdp.uniform_policy()
                kept = jax.tree.map(
                    lambda a, b: jnp.where(worse, a, b), forgotten, (new.values, new.policy)
                )
                new = eqx.tree_at(lambda r: (r.values, r.policy), new, kept)
            return new, worse, at_floor & ~look, k + ~worse

        carry = (start, jnp.asarray(True), jnp.asarray(False), jnp.asarray(0))
        return lax.while_loop(cond, body, carry)[0]

    return per_context(one)(mdp, *([] if warm is None else [warm]))


def track(oracle: AbstractOracle, mdp: MDP, warm: Response) -> Response:
    """One oracle step from a warm start: the response of a single-loop method."""

    def one(mdp, warm):
        warm = _restart(warm)
        values = _possible(mdp, warm.values, warm, _reward_scale(mdp))
        first, _ = _observe(oracle, mdp, warm, values, action_values(mdp, values), 0.0)
        return oracle.step(mdp, eqx.tree_at(lambda r: r.rate, first, warm.rate))

    return per_context(one)(mdp, warm)


def system_of(mdp: MDP, response: Response) -> PolicySystem:
    """The system of the response's policy, for one context, with the inverse the response keeps."""
    kernel = mdp.transition.under(response.policy)
    if response.inverse is None:
        return policy_system(kernel, mdp.discount)
    return PolicySystem(kernel, mdp.discount, None, response.inverse)


def cold_start(oracle: AbstractOracle, mdp: MDP) -> Response:
    """The oracle's cold start in every context."""
    return per_context(oracle.init)(mdp)


def first_response(mdp: MDP, inverse: Float[Array, "S S"] | None, rate: float) -> Response:
    """V = 0 and the uniform policy, not yet looked at: residual infinite."""
    dtype = mdp.reward.dtype
    return Response(
        policy=mdp.uniform_policy(),
        values=jnp.zeros(mdp.num_states, dtype),
        backup=jnp.zeros(mdp.num_states, dtype),
        residual=jnp.asarray(jnp.inf, dtype),
        rate=jnp.asarray(rate, dtype),
        converged=jnp.asarray(False),
        steps=jnp.asarray(0),
        inverse=inverse,
    )


def _with_useful_inverse(mdp, response, wanted):
    """The response with a new inverse where the one it keeps no longer pays."""
    if response.inverse is None:
        return response

    def refresh(carry):
        kernel = mdp.transition.under(response.policy)
        return jnp.asarray(False), inverse_of(kernel, mdp.discount)

    # A factorisation costs about 20 steps (measured, 100 to 1000 states), and at this rate 20 steps
    # gain ten digits. A NaN inverse is none.
    stale = ~(response.rate <= USUAL_RATE) | jnp.isnan(response.inverse[0, 0])
    # A loop of at most one round: unlike a conditional it leaves the inverse where it lies.
    start = (stale & wanted, response.inverse)
    _, inverse = lax.while_loop(lambda carry: carry[0], refresh, start)
    return eqx.tree_at(lambda r: r.inverse, response, inverse)


def _restart(warm):
    """The warm start with all that another MDP left behind forgotten."""
    return eqx.tree_at(
        lambda r: (r.backup, r.residual, r.rate, r.converged, r.steps),
        warm,
        (
            # What replaces values that are not finite.
            jnp.zeros_like(warm.backup),
            jnp.full_like(warm.residual, jnp.inf),
            jnp.where(jnp.isfinite(warm.rate), warm.rate, USUAL_RATE),
            jnp.zeros_like(warm.converged),
            jnp.zeros_like(warm.steps),
        ),
    )


def _reward_scale(mdp):
    """A bound on |r - tau h|, the regularised reward of any policy."""
    return jnp.max(jnp.abs(mdp.reward)) + mdp.tau * (1 + jnp.log(mdp.num_actions))


def _possible(mdp, values, before, reward_scale):
    """The values, or T V of the step before where no policy can have them.

    An improper policy (discount 1) has no values, and a step with a stale M can lead anywhere.
    """
    horizon = jnp.where(mdp.discount < 1, 1 / (1 - mdp.discount), _LONGEST_HORIZON)
    largest = 2 * horizon * reward_scale
    possible = jnp.vdot(values, values) <= mdp.num_states * largest**2
    return jnp.where(possible, values, before.backup)


def _observe(oracle, mdp, before, values, q, foreseen):
    """The response at V and r + discount P V, and whether its residual is down to rounding."""
    backup = soft_maximum(mdp, q)
    residual, scale = jnp.max(jnp.abs(jnp.stack([backup - values, backup])), axis=1)
    rate = jnp.abs(residual - foreseen) / before.residual
    if before.inverse is not None:
        # Steps with a stale inverse that raise the residual can go round in circles: from then on
        # it is renewed at every step.
        rate = jnp.where((rate <= 1) & jnp.isfinite(before.rate), rate, jnp.inf)
    new = Response(
        policy=oracle.improve(mdp, q, before),
        values=values,
        backup=backup,
        residual=residual,
        rate=rate,
        converged=residual <= oracle.tol * scale,
        steps=before.steps,
        inverse=before.inverse,
    )
    floor = _ROUNDING * jnp.finfo(scale.dtype).eps * scale
    return new, (residual <= floor) & (residual > 0.5 * before.residual)
