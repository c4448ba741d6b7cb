"""Problems by name: the zoo, and functions in a user's own file."""

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import problems
from .._nearest import nearest
from .._solution import Solution
from .._solver import PBRL, Homotopy
from .._types import Key, PyTree
from ..problems import ZooProblem

ZOO: dict[str, Callable[..., ZooProblem]] = {
    "stackelberg": problems.stackelberg,
    "four-rooms": problems.four_rooms,
    "discrete-toy": problems.discrete_toy,
    "bimatrix": problems.bimatrix,
    "random-reward": problems.random_reward,
    "reward-design": problems.reward_design,
    "tolls": problems.tolls,
    "tax": problems.tax,
    "matrix-game": problems.matrix_game,
    "incentive-game": problems.incentive_game,
    "sentinel-intruder": problems.sentinel_intruder,
    "preferences": problems.preferences,
}
_READABLE = 12
"""Entries of a user's own x that are printed one by one."""
NEAR, WIDE = 0.1, 2.0
"""Standard deviations of the near and of the wide starts around a user's x0."""


@dataclass(frozen=True)
class Around:
    """``starts(key, n)`` of a problem in a user's file: x0 itself, then ``draws`` around it."""

    x0: PyTree

    def __call__(self, key: Key, n: int) -> PyTree:
        """x0 itself, then near and wide normal draws around it in turn."""
        return self._moved(key, [0.0, *_near_and_wide(n - 1)])

    def draws(self, key: Key, n: int) -> PyTree:
        """Near and wide normal draws around x0 in turn, without x0 itself."""
        return self._moved(key, _near_and_wide(n))

    def _moved(self, key: Key, deviations: list[float]) -> PyTree:
        leaves, structure = jax.tree.flatten(self.x0)
        n, scale = len(deviations), jnp.asarray(deviations)
        keys = jax.random.split(key, len(leaves))

        def draw(leaf, key):
            noise = jax.random.normal(key, (n, *leaf.shape), leaf.dtype)
            return leaf + scale.reshape((n,) + (1,) * leaf.ndim) * noise

        drawn = [draw(z, k) for z, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, drawn)


def _near_and_wide(n: int) -> list[float]:
    return [WIDE if i % 2 else NEAR for i in range(n)]


def build(name: str, options: dict[str, Any]) -> ZooProblem:
    """The problem of that name, ``FILE.py:FUNCTION`` included, with its options."""
    if is_file(name):
        function = function_in(name)
        _check_options(name, function, options)
        with blaming(name):
            made = function(**options)
        return _own_problem(name, function, made)
    constructor = ZOO[nearest("problem", name.replace("_", "-"), ZOO)]
    _check_options(name, constructor, options)
    try:
        return constructor(**options)
    except Exception as error:
        # Gymnasium's errors about an environment's name are for its user, but no ValueErrors.
        if not type(error).__module__.startswith("gymnasium"):
            raise
        raise ValueError(f"{name}: {error}") from error


def absolute(name: str) -> str:
    """The name with the whole path of a user's file, so that it serves from any folder."""
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):  # no file, or one without a function, which is refused later
        return name
    return f"{Path(path).resolve()}:{function}"


def first_sentence(function: Callable[..., Any]) -> str:
    """The first paragraph of a docstring, on one line; empty where there is none."""
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())


def flag(option: str) -> str:
    """The flag on the command line of a problem's option."""
    return "--problem-seed" if option == "seed" else "--" + option.replace("_", "-")


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """Errors that pass through a user's file become a ``ValueError`` that names the line there."""
    try:
        yield
    except Exception as error:
        if not is_file(name):
            raise
        path, _, _ = name.rpartition(":")
        where = str(Path(path).resolve())
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == where]
        if isinstance(error, SyntaxError) and error.filename == where:
            lines = [error.lineno]
        if not lines:
            raise
        message = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"{path}:{lines[-1]}: {type(error).__name__}: {message}") from error


def is_file(name: str) -> bool:
    """Whether the name is meant to be FILE.py:FUNCTION."""
    return ".py:" in name or name.endswith(".py") or "/" in name


def function_in(name: str) -> Callable[..., Any]:
    """The function that FILE.py:FUNCTION names; ``ValueError`` if it cannot be called as it is."""
    path, _, function_name = name.rpartition(":")
    if not path or not path.endswith(".py"):
        raise ValueError(f"{name!r} names no function: write FILE.py:FUNCTION.")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist.")
    module = load_file(Path(path).resolve(), name)
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise ValueError(f"{path} has no function {function_name!r} (it has {own}).")
    needed = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(f"{path}: {function_name} needs {', '.join(needed)}; give defaults.")
    return function


def load_file(path: Path, name: str) -> ModuleType:
    """The module of a user's file; errors in it name its line."""
    spec = importlib.util.spec_from_file_location(f"bilevax_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    sys.path.insert(
        0, str(path.parent)
    )  # as `python FILE.py` would: its neighbours can be imported
    try:
        with blaming(name):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _own_problem(name: str, function: Callable[..., Any], made: Any) -> ZooProblem:
    if isinstance(made, ZooProblem):
        return made
    problem, x0 = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    missing = [part for part in ("upper", "lower", "project") if not hasattr(problem, part)]
    if missing:
        raise ValueError(
            f"{name} returned a {type(problem).__name__}, which has no {' and no '.join(missing)}; "
            "return a problem (bilevax.BilevelProblem, say), or (problem, x0)."
        )
    x0 = getattr(problem, "x0", None) if x0 is None else x0
    if x0 is None:
        raise ValueError(f"{name} returned a problem without a start: return (problem, x0).")
    if isinstance(x0, list):  # written out numbers are one array, not a tree of scalars
        with contextlib.suppress(ValueError, TypeError):
            x0 = np.asarray(x0, float)
    x0 = jax.tree.map(lambda z: jnp.asarray(z, float), x0)
    return ZooProblem(
        name=name,
        summary=first_sentence(function) or f"The problem that {name} returns; f is minimised.",
        problem=problem,
        starts=Around(x0),
        maximize=False,
        solver=PBRL(penalty_weight=Homotopy(1.0, 1e3, 800)),
        steps=1000,
        default_starts=4,
        figure=lambda solution: None,  # pyright: ignore[reportArgumentType]
        known={},
        arrays=lambda solution: {},
        measures=_entries,
    )


def _entries(solution: Solution) -> dict[str, tuple[float, str]]:
    """The entries of an x that is small enough to be read; any is in the folder of the run."""
    leaves = jax.tree.leaves_with_path(solution.x)
    if sum(leaf.size for _, leaf in leaves) > _READABLE:
        return {}
    return {
        f"x{jax.tree_util.keystr(path)}{list(index) if index else ''}": (
            float(leaf[index]),
            "of the answer found",
        )
        for path, leaf in leaves
        for index in np.ndindex(leaf.shape)
    }


def _check_options(name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    taken = inspect.signature(function).parameters
    for option in options:
        if option not in taken:
            others = [n for n, f in ZOO.items() if option in inspect.signature(f).parameters]
            advice = f"it belongs to {', '.join(others)}."
            if is_file(name):
                advice = f"give the function an argument {option}, or leave the option out."
            raise ValueError(f"{flag(option)} does not apply to {name}: {advice}")
    needed = [
        flag(option)
        for option, parameter in taken.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
    ]
    if any(option not in options for option in taken if flag(option) in needed):
        raise ValueError(f"{name} needs {' and '.join(needed)}.")
