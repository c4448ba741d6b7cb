"""Reward design on FrozenLake: keep an agent off two cells by small changes of its rewards."""

import jax
import numpy as np

import bilevax as bx
from bilevax.problems import reward_design

jax.config.update("jax_enable_x64", True)

# The agent maximises the environment's reward plus x(s). The designer chooses x, |x|_1 <= 1, wants
# the goal reached, and loses 1 for every step that the agent spends in cell 4 or cell 8.
zoo = reward_design(env="FrozenLake-v1", avoid=[4, 8], budget=1.0)
solver = bx.PBRL(
    penalty=bx.NikaidoIsoda(uniform_weight=0.5), penalty_weight=bx.Homotopy(10.0, 1e4, 500)
)
starts = zoo.starts(jax.random.key(0), 2)
run = bx.run(zoo.problem, solver, starts, max_steps=600)
best = run.best

before = zoo.known["without any change"]
print(f"designer's return without changes {before:7.3f}")
print(f"designer's return with changes    {-best.best_response_value:7.3f}")
print(f"no incentive whatever can exceed  {zoo.known['no incentive can exceed']:7.3f}")
print(f"certified gap of the agent        {best.gap:7.1e}")

visits = np.asarray(bx.occupancy(zoo.problem.lower(best.x), best.policy))
agent = zoo.problem.mdp
own = np.asarray(bx.occupancy(agent, bx.best_responses(agent).policy))
print(f"steps in the avoided cells        {own[[4, 8]].sum():7.3f} before, ", end="")
print(f"{visits[[4, 8]].sum():.3f} after")
print("change of reward per cell, of a total |x| of", np.round(np.abs(best.x).sum(), 3))
print(np.round(np.asarray(best.x), 3).reshape(4, 4))
assert -best.best_response_value > before
