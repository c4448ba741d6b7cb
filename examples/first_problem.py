"""A problem of your own: a toll that sends an agent down the road the designer prefers."""

import jax

import bilevax as bx

jax.config.update("jax_enable_x64", True)

# One decision (state 0): action 0 is the short road, action 1 the long one. Then the trip is over.
reward = jax.numpy.array([[1.0, 0.6]])
kernel = jax.numpy.zeros((1, 2, 1))  # rows sum to 0: every action ends the episode


def lower(x):
    """The agent's MDP: the toll x is taken off the short road's reward."""
    return bx.MDP(reward.at[0, 0].add(-x), kernel, discount=0.9, tau=0.05)


def upper(x, policy, evaluation):
    """What the designer minimises: traffic on the short road, and the toll itself."""
    return policy[0, 0] + 0.5 * x**2


solution = bx.solve(bx.BilevelProblem(upper, lower), bx.PBRL(), x0=0.0)

print(f"toll                    {solution.x:.3f}")
print(f"share on the short road {solution.policy[0, 0]:.3f}")
print(f"designer's cost F(x)    {solution.best_response_value:.4f}")
print(f"certified gap           {solution.gap:.1e}")
assert solution.result == bx.RESULTS.successful
