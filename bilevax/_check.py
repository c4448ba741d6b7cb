"""What ``solve`` refuses, before anything is compiled: arguments and problems that cannot work."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._answer import over_players
from ._estimator import AbstractEstimator
from ._evaluation import evaluate
from ._exact import induced
from ._penalty import is_mdp
from ._problem import Problem
from ._regularizer import Unregularized
from ._solver.base import AbstractSolver
from ._types import Array, PyTree, concrete, kind_of

_UNKNOWN_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where Python or NumPy asks for a value that the compiler does not know."""


def check_limits(max_steps: Any, tol: Any, gap_tol: Any) -> None:
    """``ValueError`` where a limit or a tolerance makes no sense."""
    for name, value in dict(max_steps=max_steps, tol=tol, gap_tol=gap_tol).items():
        if concrete(value) and not _is_number(value):
            raise ValueError(f"solve: {name} is {value!r}; give one number.")
    if concrete(max_steps) and not max_steps >= 1:
        raise ValueError(f"solve: max_steps is {max_steps}; give at least 1.")
    if concrete(tol) and not 0 <= tol < np.inf:
        raise ValueError(f"solve: tol is {tol}; give a finite number, 0 to run all steps.")
    if concrete(gap_tol) and not gap_tol > 0:
        raise ValueError(
            f"solve: gap_tol is {gap_tol}; give a positive number, in units of the lower level's "
            "return (infinity accepts any gap)."
        )


def check_problem(problem: Any, x0: PyTree, policy0: PyTree | None = None) -> None:
    """``ValueError`` where ``x0``, ``policy0`` or what the problem returns at them is unusable.

    Builds the lower level once outside the compiler, so that its own checks can see values.
    """
    _check_is_problem(problem)
    _check_start(x0)
    if isinstance(problem, AbstractEstimator):
        return
    name = type(problem).__name__
    called = lambda function, call, *arguments: _called(name, function, x0, call, *arguments)
    projected = called("project", jax.eval_shape, lambda x: problem.project(x), x0)
    if layout(projected) != layout(x0):
        raise ValueError(
            f"{name}: project returns {layout(projected)} for an x of {layout(x0)}; "
            "it must keep structure, shapes and dtypes."
        )
    x = problem.project(x0)
    _check_projection(name, x, problem.project(x))
    lower = called("lower", problem.lower, x)
    for level in lower if isinstance(lower, tuple) else (lower,):
        if not hasattr(level, "induced_mdps"):
            raise ValueError(
                f"{name}: lower returns {type(level).__name__}; return an MDP, a tuple of MDPs, "
                "or a game."
            )
    mdps = induced(problem, x)
    _check_regularizers(name, mdps, called("lower", eqx.filter_eval_shape, induced, problem, x))
    uniform = over_players(lambda mdp: mdp.uniform_policy(), mdps)
    if policy0 is not None:
        check_policy("solve: policy0", policy0, mdps)

    def upper_of(x, policy):
        return problem.upper(x, policy, over_players(evaluate, induced(problem, x), policy))

    upper = called("upper", jax.eval_shape, upper_of, x, uniform)
    if getattr(upper, "shape", None) != () or not jnp.issubdtype(upper.dtype, jnp.floating):
        raise ValueError(
            f"{name}: upper returns {layout(upper)}; "
            "it must return one real number, to be minimised."
        )
    _check_precision(name, x, uniform, upper)


def check_first_value(upper: Array) -> None:
    """``ValueError`` where f is not finite at the very start: no step can mend that."""
    if not jnp.isfinite(upper):
        raise ValueError(
            f"solve: upper(x, policy, evaluation) is {upper} at x0 and the first policy; "
            "it must be finite there."
        )


def _check_is_problem(problem):
    if isinstance(problem, AbstractEstimator):
        return
    is_class = isinstance(problem, type)
    if isinstance(problem, Problem) and not is_class:
        return
    wanted = "give anything with upper, lower and project, such as BilevelProblem(upper, lower)"
    if issubclass(problem if is_class else type(problem), AbstractSolver):
        wanted = "problem comes first and solver second"
    elif isinstance(getattr(problem, "problem", None), Problem):
        wanted = "give its attribute problem"
    raise ValueError(f"solve: problem is {kind_of(problem)}; {wanted}.")


def _called(name: str, function: str, x0: PyTree, call: Callable, *arguments: Any) -> Any:
    """What a call returns; an error that a wrong x0 or Python's own control flow makes is named.

    The new error keeps the traceback, in which a command finds the line of a user's file.
    """
    try:
        return call(*arguments)
    except _UNKNOWN_VALUES as error:
        raise ValueError(
            f"{name}: {function} decides on the value of an array, or converts it to a number or "
            "to NumPy, which cannot be compiled; use jnp.where in place of if, jnp in place of np, "
            "and keep arrays where float or int would convert them."
        ).with_traceback(error.__traceback__) from error
    except Exception as error:
        numbers = _is_list_of_numbers(x0)
        where = f"a {type(x0).__name__} of numbers" if numbers else layout(x0)
        if not isinstance(error, TypeError | LookupError):
            error.add_note(f"{name}: {function} raised this at an x of {where}.")
            raise
        wanted = f"give the x0 that {function} expects, or mend {function}"
        if numbers:
            wanted = "give an array, jnp.array(x0)"
        reason = (str(error).strip().splitlines() or [""])[0].removesuffix(".")
        raise ValueError(
            f"{name}: {function} raised {type(error).__name__} at an x of {where} ({reason}); "
            f"{wanted}."
        ).with_traceback(error.__traceback__) from error


def _is_list_of_numbers(x0):
    lists = (list, tuple)
    leaves = jax.tree.leaves(x0, is_leaf=lambda node: type(node) not in lists)
    return type(x0) in lists and all(getattr(leaf, "shape", None) == () for leaf in leaves)


def _is_number(value):
    return np.ndim(value) == 0 and jnp.issubdtype(np.asarray(value).dtype, jnp.number)


def _check_start(x0):
    for path, leaf in jax.tree.leaves_with_path(x0):
        name = "x0" + jax.tree_util.keystr(path)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"solve: {name} has dtype {leaf.dtype}; give floating-point numbers.")
        if concrete(leaf) and not np.isfinite(leaf).all():
            where = np.argwhere(~np.isfinite(leaf))[0].tolist()
            raise ValueError(f"solve: {name} is not finite at {where}; give a finite start.")
    if not jax.tree.leaves(x0):
        raise ValueError("solve: x0 holds no array; give the upper level's start.")


def _check_projection(name, x, again):
    if not concrete(x, again):
        return
    for one, other in zip(jax.tree.leaves(x), jax.tree.leaves(again), strict=True):
        slack = np.sqrt(jnp.finfo(one.dtype).eps) * max(1, np.max(np.abs(one), initial=0))
        moved = np.max(np.abs(one - other), initial=0)
        if not moved <= slack:
            raise ValueError(
                f"{name}: project moves the point project(x0) by {moved}; a projection onto X "
                "leaves the points of X where they are (and X may not be empty)."
            )


def _check_precision(name, x, policy, upper):
    """Of mixed precisions the loop over steps would say only that its carry changes its type."""
    found = [jnp.result_type(*jax.tree.leaves(tree)) for tree in (x, policy, upper)]
    if len(set(found)) > 1:
        raise ValueError(
            f"{name}: upper returns {found[2]} and lower's rewards are {found[1]} for an x of "
            f"{found[0]}; cast them to one dtype (array.astype)."
        )


def _check_regularizers(name, mdps, traced):
    """A tau of 0 that only the eager build can see would divide by zero in the compiled one."""
    pairs = zip(
        jax.tree.leaves(mdps, is_leaf=is_mdp), jax.tree.leaves(traced, is_leaf=is_mdp), strict=True
    )
    for mdp, compiled in pairs:
        unregularized = isinstance(mdp.regularizer, Unregularized)
        if unregularized and not isinstance(compiled.regularizer, Unregularized):
            raise ValueError(
                f"{name}: lower builds an MDP whose tau is 0, but where it is "
                "compiled tau is an unknown number; pass regularizer=bx.Unregularized() as well."
            )


def check_policy(name: str, policy: PyTree, mdps: PyTree) -> None:
    """``ValueError`` where a policy is none of these players', as far as values can be seen."""
    structure = jax.tree.structure(over_players(lambda mdp: mdp.reward, mdps))
    if jax.tree.structure(policy) != structure:
        raise ValueError(
            f"{name} has the structure {jax.tree.structure(policy)}; the lower level's "
            f"players have {structure}."
        )

    def one(mdp, policy):
        if np.shape(policy) != mdp.reward.shape:
            raise ValueError(
                f"{name} has shape {np.shape(policy)}; the lower level's policy has shape "
                f"{mdp.reward.shape}."
            )
        if not concrete(policy, mdp.available):
            return
        policy = np.asarray(policy)
        slack = np.sqrt(np.finfo(mdp.reward.dtype).eps)
        total = policy.sum(-1)
        if not ((policy >= 0).all() and (np.abs(total - 1) <= slack).all()):
            raise ValueError(
                f"{name} has entries from {policy.min()} to {policy.max()} and rows that "
                f"sum to {total.min()} up to {total.max()}; give a probability for every action."
            )
        if mdp.available is not None and (policy > 0)[~_available(mdp)].any():
            where = np.argwhere((policy > 0) & ~_available(mdp))[0].tolist()
            raise ValueError(f"{name} is positive at {where}, where the action is not available.")

    over_players(one, mdps, policy)


def _available(mdp):
    return np.broadcast_to(np.asarray(mdp.available), mdp.reward.shape)


def layout(tree: PyTree) -> str:
    """Structure, shapes and dtypes in words, and comparable."""
    words = lambda leaf: f"{leaf.dtype}{list(leaf.shape)}"
    described = jax.tree.map(words, tree)
    return described if isinstance(described, str) else str(described)
