"""Zero-order search on F(x): differences of values at best responses along random directions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._oracle import AbstractOracle, PolicyIteration
from .._solver.base import AbstractSolver, descended, first_policy, first_state, step_key
from ._method import Method, Request, settling_adam


class ZeroOrder(AbstractSolver):
    """Descends F(x) = f(x, pi*_x) by two-point differences along Gaussian directions.

        g = mean over u of ( F(x + radius u) - F(x - radius u) ) / (2 radius) u,    u ~ N(0, I),

    whose mean is the gradient of F smoothed by N(0, radius^2 I) (Nesterov and Spokoiny 2017). The
    follower is only ever asked for its answer: tau may be 0, and its reward stays unknown.

    F is not known outside X, so both points are projected onto it, while the difference is divided
    by 2 radius all the same: within a few radii of the boundary the estimate is biased, too small
    across it. A smaller radius narrows that margin.

    Attributes:
        optimizer: any optax optimiser of x.
        oracle: answers for the follower.
        radius: of the smoothing.
        directions: per step, each of which costs two answers.
    """

    optimizer: optax.GradientTransformation = eqx.field(default=optax.adam(0.05))
    oracle: AbstractOracle = PolicyIteration()
    radius: float = 0.05
    directions: int = 4

    def __check_init__(self):
        if not self.radius > 0:
            raise ValueError(f"ZeroOrder: radius is {self.radius}; give a positive number.")
        if self.directions < 1:
            raise ValueError(f"ZeroOrder: directions is {self.directions}; give at least 1.")

    def init(self, estimator, x, policy, key):
        uniform, memory = estimator.init(self.oracle, x, key)
        policy = first_policy(uniform, policy)
        return first_state(x, policy, self.optimizer.init(x), memory, jnp.nan, key)

    def step(self, estimator, state):
        here, along = jax.random.split(step_key(state))
        terms, policy, memory = estimator.best_response_value(
            self.oracle, state.x, state.memory, here
        )

        def value(x, key):
            point = estimator.project(x)
            return estimator.best_response_value(self.oracle, point, memory, key)[0].upper

        def difference(key):
            leaves, structure = jax.tree.flatten(state.x)
            first, second, *keys = jax.random.split(key, 2 + len(leaves))
            parts = [
                jax.random.normal(own, z.shape, z.dtype)
                for own, z in zip(keys, leaves, strict=True)
            ]
            u = jax.tree.unflatten(structure, parts)
            ahead = jax.tree.map(lambda z, d: z + self.radius * d, state.x, u)
            behind = jax.tree.map(lambda z, d: z - self.radius * d, state.x, u)
            slope = (value(ahead, first) - value(behind, second)) / (2 * self.radius)
            return jax.tree.map(lambda d: slope * d, u)

        slopes = lax.map(difference, jax.random.split(along, self.directions))
        in_x = jax.tree.map(lambda g: jnp.mean(g, axis=0), slopes)
        return descended(estimator, self.optimizer, state, in_x, terms, policy, memory)

    def settled(self, state):
        # An estimated gradient may be small by chance.
        return jnp.asarray(False)

    def answer(self, estimator, state):
        # The state's own policy answers the x before the last move.
        found = estimator.best_response_value(self.oracle, state.x, state.memory, step_key(state))
        return state.x, found[1]


def _build(request: Request) -> AbstractSolver:
    return ZeroOrder(settling_adam(request), directions=8)


METHOD = Method(
    name="zero-order",
    summary="search along random directions by values at best responses; no derivative",
    source="Nesterov and Spokoiny 2017; baseline of Thoma et al. 2024",
    model=False,
    follower_reward=False,
    second_order=False,
    cost="17 best responses",
    build=_build,
)
