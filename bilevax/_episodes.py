"""Episodes of a follower, drawn from the kernel that its MDP states.

The states of all contexts are numbered together, n S + s. What x can move are five tables: the
reward, the probabilities of the kernel's entries, the start measure, the discount and tau. A
gradient in x estimated from episodes is a cotangent of these tables, pulled back once.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._mdp import MDP
from ._transition import DenseTransition, SuccessorList
from ._types import Array, Bool, Float, Int, Key, PyTree


class Tables(eqx.Module):
    """An MDP as tables over the G states of all contexts; K entries to a row of its kernel.

    Attributes:
        reward: r(s, a).
        probability: P of each entry; a row may lack something to one, which is termination.
        initial: rho(s).
        next_state: where each entry leads.
        discount, tau: of each state's context.
    """

    reward: Float[Array, "G A"]
    probability: Float[Array, "G A K"]
    initial: Float[Array, " G"]
    next_state: Int[Array, "G A K"]
    discount: Float[Array, " G"]
    tau: Float[Array, " G"]

    def moved(self) -> dict[str, Array]:
        """What x can move, by name."""
        names = ("reward", "probability", "initial", "discount", "tau")
        return {name: getattr(self, name) for name in names}

    def expected_next(self, values: Float[Array, " G"]) -> Float[Array, "G A"]:
        """sum over entries of P v(next), shape ``[G, A]``."""
        return jnp.sum(self.probability * values[self.next_state], axis=-1)


class Episodes(eqx.Module):
    """M episodes of at most T steps, or one step of each.

    Attributes:
        state, action: where each step was taken, and what was done.
        entry: the entry of the kernel's row that came up.
        next_state: where it led.
        weight: discount^t, and 0 where the episode had ended before.
        goes_on: whether the step did not end the episode.
    """

    state: Int[Array, "*T M"]
    action: Int[Array, "*T M"]
    entry: Int[Array, "*T M"]
    next_state: Int[Array, "*T M"]
    weight: Float[Array, "*T M"]
    goes_on: Bool[Array, "*T M"]

    @property
    def taken(self) -> Bool[Array, "*T M"]:
        """Whether the episode had not ended before the step."""
        return self.weight > 0


def tables(mdp: MDP) -> Tables:
    """An MDP's tables, differentiable in the MDP."""
    contexts, states = mdp.reward.shape[:-2], mdp.num_states
    kernel = mdp.transition
    if isinstance(kernel, DenseTransition):
        probability = kernel.array
        next_state = jnp.broadcast_to(jnp.arange(states), probability.shape[-3:])
    elif isinstance(kernel, SuccessorList):
        probability, next_state = kernel.probability, kernel.next_state
    else:
        raise ValueError(
            f"rollouts: the transition is a {type(kernel).__name__}, which states no probabilities "
            "to draw from; give a DenseTransition or a SuccessorList."
        )
    offset = states * jnp.arange(contexts[0] if contexts else 1)
    next_state = over_states(next_state, contexts, 3)
    return Tables(
        reward=over_states(mdp.reward, contexts, 2),
        probability=over_states(probability, contexts, 3),
        initial=over_states(mdp.initial, contexts, 1),
        next_state=next_state + jnp.repeat(offset, states)[:, None, None],
        discount=per_state(mdp.discount, mdp),
        tau=per_state(mdp.tau, mdp),
    )


def over_states(array: Array, contexts: tuple[int, ...], rank: int) -> Array:
    """An array whose last ``rank`` axes begin with the states, over the states of all contexts."""
    own = array.shape[-rank:]
    return jnp.broadcast_to(array, (*contexts, *own)).reshape(-1, *own[1:])


def per_state(number: Float[Array, "*#N"], mdp: MDP) -> Float[Array, " G"]:
    """A number, or one for each context, at every state."""
    column = number[..., None] if number.ndim else number
    return jnp.broadcast_to(column, mdp.reward.shape[:-1]).reshape(-1)


def draw(weights: Float[Array, "... K"], uniform: Float[Array, "*M"]) -> Int[Array, "*M"]:
    """An entry of each row by weight, from numbers in [0, 1); one row may serve all."""
    total = jnp.cumsum(weights, axis=-1)
    found = jnp.sum(total <= uniform[..., None] * total[..., -1:], axis=-1)
    return jnp.minimum(found, weights.shape[-1] - 1)


def rollout(
    known: Tables,
    policy: Float[Array, "G A"],
    state: Int[Array, " M"],
    action: Int[Array, " M"],
    key: Key,
    steps: int,
) -> Episodes:
    """Episodes that begin with given states and actions and follow the policy from then on."""
    count, dtype = state.shape[0], known.reward.dtype
    integer = state.dtype
    empty = lambda kind: jnp.zeros((steps, count), kind)
    none = empty(integer)
    blank = Episodes(none, none, none, none, empty(dtype), empty(bool))

    def body(carry):
        k, state, action, weight, seen = carry
        # The first for the kernel, the second for the next action.
        chance, choice = jax.random.uniform(jax.random.fold_in(key, k), (2, count), dtype)
        row = known.probability[state, action]
        lacking = jnp.maximum(1 - jnp.sum(row, axis=-1), 0)
        # A row short of one by rounding alone never ends an episode.
        lacking = jnp.where(lacking <= 1e3 * jnp.finfo(dtype).eps, 0, lacking)
        entry = draw(jnp.concatenate([row, lacking[:, None]], axis=-1), chance).astype(integer)
        goes_on = (entry < row.shape[-1]) & (weight > 0)
        entry = jnp.minimum(entry, row.shape[-1] - 1)
        following = known.next_state[state, action, entry].astype(integer)
        step = Episodes(state, action, entry, following, weight, goes_on)
        seen = jax.tree.map(lambda array, now: array.at[k].set(now), seen, step)
        weight = jnp.where(goes_on, weight * known.discount[state], 0)
        return k + 1, following, draw(policy[following], choice).astype(integer), weight, seen

    def cond(carry):
        k, _, _, weight, _ = carry
        return (k < steps) & jnp.any(weight > 0)

    start = (jnp.asarray(0), state, action, jnp.ones(count, dtype), blank)
    return lax.while_loop(cond, body, start)[-1]


def returns_to_go(
    seen: Episodes, reward: Float[Array, "T M"], discount: Float[Array, " G"]
) -> Float[Array, "T+1 M"]:
    """sum over k >= t of discount^(k-t) reward_k, with the row of zeros that ends it."""

    def back(following, step):
        own, rate = step
        total = own + rate * following
        return total, total

    own = jnp.where(seen.taken, reward, 0)
    rate = jnp.where(seen.goes_on, discount[seen.state], 0)
    last = jnp.zeros(reward.shape[1], reward.dtype)
    totals = lax.scan(back, last, (own, rate), reverse=True)[1]
    return jnp.concatenate([totals, last[None]])


def visit_cotangent(known: Tables, seen: Episodes, weight: Float[Array, "T M"]) -> Array:
    """A weight for each visit, summed over visits to a state, shape ``[G]``."""
    return jnp.zeros_like(known.initial).at[seen.state].add(weight)


def kernel_cotangent(
    known: Tables, seen: Episodes, weight: Float[Array, "T M"]
) -> Float[Array, "G A K"]:
    """Cotangent of the probabilities for the sum of weight times d log P(what came up).

    An end came up with the probability that the row lacks.
    """
    pair, where = (seen.state, seen.action), (seen.state, seen.action, seen.entry)
    chance = known.probability[where]
    lacking = 1 - jnp.sum(known.probability, axis=-1)[pair]
    ended = ~seen.goes_on & seen.taken
    share = jnp.where(seen.goes_on, weight / jnp.where(seen.goes_on, chance, 1), 0)
    whole = jnp.where(ended, -weight / jnp.where(ended, lacking, 1), 0)
    cotangent = jnp.zeros_like(known.probability).at[where].add(share)
    return cotangent.at[pair].add(whole[..., None])


def pull_back(function: Callable[[PyTree], PyTree], x: PyTree, cotangent: PyTree) -> PyTree:
    """The cotangent of ``function`` at x, as one of x."""
    return jax.vjp(function, x)[1](cotangent)[0]
