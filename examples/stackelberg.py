"""A leader and a follower in a random Markov game: who moves when, and how many starts it takes."""

import jax
import numpy as np

import bilevax as bx

jax.config.update("jax_enable_x64", True)

S, L, A = 10, 3, 3  # states, the leader's actions, the follower's actions
rng = np.random.default_rng(0)
kernel = rng.dirichlet(np.full(S, 0.2), (S, L, A))
leader_reward, follower_reward = rng.random((2, S, L, A))

# Simultaneous play: the follower knows the leader's policy and averages over it.
# Sequential play: the follower also sees the leader's action before it moves.
constructors = {
    "simultaneous": bx.StackelbergGame.simultaneous,
    "sequential": bx.StackelbergGame.sequential,
}
solver = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 300))
starts = 2 * jax.random.normal(jax.random.key(0), (4, S, L))  # four x0, logits of the leader

for name, constructor in constructors.items():
    game = constructor(leader_reward, follower_reward, kernel, discount=0.9, tau=0.02)
    # Local optima are the rule, so several starts are run and their spread is shown.
    run = bx.run(game, solver, starts, max_steps=400)
    returns = -run.best_response_values
    print(
        f"{name:12}  leader's return {returns.max():.4f}, worst start {returns.min():.4f}, ", end=""
    )
    print(f"certified gap {run.best.gap:.1e}")

    leader = game.leader_policy(run.best.x)
    follower = game.follower_policy(run.best.policy)
    print(f"              in state 0 the leader plays {np.round(leader[0], 2)}")
    print(f"              the follower answers        {np.round(follower[0], 2).tolist()}")
