"""Preferences in a corridor: where alternation stops, and where the bilevel answer is."""

import jax
import jax.numpy as jnp
import numpy as np

import bilevax as bx
from bilevax.problems import preferences

jax.config.update("jax_enable_x64", True)

# Four cells pay 2, 3, 0 and 4 per step; the agent starts in the first. A teacher compares pairs of
# the agent's own segments. The model r_x sees only how far along the corridor the agent is.
zoo = preferences()
problem = zoo.problem
starts = zoo.starts(jax.random.key(0), 4)


@jax.jit
def answer(x):
    """The agent trained on r_x, and F(x) = f(x, that agent)."""
    policy = bx.best_responses(problem.lower(x)).policy
    return policy, problem.upper(x, policy, bx.evaluate(problem.lower(x), policy))


def report(name, x):
    policy, value = answer(x)
    visits = bx.occupancy(problem.lower(x), policy) * (1 - problem.mdp.discount)
    slope = (answer(x + 1e-5)[1] - answer(x - 1e-5)[1]) / 2e-5
    print(f"{name:12} x {x[0]:5.2f}  F(x) {value:.4f}  dF/dx {slope:6.3f}  ", end="")
    print(f"true return {problem.true_return(policy):5.2f}  visits {np.round(visits, 2)}")
    return value


# Alternation: fit the model to the agent's segments, train the agent on the model, and again.
stops = []
for x in starts:
    for _ in range(60):
        policy, _ = answer(x)
        x = problem.fit(policy)
    stops.append(report("alternation", x))

# PBRL moves both at once, and knows that the agent's answer moves the queries.
solver = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 240), update=zoo.update(300))
for x in starts:
    solution = bx.solve(problem, solver, x, max_steps=300)
    value = report("PBRL", solution.x)
    assert solution.gap < 1e-6 and value < min(stops) - 0.2

mdp = problem.mdp
optimal = bx.best_responses(bx.MDP(mdp.reward, mdp.transition, discount=mdp.discount))
print(f"best true return of any policy {optimal.values[0]:.2f}")
assert jnp.ptp(jnp.stack(stops)) < 1e-6
