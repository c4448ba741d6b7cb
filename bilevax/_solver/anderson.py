"""Anderson acceleration of a solver whose step in x is a fixed map."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._types import Array, Bool, Float, Int, PyTree, Scalar
from .base import AbstractSolver, next_state
from .implicit import ImplicitGradient
from .pbrl import PBRL
from .weight import ConstantWeight

_ROUNDING = 16  # units of rounding by which an objective counts as not risen


class Mixing(eqx.Module):
    """The last point taken, where the solver would go from there, and the points before.

    Attributes:
        update: the optimiser's state of the accelerated solver.
        point, image: x_k and G(x_k).
        objective: at x_k.
        points, residuals: the last x_i and G(x_i) - x_i, the latest first,
            ``[memory_size + 1, n]``.
        count: how many of them are known.
        length: the share of the way from ``point`` to ``image`` that is tried next.
        mixed: whether what is tried next is an accelerated point.
    """

    update: PyTree
    point: PyTree
    image: PyTree
    objective: Scalar
    points: Float[Array, "M n"]
    residuals: Float[Array, "M n"]
    count: Int[Array, ""]
    length: Scalar
    mixed: Bool[Array, ""]


class Anderson(AbstractSolver):
    """Extrapolates the steps x -> G(x) of a solver from the last few of them.

        x_{k+1} = G(x_k) - sum_i gamma_i (G(x_{k-i+1}) - G(x_{k-i})),
        gamma = argmin || r_k - sum_i gamma_i (r_{k-i+1} - r_{k-i}) ||,    r_i = G(x_i) - x_i,

    projected onto X: Anderson acceleration of type II (Anderson 1965; Walker and Ni 2011). A point
    at which the objective, F or f + weight p, rises is not taken: the memory is emptied and the
    solver's own step is tried, then half of it, and so on. So the objective never rises. One step
    is one step of ``solver``, whether its point is taken or not.

    G must be the same map at every step: an optimiser without memory, as ``optax.sgd``, and a
    constant penalty weight.

    Attributes:
        solver: ``ImplicitGradient`` or ``PBRL``.
        memory_size: differences of past steps that are mixed.
    """

    solver: ImplicitGradient | PBRL
    memory_size: int = 5

    def __check_init__(self):
        if self.memory_size < 1:
            raise ValueError(f"Anderson: memory_size is {self.memory_size}; give at least 1.")
        if isinstance(self.solver, PBRL):
            weight = self.solver.penalty_weight
            if not isinstance(weight, ConstantWeight):
                raise ValueError(
                    f"Anderson: penalty_weight is {type(weight).__name__}; give a number, since "
                    "the steps of a moving objective are no fixed map."
                )

    def init(self, estimator, x, policy, key):
        state = self.solver.init(estimator, x, policy, key)
        vector = ravel_pytree(x)[0]
        empty = jnp.zeros((self.memory_size + 1, vector.size), vector.dtype)
        one = jnp.ones_like(state.weight)
        mixing = Mixing(
            update=state.update,
            point=x,
            image=x,
            objective=jnp.inf * one,
            points=empty,
            residuals=empty,
            count=jnp.asarray(0),
            length=one,
            mixed=jnp.asarray(False),
        )
        return eqx.tree_at(lambda s: s.update, state, mixing)

    def step(self, estimator, state):
        mixing = state.update
        own = eqx.tree_at(lambda s: s.update, state, mixing.update)
        new = self.solver.step(estimator, own)
        objective = new.progress.upper_value
        if isinstance(self.solver, PBRL):
            objective = objective + new.progress.penalty_weight * new.progress.penalty
        room = _ROUNDING * jnp.finfo(objective.dtype).eps * jnp.abs(mixing.objective)
        # Not a number, where the objective is not finite, is never taken but at the first step.
        taken = (state.step == 0) | (objective <= mixing.objective + room)
        onward = self._onward(estimator, state.x, new, objective, mixing)
        shorter = self._shorter(estimator, state)
        moved = jax.tree.map(lambda a, b: jnp.where(taken, a, b), onward, shorter)
        return next_state(
            state,
            x=moved.x,
            policy=moved.policy,
            update=moved.update,
            memory=moved.memory,
            weight=moved.weight,
            progress=moved.progress,
        )

    @property
    def compares_values(self):
        return True

    def settled(self, state):
        return jnp.asarray(True)

    def answer(self, estimator, state):
        mixing = state.update
        own = eqx.tree_at(lambda s: (s.x, s.update), state, (mixing.point, mixing.update))
        return self.solver.answer(estimator, own)

    def _onward(self, estimator, x, new, objective, mixing):
        """The point is taken, and the next one extrapolated."""
        vector, unravel = ravel_pytree(x)
        image = ravel_pytree(new.x)[0]
        points = jnp.concatenate([vector[None], mixing.points[:-1]])
        residuals = jnp.concatenate([image[None] - vector, mixing.residuals[:-1]])
        count = jnp.minimum(mixing.count + 1, self.memory_size + 1)
        known = (jnp.arange(self.memory_size) < count - 1)[:, None]
        of_residuals = jnp.where(known, residuals[:-1] - residuals[1:], 0)
        of_points = jnp.where(known, points[:-1] - points[1:], 0)
        # Differences that are unknown, or depend on others, get the least share that fits.
        shares = jnp.linalg.lstsq(of_residuals.T, residuals[0])[0]
        mixed = estimator.project(unravel(image - shares @ (of_points + of_residuals)))
        renewed = Mixing(
            update=new.update,
            point=x,
            image=new.x,
            objective=objective,
            points=points,
            residuals=residuals,
            count=count,
            length=jnp.ones_like(mixing.length),
            mixed=count > 1,
        )
        return eqx.tree_at(lambda s: (s.x, s.update), new, (mixed, renewed))

    def _shorter(self, estimator, state):
        """The point is not taken: the solver's own step is tried, or half of what was."""
        mixing = state.update
        length = jnp.where(mixing.mixed, 1, mixing.length / 2).astype(mixing.length.dtype)
        trial = estimator.project(
            jax.tree.map(lambda a, b: a + length * (b - a), mixing.point, mixing.image)
        )
        # The steps seen so far led astray; what is known of the last point taken is kept.
        kept = eqx.tree_at(
            lambda m: (m.count, m.length, m.mixed),
            mixing,
            (jnp.minimum(mixing.count, 1), length, jnp.asarray(False)),
        )
        return eqx.tree_at(lambda s: (s.x, s.update), state, (trial, kept))
