"""The command solve."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .._run import Run
from ..io import figures
from ..io.files import to_json, write_json, write_text
from ..io.outcome import Outcome, finished, to_fields
from ..io.report import write_report
from ..io.run_folder import (
    CHECKPOINT,
    PICTURE,
    RESULT,
    check_new_folder,
    check_unfinished,
    save_solutions,
)
from ..tasks.catalogue import blaming, flag
from ..tasks.settings import SOLVERS, Settings, Task, prepare, read_settings
from .options import (
    PROBLEM_HELP,
    Anneal,
    GapTol,
    Json,
    LearningRate,
    Out,
    PenaltyFinal,
    PenaltyWeight,
    Polish,
    Quiet,
    Seed,
    Starts,
    Steps,
    Tol,
    Workers,
    with_problem_options,
)
from .running import interrupted, need, refuse_beside_resume, run_task
from .terminal import print_outcome

INFEASIBLE = 1


@with_problem_options
def solve(
    problem: Annotated[str | None, typer.Argument(help=PROBLEM_HELP)] = None,
    solver: Annotated[
        str, typer.Option(help="One of " + ", ".join(SOLVERS) + "; [bold]bilevax list[/bold].")
    ] = "pbrl",
    penalty_weight: PenaltyWeight = None,
    penalty_final: PenaltyFinal = None,
    learning_rate: LearningRate = None,
    anneal: Anneal = None,
    steps: Steps = None,
    starts: Starts = None,
    seed: Seed = 0,
    polish: Polish = False,
    tol: Tol = 0.0,
    gap_tol: GapTol = 1e-3,
    out: Out = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the unfinished run in this folder.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    workers: Workers = None,
    *,
    options: dict[str, Any],
) -> int:
    """Solve a problem from several starts, and certify the answer."""
    asked: dict[str, Any] = dict(
        problem=problem,
        solver=solver,
        penalty_weight=penalty_weight,
        penalty_final=penalty_final,
        learning_rate=learning_rate,
        anneal=anneal,
        polish=polish,
        steps=steps,
        starts=starts,
        seed=seed,
        tol=tol,
        gap_tol=gap_tol,
    )
    if resume is not None:
        refuse_beside_resume(solve, asked | dict(out=out), *map(flag, options))
        check_unfinished(resume)
        return _solve(read_settings(resume), resume, True, json, quiet, workers)
    if problem is None:
        raise ValueError("name a PROBLEM (bilevax list shows them), or give --resume DIR.")
    settings = Settings(options=options, **asked)
    return _solve(settings, out, False, json, quiet, workers)


def _solve(
    settings: Settings, out: Path | None, resume: bool, json: bool, quiet: bool, workers: int | None
) -> int:
    if out is not None:
        if not resume:
            check_new_folder(out)
        need("matplotlib")
    with blaming(settings.problem):
        try:
            task = prepare(settings)
            result = run_task(task, out, resume, quiet, workers)
            outcome = finished(result, task.about(out), task.zoo.measures(result.best))
            if out is not None:
                _save(out, task, result, outcome)
        except KeyboardInterrupt:
            return interrupted("solve", out)
    if json:
        print(to_json(outcome.line()))
    else:
        print_outcome(outcome)
    return 0 if outcome.feasible else INFEASIBLE


def _save(out: Path, task: Task, result: Run, outcome: Outcome) -> None:
    save_solutions(out, result.best, result.solutions, **task.zoo.arrays(result.best))
    picture = task.zoo.figure(result.best)
    if picture is not None:
        write_text(out / PICTURE, figures.to_svg(picture, recolour=False))
    write_json(out / RESULT, to_fields(outcome))
    write_report(out)
    (out / CHECKPOINT).unlink()
