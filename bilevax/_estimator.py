"""What solvers ask of a problem: a small protocol that exact and sampled problems answer alike.

Solvers never touch a model. ``Exact`` derives the answers from a problem's two functions, to
rounding; ``bilevax.deep.Sampled`` estimates them.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ._gap import Gap
from ._hypergradient import AbstractAdjoint
from ._oracle import AbstractOracle
from ._penalty import AbstractPenalty
from ._rollouts import Rollouts
from ._types import Array, Bool, Float, Key, PyTree, Scalar
from ._visit_averages import VisitAverages


class Terms(eqx.Module):
    """What comes with a gradient.

    Attributes:
        upper: f.
        penalty: p, by the solver's own oracle (0 at a best response, NaN where not computed).
        converged: whether every oracle met its tolerance.
        curvature: per player, that of the differentiated function in each state's policy. ``None``
            where tau is 0, and where no natural step is known.
    """

    upper: Scalar
    penalty: Scalar
    converged: Bool[Array, ""]
    curvature: "PyTree[Curvature] | None"


class Curvature(eqx.Module):
    """A model of the Hessian in a policy's logits, state by state, to divide a gradient by.

    Attributes:
        modulus: in the geometry of the regulariser, shape ``[S]``; 0 where a state counts nothing.
        matrix: what an opponent's answer adds, ``[S, A, A]``, as a factor on the modulus; ``None``
            where there is no opponent (the identity).
    """

    modulus: Float[Array, "*N S"]
    matrix: Float[Array, "S A A"] | None

    def divide(self, gradient: Float[Array, "*N S A"]) -> Float[Array, "*N S A"]:
        """The gradient over the curvature: the natural step."""
        # A state that counts nothing has neither gradient nor curvature, and does not move.
        counts = (self.modulus > 0)[..., None]
        step = jnp.where(counts, gradient / jnp.where(counts, self.modulus[..., None], 1), 0)
        if self.matrix is None:
            return step
        return jnp.linalg.solve(self.matrix, step[..., None])[..., 0]


class Certificate(eqx.Module):
    """f(x, policy), F(x) = f(x, pi*_x), and the certified gap.

    Each is exact, an interval from samples, or ``None`` where it is not known.
    """

    upper: Any  # Scalar | Interval
    upper_at_best_response: Any  # Scalar | None
    gap: Gap


class AbstractEstimator(eqx.Module):
    """Values and gradients for solvers, exact or estimated.

    ``memory`` is the estimator's own: what one step leaves for the next. A key is for one call.
    """

    @abc.abstractmethod
    def init(self, oracle: AbstractOracle, x: PyTree, key: Key) -> tuple[PyTree, PyTree]:
        """A uniform policy of the right shape, and cold warm starts."""

    @abc.abstractmethod
    def respond(
        self,
        oracle: AbstractOracle,
        x: PyTree,
        policy: PyTree,
        memory: PyTree,
        key: Key,
        *,
        single_loop: bool,
    ) -> PyTree:
        """The memory with the players' best responses at (x, policy)."""

    @abc.abstractmethod
    def interactive(self, x: PyTree) -> bool:
        """Whether a player's best response depends on the policies of others."""

    @abc.abstractmethod
    def penalised_gradient(
        self,
        penalty: AbstractPenalty,
        x: PyTree,
        policy: PyTree,
        weight: Scalar,
        memory: PyTree,
        key: Key,
    ) -> tuple[Terms, tuple[PyTree, PyTree], PyTree]:
        """The gradient of f + weight p in (x, policy) at the responses kept in ``memory``."""

    @abc.abstractmethod
    def independent_gradient(
        self, x: PyTree, policy: PyTree, memory: PyTree, key: Key
    ) -> tuple[Terms, tuple[PyTree, PyTree], PyTree]:
        """The gradient of f in x alone and of minus each player's own return in its policy."""

    @abc.abstractmethod
    def hypergradient(
        self, oracle: AbstractOracle, x: PyTree, memory: PyTree, key: Key
    ) -> tuple[Terms, PyTree, PyTree, PyTree]:
        """F(x) = f(x, pi*_x), its gradient, pi*_x, and the memory renewed."""

    @abc.abstractmethod
    def best_response_value(
        self, oracle: AbstractOracle, x: PyTree, memory: PyTree, key: Key
    ) -> tuple[Terms, PyTree, PyTree]:
        """F(x) = f(x, pi*_x) alone, pi*_x, and the memory renewed; tau may be 0."""

    @abc.abstractmethod
    def response_hypergradient(
        self,
        x: PyTree,
        memory: PyTree,
        measure: PyTree,
        key: Key,
        *,
        rollouts: Rollouts | VisitAverages | None,
        adjoint: AbstractAdjoint,
    ) -> tuple[Terms, PyTree, PyTree, PyTree]:
        """f, its gradient through the responses kept, those, and the adjoint's measure renewed.

        f's own gradient in (x, policy) is exact, or estimated from ``rollouts``; the derivative of
        the responses is the adjoint's. ``VisitAverages`` give both, and leave the adjoint aside.
        """

    @abc.abstractmethod
    def unrolled_gradient(
        self, x: PyTree, policy: PyTree, memory: PyTree, key: Key, *, steps: int, step_size: float
    ) -> tuple[Terms, PyTree, PyTree, PyTree]:
        """f(x, policy_K) after K steps of learning from ``policy``, its gradient, and policy_K.

        The gradient passes through the steps (``learned_policy``). The memory is renewed.
        """

    def evidence(self, memory: PyTree) -> PyTree:
        """What of the memory ``certify`` asks for: all of it, nothing where the model is known."""
        return memory

    @abc.abstractmethod
    def certify(
        self, x: PyTree, policy: PyTree, memory: PyTree = None, key: Key | None = None
    ) -> "Certificate":
        """f at the policy and at the best response, and a bound on the lower level's gap.

        ``memory`` and ``key`` serve estimates; what is exact uses neither.
        """

    @abc.abstractmethod
    def tempered(self, factor: Scalar) -> "AbstractEstimator":
        """The same problem with every tau of the lower level multiplied by ``factor``."""

    @abc.abstractmethod
    def mirror_step(self, x: PyTree, policy: PyTree, step: PyTree) -> PyTree:
        """Each policy's proximal step in the geometry of its regulariser."""

    @abc.abstractmethod
    def project(self, x: PyTree) -> PyTree:
        """The projection onto X."""
