"""The loop of `bx.solve` written by hand: `init` and `step` are public and pure."""

import equinox as eqx
import jax
import jax.numpy as jnp

import bilevax as bx
from bilevax.problems import bimatrix

jax.config.update("jax_enable_x64", True)

problem = bimatrix(game=3, tau=0.03).problem
solver = bx.PBRL(penalty_weight=bx.Homotopy(1.0, 1e3, 600))
estimator = bx.Exact(problem)  # values and gradients of a problem whose model is known

state = solver.init(estimator, jnp.zeros((1, 2)), None, jax.random.key(0))
step = eqx.filter_jit(solver.step)
for k in range(800):
    state = step(estimator, state)
    if (k + 1) % 200 == 0:
        now = state.progress
        print(
            f"step {k + 1:4}  f = {now.upper_value:8.4f}  penalty = {now.penalty:.1e}  "
            f"weight = {now.penalty_weight:7.1f}  |gradient| = {now.gradient_norm:.1e}"
        )

certificate = estimator.certify(state.x, state.policy)
print(f"leader's payoff {-certificate.upper_at_best_response:.4f} at the best response, ", end="")
print(f"certified gap {certificate.gap.absolute:.1e}")

# The same point as from the loop that the library runs. A state can also go on where it stopped.
solution = bx.solve(problem, solver, jnp.zeros((1, 2)), max_steps=800)
assert jnp.allclose(solution.x, state.x, rtol=1e-8)
longer = bx.solve(problem, solver, jnp.zeros((1, 2)), state=state, max_steps=1000)
print(f"after {longer.stats['steps']} steps {-longer.best_response_value:.4f}")
