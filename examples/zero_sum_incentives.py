"""Incentives for two opponents: a designer steers the equilibrium of a zero-sum Markov game."""

import jax
import jax.numpy as jnp
import numpy as np

import bilevax as bx

jax.config.update("jax_enable_x64", True)

S, A1, A2 = 4, 3, 3  # states, actions of player 1 and of player 2
rng = np.random.default_rng(0)
kernel = jnp.asarray(rng.dirichlet(np.full(S, 0.3), (S, A1, A2)))
reward = jnp.asarray(rng.random((S, A1, A2)))  # to player 1; player 2 gets the opposite
wanted = jnp.asarray(rng.random((S, A1, A2)))  # the designer's own reward
COST = 0.1


def lower(x):
    """The designer adds an incentive between 0 and 1 to player 1's reward."""
    return bx.ZeroSumGame(reward + jax.nn.sigmoid(x), kernel, discount=0.9, tau=0.1)


def upper(x, policy, evaluation):
    """Minus the designer's reward less its cost; one policy and one evaluation per player."""
    gain = jnp.einsum("si,sij,sj->s", policy[0], wanted - COST * jax.nn.sigmoid(x), policy[1])
    return -jnp.sum(evaluation[0].occupancy * gain)


problem = bx.BilevelProblem(upper, lower)
starts = 2 * jax.random.normal(jax.random.key(0), (4, S, A1, A2))

# The penalty is the Nikaido-Isoda gap: what both players together could still gain by deviating.
solver = bx.PBRL(penalty_weight=bx.Homotopy(0.1, 1e3, 300))
run = bx.run(problem, solver, starts, max_steps=400)
best = run.best

without = bx.solve_game(lower(jnp.full((S, A1, A2), -50.0)), bx.ShapleyNewton())
print(f"designer's return: {-run.best_response_values.max():.3f} (worst start) to ", end="")
print(f"{-best.best_response_value:.3f} (best), certified gap {best.gap:.1e}")

with_incentives = bx.solve_game(lower(best.x), bx.ShapleyNewton())
print(f"value to player 1: {without.values.mean():.3f} before, {with_incentives.values.mean():.3f}")
print("player 1 in state 0, before and after:")
print(np.round(np.asarray(without.policy[0][0]), 2), np.round(np.asarray(best.policy[0][0]), 2))
assert best.gap < 1e-4
assert jnp.max(jnp.abs(with_incentives.policy[0] - best.policy[0])) < 0.05
