"""The plan of a benchmark: numbered jobs, each with an identity of its own."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from .._nearest import nearest
from ..io.files import to_json
from ..tasks.catalogue import is_file
from ..tasks.settings import SOLVERS
from .budget import Budget
from .job import environment_steps
from .learned import description, is_learned, planned_environment_steps
from .suite import Case, Suite, absolute_name, find_suite

NETWORKS = "BILEVAX_ROAD_NETWORKS"
"""The variable that names the folder of road networks."""


@dataclass(frozen=True)
class Arguments:
    """What a benchmark is asked to do; it fits into a JSON file.

    Attributes:
        suite: a name, or FILE.py:SUITE.
        cases, methods: the names of those to run.
        seeds, starts: how many draws, and starts in each.
        budget: of each start.
        networks: the folder of road networks, where a case needs one.
    """

    suite: str
    cases: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: int
    starts: int
    budget: Budget
    networks: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Arguments":
        """Back from plain values."""
        lists = {name: tuple(fields[name]) for name in ("cases", "methods")}
        return cls(**{**fields, **lists, "budget": Budget(**fields["budget"])})


@dataclass(frozen=True)
class Job:
    """One run: a method on a case from one start. All that a process needs to know about it.

    Attributes:
        id: a hash of what the run is and of the code behind it: the version, and what files of
            one's own hold.
        number: its place in the plan.
        group: jobs of one group are likely to share what is compiled.
        steps: the number of steps; ``None`` is the problem's own, until a calibration.
        budget: in words.
        kind, amount: the same as a ``Budget`` has it.
    """

    id: str
    number: int
    suite: str
    case: str
    group: str
    problem: str
    options: dict[str, Any]
    method: str
    seed: int
    start: int
    starts: int
    steps: int | None
    budget: str
    kind: str
    amount: int | float | None


@dataclass(frozen=True)
class Plan:
    """The arguments and the jobs that they stand for.

    ``fingerprint`` is a hash of what the runs are, whatever files of one's own hold: with those
    edited it is the same benchmark, of which some runs have to be repeated.
    """

    arguments: Arguments
    suite: Suite
    jobs: tuple[Job, ...]
    fingerprint: str

    @property
    def calibrations(self) -> tuple[Job, ...]:
        """A job per case and method whose speed decides its steps; none for a budget of steps."""
        if not self.arguments.budget.is_measured:
            return ()
        return tuple({(job.case, job.method): job for job in reversed(self.jobs)}.values())[::-1]


def plan(arguments: Arguments) -> Plan:
    """The jobs of a benchmark; ``ValueError`` where an argument makes no sense."""
    suite = find_suite(arguments.suite)
    for what, names in (("cases", arguments.cases), ("methods", arguments.methods)):
        shown = [short(name) for name in names]
        twice = sorted({name for name in shown if shown.count(name) > 1})
        if twice:
            raise ValueError(
                f"{what} holds {', '.join(twice)} twice: rows are told apart by that name."
            )
        if not names:
            raise ValueError(f"{what} is empty: name at least one.")
    for name in arguments.cases:
        nearest("case", name, suite.case_names)
    cases = [suite.case(name) for name in arguments.cases]
    if not all(is_learned(case.problem) for case in cases):
        for name in arguments.methods:
            if not is_file(name):
                nearest("method", name, SOLVERS)
    options = [_options(case, arguments.networks) for case in cases]
    budget = arguments.budget
    if budget.amount is None:
        budget = replace(budget, amount=suite.steps)
        if suite.environment_steps is not None:
            budget = Budget("environment-steps", suite.environment_steps)
        arguments = replace(arguments, budget=budget)
    jobs, runs = [], []
    for case, given in zip(cases, options, strict=True):
        problem = absolute_name(case.problem, arguments.suite)
        for method in arguments.methods:
            first = Job(
                id="",
                number=len(jobs),
                suite=suite.name,
                case=case.name,
                group=f"{problem} {method}",
                problem=problem,
                options=given,
                method=absolute_name(method, arguments.suite),
                seed=0,
                start=0,
                starts=arguments.starts,
                steps=None,
                budget=str(budget),
                kind=budget.kind,
                amount=budget.amount,
            )
            first = replace(first, steps=_steps(first))
            code = _code(first)
            for seed in range(arguments.seeds):
                for start in range(arguments.starts):
                    job = replace(first, number=len(jobs), seed=seed, start=start)
                    runs.append(_identity(job, case))
                    jobs.append(replace(job, id=_hash([runs[-1], *code])))
    return Plan(arguments, suite, tuple(jobs), _hash(runs))


def short(name: str) -> str:
    """What tables call a method: a file without its folder."""
    return Path(name).name if is_file(name) else name


def _steps(job: Job) -> int | None:
    """The steps of a job; ``None`` where a calibration, or the problem itself, says how many."""
    if is_learned(job.problem):
        return planned_environment_steps(asdict(job))
    if job.amount is None or job.kind == "cpu-seconds":
        return None
    if job.kind == "steps":
        return int(job.amount)
    drawn = environment_steps(asdict(job))
    if drawn is None:
        raise ValueError(
            f"{short(job.method)} samples no episodes on the case {job.case} and takes no "
            "environment steps: leave it out of --methods, or give another budget."
        )
    if job.amount < drawn:
        raise ValueError(
            f"--environment-steps is {job.amount:,}, and one step of {short(job.method)} on the "
            f"case {job.case} takes {drawn:,}: give at least that."
        )
    return int(job.amount // drawn)


def _identity(job: Job, case: Case) -> str:
    # Paths are left out: the same run on another machine is the same run.
    what = [job.suite, job.case, case.problem, dict(case.options), dict(case.files)]
    budget = [job.steps, job.budget]
    return _hash([*what, short(job.method), job.seed, job.start, job.starts, budget, __version__])


def _code(job: Job) -> list[str]:
    """What stands behind the names of a job and may change without them."""
    files = [Path(name.rpartition(":")[0]) for name in (job.problem, job.method) if is_file(name)]
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()]
    return code + ([description(asdict(job))] if is_learned(job.problem) else [])


def _options(case: Case, networks: str | None) -> dict[str, Any]:
    options = dict(case.options)
    folder = networks or os.environ.get(NETWORKS)
    for option, name in case.files.items():
        if folder is None:
            raise ValueError(
                f"the case {case.name} needs {name}: name its folder by --network or {NETWORKS}."
            )
        path = Path(folder).resolve() / name
        if not path.is_file():
            raise ValueError(f"the case {case.name} needs {name}, and {folder} has no such file.")
        options[option] = str(path)
    return options


def _hash(value: Sequence[Any]) -> str:
    return hashlib.sha256(to_json(value).encode()).hexdigest()[:16]
