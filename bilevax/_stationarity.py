"""How far a point is from stationary, and how much its value depends on what was assumed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from ._check import check_policy
from ._estimator import AbstractEstimator
from ._exact import Exact, induced
from ._oracle import PolicyIteration
from ._penalty import AbstractPenalty, NikaidoIsoda, is_mdp
from ._problem import Problem
from ._regularizer import NegativeEntropy
from ._solution import readable
from ._solve import as_estimator
from ._types import Array, Float, PyTree, Scalar, ScalarLike, concrete

_ORACLE = PolicyIteration(tol=1e-14)
_KEY = 0  # the model is known: nothing is drawn


class Stationarity(eqx.Module):
    """The projected-gradient map's norm, and what it was measured with.

    Attributes:
        norm: ||G||, with G = (z - z+) / step_size for one step from z = (x, policy) to z+.
        in_x: the part of x, ||(x - x+) / step_size||.
        in_policy: the part of the policies.
        step_size: alpha.
        geometry: of the policies' step, ``"Euclidean"`` or ``"KL"`` (with several players, one for
            each); the norm itself is Euclidean, and so is the step in x.
    """

    norm: Scalar
    in_x: Scalar
    in_policy: Scalar
    step_size: Scalar
    geometry: tuple[str, ...] = eqx.field(static=True)

    def __str__(self):
        return readable(self)


def stationarity(
    problem: Problem | AbstractEstimator,
    x: PyTree,
    policy: PyTree,
    *,
    penalty_weight: ScalarLike,
    step_size: ScalarLike,
    penalty: AbstractPenalty = NikaidoIsoda(),
) -> Stationarity:
    """||((x, y) - (x, y)+) / step_size|| for the paper's step on f + penalty_weight p.

    (x, y)+ is one projected gradient step with the exact best response: the Euclidean projection
    onto X for x, and for the policies the proximal step of their regulariser's geometry (squared
    norm: Euclidean; entropy: KL, a multiplicative step). Zero just where (x, y) is stationary. Its
    size depends on step_size wherever a constraint binds, and on the geometry: compare like with
    like. Spec (M10).
    """
    if concrete(penalty_weight) and not 0 <= penalty_weight < jnp.inf:
        raise ValueError(
            f"stationarity: penalty_weight is {penalty_weight}; give a finite number of at least 0."
        )
    _check_step_size("stationarity", step_size)
    estimator = as_estimator(problem)
    if not isinstance(estimator, Exact):
        raise ValueError(
            f"stationarity: {type(estimator).__name__} estimates from samples; give a problem "
            "whose model is known."
        )
    mdps = induced(estimator.problem, x)
    check_policy("stationarity: policy", policy, mdps)
    players = jax.tree.leaves(mdps, is_leaf=is_mdp)
    geometry = tuple(
        "KL" if isinstance(mdp.regularizer, NegativeEntropy) else "Euclidean" for mdp in players
    )
    alpha = jnp.asarray(step_size, players[0].reward.dtype)
    weight = jnp.asarray(penalty_weight, alpha.dtype)
    parts = _steps(estimator, penalty, x, policy, weight, alpha)
    in_x, in_policy = (optax.tree.norm(part) for part in parts)
    return Stationarity(jnp.hypot(in_x, in_policy), in_x, in_policy, alpha, geometry)


def hypergradient_norm(
    problem: Problem | AbstractEstimator, x: PyTree, *, step_size: ScalarLike = 1.0
) -> Scalar:
    """||(x - P(x - step_size grad F(x))) / step_size|| for F(x) = f(x, pi*_x), P projecting onto X.

    The stationarity of x in the *original* problem, whatever method found it; where x is
    unconstrained it is ||grad F(x)||. Exact, by one adjoint solve; needs tau > 0.
    """
    _check_step_size("hypergradient_norm", step_size)
    return _hypergradient_norm(as_estimator(problem), x, jnp.asarray(step_size))


def sensitivity(
    problem: Problem | AbstractEstimator,
    x: PyTree,
    *,
    tau_factors: tuple[float, ...] = (0.5, 0.8, 1.0, 1.25, 2.0),
) -> Float[Array, " K"]:
    """F(x) = f(x, pi*_x) if every tau of the lower level is ``tau_factors`` times the assumed one.

    One value per factor, in their order: what the leader's x is worth where it mistook how noisy
    its followers are. Needs tau > 0. For followers who are less than optimal at the assumed tau,
    see ``leader_return_range``. That of a ``lagrangian`` keeps the prices of the assumed tau: at
    other factors the follower's limits do not hold.
    """
    if not all(factor > 0 for factor in tau_factors):
        raise ValueError(f"sensitivity: tau_factors is {tau_factors}; give positive factors.")
    return _values_at(as_estimator(problem), x, jnp.asarray(tau_factors))


def _check_step_size(owner, step_size):
    if concrete(step_size) and not 0 < step_size < jnp.inf:
        raise ValueError(f"{owner}: step_size is {step_size}; give a positive, finite number.")


@eqx.filter_jit
def _steps(estimator, penalty, x, policy, weight, alpha):
    key = jax.random.key(_KEY)
    _, memory = estimator.init(_ORACLE, x, key)
    memory = estimator.respond(_ORACLE, x, policy, memory, key, single_loop=False)
    _, gradient, _ = estimator.penalised_gradient(penalty, x, policy, weight, memory, key)
    in_x, in_policy = jax.tree.map(lambda g: alpha * g, gradient)
    moved = estimator.project(jax.tree.map(jnp.subtract, x, in_x))
    new = (moved, estimator.mirror_step(x, policy, in_policy))
    return jax.tree.map(lambda old, z: (old - z) / alpha, (x, policy), new)


@eqx.filter_jit
def _hypergradient_norm(estimator, x, alpha):
    key = jax.random.key(_KEY)
    _, memory = estimator.init(_ORACLE, x, key)
    _, gradient, _, _ = estimator.hypergradient(_ORACLE, x, memory, key)
    moved = estimator.project(jax.tree.map(lambda z, g: z - alpha * g, x, gradient))
    return optax.tree.norm(jax.tree.map(lambda z, m: (z - m) / alpha, x, moved))


@eqx.filter_jit
def _values_at(estimator, x, factors):
    key = jax.random.key(_KEY)

    def value(factor):
        tempered = estimator.tempered(factor)
        _, memory = tempered.init(_ORACLE, x, key)
        terms, *_ = tempered.hypergradient(_ORACLE, x, memory, key)
        return terms.upper

    return lax.map(value, factors)
