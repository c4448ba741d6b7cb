"""What a run is made from: settings that fit into a JSON file, and what they stand for."""

import platform
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._check import check_problem
from .._exact import induced
from .._mdp import MDP
from .._oracle import PolicyMirrorDescent
from .._penalty import BellmanPenalty, NikaidoIsoda, is_mdp
from .._regularizer import Unregularized
from .._solver import (
    PANDA,
    AbstractSolver,
    ConstantWeight,
    Homotopy,
    ImplicitGradient,
    IndependentGradient,
    MetaGradient,
    SoftmaxLogits,
)
from .._types import Key, PyTree
from ..io.files import read_json
from ..io.outcome import About
from ..io.run_folder import CONFIG
from ..problems import ZooProblem
from .catalogue import absolute, build, nearest

_PANDA_STEP = 0.1  # PANDA's own default, of policies and learners alike

SOLVERS = {
    "pbrl": "penalty-based descent in both levels, value penalty (the default)",
    "pbrl-bellman": "the same with the Bellman penalty; needs tau > 0",
    "implicit": "exact gradient through the best response; needs tau > 0",
    "panda": "penalty-based, with policies that learn in place of best responses; needs tau > 0",
    "meta-gradient": "gradient through a few steps of the lower level's learning",
    "independent": "each level follows its own gradient: the baseline without bilevel structure",
}


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
        packages = ("bilevax", "jax", "jaxlib", "equinox", "optax", "numpy")
        return dict(
            command=["bilevax", *sys.argv[1:]],
            settings=asdict(self.settings) | dict(problem=absolute(self.settings.problem)),
            about=asdict(self.about(out)),
            versions={"python": platform.python_version()}
            | {name: metadata.version(name) for name in packages},
            machine=f"{platform.platform()}, {jax.devices()[0].device_kind}",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def prepare(settings: Settings) -> Task:
    """The problem, the solver and the starts; ``ValueError`` where a setting makes no sense."""
    nearest("solver", settings.solver, SOLVERS)
    zoo = build(settings.problem, settings.options)
    count = settings.starts or zoo.default_starts
    settings = replace(settings, steps=settings.steps or zoo.steps, starts=count)
    starts_key, key = jax.random.split(jax.random.key(settings.seed))
    starts = zoo.starts(starts_key, count)
    first = jax.tree.map(lambda z: z[0], starts)
    return Task(settings, zoo, _solver(settings, zoo, first), starts, key)


def read_settings(folder: Path) -> Settings:
    """The settings of the run in a folder."""
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"{folder} holds no run: it has no {CONFIG}.")
    try:
        return Settings(**read_json(path)["settings"])
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
    unregularized = _is_unregularized(zoo, x0)
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
    optimizer = optax.adam(settings.learning_rate or 0.05)
    if settings.solver == "panda":
        return _annealed(settings, zoo, _panda(settings, zoo, x0, optimizer), 1.0)
    if not settings.solver.startswith("pbrl"):
        return _annealed(settings, zoo, _without_penalty(settings, optimizer), 1.0)
    bellman = settings.solver == "pbrl-bellman"
    weight = _penalty_weight(settings, zoo, _horizon(zoo, x0) if bellman else 1.0)
    penalty = BellmanPenalty() if bellman else zoo.solver.penalty
    update = zoo.update(settings.steps or zoo.steps)
    if settings.learning_rate is not None:
        update = replace(update, optimizer=optimizer)
    if unregularized:
        update = SoftmaxLogits(optimizer)  # without curvature there is no step to alternate with
    solver = replace(zoo.solver, penalty=penalty, penalty_weight=weight, update=update)
    return _annealed(settings, zoo, solver, 1.0 if unregularized else zoo.hot)


def _panda(settings, zoo, x0, optimizer) -> PANDA:
    tau = min(float(jnp.min(mdp.tau)) for mdp in _mdps(zoo, x0))
    if tau == 0:
        raise ValueError("the solver panda: tau is 0; give a positive --tau, or take pbrl.")
    penalty = zoo.solver.penalty
    return PANDA(
        penalty if isinstance(penalty, NikaidoIsoda) else NikaidoIsoda(),
        _penalty_weight(settings, zoo, 1.0),
        optimizer,
        policy_step=_PANDA_STEP,
        oracle=PolicyMirrorDescent(step_size=_PANDA_STEP / tau),
    )


def _without_penalty(settings, optimizer) -> AbstractSolver:
    if settings.penalty_weight is not None or settings.penalty_final is not None:
        raise ValueError(
            f"the solver {settings.solver} has no penalty: --penalty-weight and --penalty-final "
            "belong to pbrl, pbrl-bellman and panda."
        )
    if settings.solver == "implicit":
        return ImplicitGradient(optimizer)
    if settings.solver == "meta-gradient":
        return MetaGradient(optimizer)
    return IndependentGradient(SoftmaxLogits(optimizer))


def _annealed(settings: Settings, zoo: ZooProblem, solver: AbstractSolver, own: float):
    """The solver, cooled from the factor asked for, or else from its own."""
    hot = own if settings.anneal is None else settings.anneal
    return replace(zoo, hot=hot).annealed(solver, settings.steps or zoo.steps)


def _penalty_weight(settings: Settings, zoo: ZooProblem, factor: float):
    """The weight asked for; else the problem's own, along this run's steps and for this penalty."""
    own = zoo.solver.penalty_weight
    initial, final = settings.penalty_weight, settings.penalty_final
    steps = settings.steps or zoo.steps
    if final is None and initial is not None:
        return ConstantWeight(initial)
    if not isinstance(own, Homotopy):
        own = Homotopy(1.0, 1e3, zoo.steps)
    rising = max(1, round(own.steps * steps / zoo.steps)) if final is None else steps
    return Homotopy(
        own.initial * factor if initial is None else initial,
        own.final * factor if final is None else final,
        rising,
    )


def _horizon(zoo: ZooProblem, x0: PyTree) -> float:
    """1/(1-discount), by which the Bellman penalty is smaller than the value penalty."""
    discount = max(float(jnp.max(mdp.discount)) for mdp in _mdps(zoo, x0))
    return 1 / (1 - discount) if discount < 1 else 100.0


def _is_unregularized(zoo: ZooProblem, x0: PyTree) -> bool:
    return any(isinstance(mdp.regularizer, Unregularized) for mdp in _mdps(zoo, x0))


def _mdps(zoo: ZooProblem, x0: PyTree) -> list[MDP]:
    return jax.tree.leaves(induced(zoo.problem, x0), is_leaf=is_mdp)
