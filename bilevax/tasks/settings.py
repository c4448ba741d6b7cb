"""What a run is made from: settings that fit into a JSON file, and what they stand for."""

import platform
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from .._check import check_problem
from .._nearest import nearest
from .._solver import AbstractSolver
from .._types import Key, PyTree
from ..io.files import read_json
from ..io.outcome import About, read_gap_tol
from ..io.provenance import provenance
from ..io.run_folder import CONFIG
from ..methods import METHODS, Method, Request, build_solver
from ..methods._method import is_unregularized
from ..problems import ZooProblem
from .catalogue import absolute, build, is_file

SOLVERS = {name: method.summary for name, method in METHODS.items()}
"""What each solver is, in a sentence without its full stop."""


@dataclass(frozen=True)
class Settings:
    """The arguments of ``bilevax solve``; ``None`` stands for the problem's own default.

    Attributes:
        problem: a name, or FILE.py:FUNCTION.
        options: of the problem, by name.
        solver: a key of ``SOLVERS``.
        penalty_weight, penalty_final, learning_rate, anneal, steps: of the solver.
        polish: whether every start's solution is polished afterwards.
        starts, seed: how many starts, and the seed of their draw.
        tol, gap_tol: as for ``solve``.
    """

    problem: str
    options: dict[str, Any]
    solver: str
    penalty_weight: float | None
    penalty_final: float | None
    learning_rate: float | None
    anneal: float | None
    polish: bool
    steps: int | None
    starts: int | None
    seed: int
    tol: float
    gap_tol: float


@dataclass(frozen=True)
class Task:
    """Settings made into objects."""

    settings: Settings
    zoo: ZooProblem
    solver: AbstractSolver
    starts: PyTree
    key: Key

    def about(self, out: Path | None) -> About:
        """What is run, for the outcome."""
        return About(
            problem=self.settings.problem,
            solver=self.settings.solver,
            description=self.zoo.summary,
            maximize=self.zoo.maximize,
            known={name: float(value) for name, value in self.zoo.known.items()},
            gap_tol=self.settings.gap_tol,
            starts=self.settings.starts or 0,
            seed=self.settings.seed,
            out=None if out is None else str(out),
            polished=self.settings.polish,
        )

    def config(self, out: Path) -> dict[str, Any]:
        """Everything to repeat the run, for ``config.json``."""
        return provenance() | dict(
            settings=asdict(self.settings) | dict(problem=absolute(self.settings.problem)),
            about=asdict(self.about(out)),
            machine=f"{platform.platform()}, {jax.devices()[0].device_kind}",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def prepare(settings: Settings) -> Task:
    """The problem, the solver and the starts; ``ValueError`` where a setting makes no sense."""
    find_method(settings.solver)
    zoo = build(settings.problem, settings.options)
    count = settings.starts or zoo.default_starts
    settings = replace(settings, steps=settings.steps or zoo.steps, starts=count)
    starts_key, key = jax.random.split(jax.random.key(settings.seed))
    starts = zoo.starts(starts_key, count)
    first = jax.tree.map(lambda z: z[0], starts)
    return Task(settings, zoo, _solver(settings, zoo, first), starts, key)


def find_method(solver: str) -> Method:
    """The method of that name; ``ValueError`` where there is none that is solved with by name."""
    if is_file(solver):
        raise ValueError(
            f"the solver {solver!r} is in a file, and such methods belong to bilevax bench: name "
            f"one of {', '.join(SOLVERS)}, or give it to bilevax bench --methods."
        )
    return METHODS[nearest("solver", solver, SOLVERS)]


def read_settings(folder: Path) -> Settings:
    """The settings of the run in a folder."""
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"{folder} holds no run: it has no {CONFIG}.")
    try:
        fields = read_json(path)["settings"]
        return Settings(**(fields | dict(gap_tol=read_gap_tol(fields["gap_tol"]))))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} was not written by bilevax solve.") from error


def _solver(settings: Settings, zoo: ZooProblem, x0: PyTree) -> AbstractSolver:
    for name in ("penalty_weight", "penalty_final", "learning_rate"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; give a positive number.")
    if settings.anneal is not None and not settings.anneal >= 1:
        raise ValueError(f"--anneal is {settings.anneal}; give 1 (no annealing) or more.")
    check_problem(zoo.problem, x0)
    request = Request(
        zoo=zoo,
        x0=x0,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        penalty_weight=settings.penalty_weight,
        penalty_final=settings.penalty_final,
        anneal=settings.anneal,
    )
    unregularized = is_unregularized(request)
    if settings.polish and settings.solver == "independent":
        raise ValueError(
            "--polish ends at an optimum of F, which the solver independent does not look for: "
            "leave it out, or take another solver."
        )
    if settings.polish and unregularized:
        raise ValueError(
            "--polish: tau is 0, where the best response has no derivative; give a positive --tau."
        )
    if unregularized and settings.anneal not in (None, 1):
        raise ValueError("--anneal: tau is 0, which no factor makes larger; give a positive --tau.")
    return build_solver(settings.solver, request)
