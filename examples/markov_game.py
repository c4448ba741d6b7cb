"""Three players with rewards of their own: a certified gap, and what `infeasible` means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevax as bx

jax.config.update("jax_enable_x64", True)

# Three firms choose to produce (1) or not (0); the market is weak (state 0) or strong (state 1),
# and the stronger the fewer produced. A regulator sets a tax x >= 0 on production in each state.
S, N = 2, 3
actions = np.stack(np.meshgrid(*[[0, 1]] * N, indexing="ij"))  # [N, 2, 2, 2]
produced = actions.sum(0)
strong = np.stack([0.8 - 0.2 * produced, 0.95 - 0.2 * produced])  # P(strong next), [S, 2, 2, 2]
kernel = jnp.asarray(np.stack([1 - strong, strong], -1))
price = np.stack([1.0 - 0.3 * produced, 2.0 - 0.3 * produced])
advantage = np.array([0.3, 0.2, 0.1])  # lower costs of production
profit = jnp.asarray(actions[:, None] * (price[None] + advantage[:, None, None, None, None] - 0.6))


def lower(x):
    tax = x[None, :, None, None, None] * actions[:, None]
    return bx.MarkovGame(profit - tax, kernel, discount=0.8, tau=0.1)


def upper(x, policy, evaluation):
    """The market's weakness, plus a small cost of taxing: minimised."""
    return evaluation[0].occupancy[0] + 0.05 * jnp.sum(x**2)


problem = bx.BilevelProblem(upper, lower, optax.projections.projection_non_negative)


def describe(name, s):
    print(f"{name:10} tax {np.round(np.asarray(s.x), 3)}  f = {s.upper_value:.4f}  ", end="")
    print(f"gap <= {s.gap:.1e}  {bx.RESULTS[s.result] or 'successful'}")


# With n players no method finds an equilibrium for certain, and there is no F(x): equilibria need
# not be unique. What a run ends with is certified all the same: the sum over players of what each
# could still gain. Stopped early it is above the tolerance, and the result is infeasible: (x,
# policy) is then no answer, whatever f says.
solver = bx.PBRL(update=bx.SoftmaxLogits(optax.adam(0.05)), penalty_weight=bx.Homotopy(1, 1e3, 600))
early = bx.solve(problem, solver, jnp.zeros(S), max_steps=50)
describe("early", early)
late = bx.solve(problem, solver, jnp.zeros(S), state=early.state, max_steps=800)
describe("carried on", late)

for firm, policy in enumerate(late.policy):
    print(f"firm {firm + 1} produces with probability {np.round(np.asarray(policy[:, 1]), 3)}")
assert early.result == bx.RESULTS.infeasible and late.result == bx.RESULTS.successful
assert jnp.isnan(late.best_response_value)
