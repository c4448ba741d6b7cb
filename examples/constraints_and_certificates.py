"""Constraints on x, what the certificate says, and a polish on F itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevax as bx

jax.config.update("jax_enable_x64", True)

# A designer has a budget of 1 for subsidies x(s) >= 0 on five states, and wants the agent in
# state 4.
S, A = 5, 3
rng = np.random.default_rng(0)
kernel = jnp.asarray(rng.dirichlet(np.full(S, 0.3), (S, A)))
reward = jnp.asarray(rng.random((S, A)))


def lower(x):
    return bx.MDP(reward + x[:, None], kernel, discount=0.9, tau=0.05)


def upper(x, policy, evaluation):
    return -evaluation.occupancy[4]


def project(x):
    """The Euclidean projection onto {x >= 0, sum x <= 1}."""
    inside = optax.projections.projection_non_negative(x)
    on_the_face = optax.projections.projection_simplex(x)
    return jnp.where(jnp.sum(inside) <= 1, inside, on_the_face)


problem = bx.BilevelProblem(upper, lower, project)
x0 = jnp.full(S, 1 / S)


def describe(name, s):
    print(f"{name:14} f(x, y) = {s.upper_value:.6f}  F(x) = {s.best_response_value:.6f}  ", end="")
    print(f"gap <= {s.gap:.1e}\n               {bx.RESULTS[s.result] or 'successful'}")


# The penalty weight rises from 1 to 1e4 in 600 steps. Stopped early it is light, and the agent's
# policy far from its best response: the certificate says so, and the result says what to do.
solver = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e4, 600))
light = bx.solve(problem, solver, x0, max_steps=100)
describe("stopped early", light)

# Carried on from there, the penalty closes the gap: f(x, y) meets F(x) = f(x, best response).
raised = bx.solve(problem, solver, x0, state=light.state, max_steps=800)
describe("carried on", raised)

# Polish: quasi-Newton descent on F from there. The agent then answers optimally by construction.
polished = bx.polish(problem, raised, tol=1e-4)
describe("polished", polished)

# An agent that loses at most .01 may do better or worse for the designer: the certified range.
time_in_4 = jnp.zeros((S, A)).at[4].set(1.0)
ends = bx.upper_value_range(lower(polished.x), time_in_4, tolerance=0.01)
print(
    f"steps in state 4: {ends.pessimistic:.3f} to {ends.optimistic:.3f} if the agent may lose .01"
)

print(
    "subsidies", np.round(np.asarray(polished.x), 3), "of total", round(float(polished.x.sum()), 6)
)
assert light.result == bx.RESULTS.infeasible and raised.result == bx.RESULTS.successful
assert polished.best_response_value <= raised.best_response_value
assert float(polished.x.sum()) <= 1 + 1e-12 and float(polished.x.min()) >= 0
assert abs(raised.upper_value - raised.best_response_value) < 1e-3
assert ends.pessimistic <= -polished.best_response_value <= ends.optimistic
