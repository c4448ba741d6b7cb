"""What is compared: a suite is problems, methods and budgets, declared as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._nearest import nearest
from ..io.files import read_json
from ..tasks.catalogue import absolute, is_file, load_file
from .learned import is_learned


@dataclass(frozen=True)
class Case:
    """One problem of a suite.

    Attributes:
        name: how the tables call it; unique within the suite.
        problem: a name of ``bilevax list``, FILE.py:FUNCTION, or rlhf:ENV for an environment that
            is learned from preferences.
        options: of the problem, by name; of rlhf:ENV labels, teacher, rounds, segment and envs.
        files: further options whose values are files in the folder of road networks.
        published: natural upper values that others report for it, by column.
    """

    name: str
    problem: str
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The natural upper value to reach in a case, and where it comes from.

    Attributes:
        value, source: the value, and in words how it was found.
        command, versions: what computed it, where that is stored.
    """

    value: float
    source: str
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Problems and methods that are compared.

    Attributes:
        name: a word.
        summary: one sentence: what is compared, and where it comes from.
        cases: the problems.
        methods: names of ``bilevax list``, or FILE.py:FUNCTION, a function of (problem, steps) that
            gives a solver.
        steps: the default budget of a start; ``None`` is each problem's own.
        environment_steps: the default budget in environment steps, instead of ``steps``.
        seeds: how many draws of starts, by default; from six on, a median has its interval.
        starts: how many starts each draw has, of which the best counts.
        note: what the published columns know and ours do not, or the reverse.
        references: the values to reach, by case.
    """

    name: str
    summary: str
    cases: tuple[Case, ...]
    methods: tuple[str, ...] = ("pbrl", "implicit", "independent")
    steps: int | None = None
    seeds: int = 6
    starts: int = 2
    note: str = ""
    references: Mapping[str, Reference] = field(default_factory=dict)
    environment_steps: int | None = None

    def __post_init__(self):
        for what, names in (("cases", self.case_names), ("methods", self.methods)):
            if not names:
                raise ValueError(f"Suite {self.name}: {what} is empty; give at least one.")
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(
                    f"Suite {self.name}: {what} holds {', '.join(twice)} twice; names are unique."
                )
        for what, value in (("seeds", self.seeds), ("starts", self.starts)):
            if value < 1:
                raise ValueError(f"Suite {self.name}: {what} is {value}; give at least 1.")
        if self.steps is not None and self.environment_steps is not None:
            raise ValueError(
                f"Suite {self.name}: steps and environment_steps are two budgets; give one of them."
            )
        unknown = sorted(set(self.references) - set(self.case_names))
        if unknown:
            raise ValueError(
                f"Suite {self.name}: references names {', '.join(unknown)}, which is no case of it."
            )

    @property
    def case_names(self) -> list[str]:
        """The names of the cases, in their order."""
        return [case.name for case in self.cases]

    def case(self, name: str) -> Case:
        """The case of that name."""
        return next(case for case in self.cases if case.name == name)


def stored_references(path: Path) -> dict[str, Reference]:
    """The values to reach by case; none without the file."""
    if not path.exists():
        return {}
    return {name: Reference(**entry) for name, entry in read_json(path)["cases"].items()}


def find_suite(name: str) -> Suite:
    """The suite of that name, or the one that FILE.py:SUITE names."""
    from .suites import SUITES

    if not is_file(name):
        return SUITES[nearest("suite", name, SUITES)]
    path, _, variable = name.rpartition(":")
    if not path.endswith(".py") or not variable:
        raise ValueError(f"{name!r} names no suite: write FILE.py:SUITE.")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist.")
    module = load_file(Path(path).resolve(), name)
    suite = getattr(module, variable, None)
    if not isinstance(suite, Suite):
        own = [key for key, value in vars(module).items() if isinstance(value, Suite)]
        raise ValueError(f"{path} has no suite {variable!r} (it has {own}).")
    if suite.references:
        return suite
    references = stored_references(beside(name))
    kept = {case: one for case, one in references.items() if case in suite.case_names}
    return replace(suite, references=kept)


def beside(name: str) -> Path:
    """Where the values to reach of a user's FILE.py:SUITE are stored: FILE.reference.json."""
    return Path(name.rpartition(":")[0]).with_suffix(".reference.json")


def absolute_name(name: str, beside: str) -> str:
    """A name with the whole path of a file; a bare FILE.py lies beside the suite's own file."""
    if is_learned(name):
        return name
    if is_file(name) and is_file(beside) and not Path(name.rpartition(":")[0]).exists():
        name = str(Path(beside.rpartition(":")[0]).resolve().parent / name)
    return absolute(name)
