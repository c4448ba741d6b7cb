"""The command compare."""

from typing import Annotated, Any

import typer

from ..io.comparison import comparison_html
from ..io.files import to_json, write_json, write_text
from ..io.outcome import finished
from ..io.run_folder import COMPARISON, REPORT, check_new_folder
from ..tasks.catalogue import blaming
from ..tasks.settings import Settings, find_method, prepare
from .options import (
    PROBLEM_HELP,
    Anneal,
    GapTol,
    Json,
    LearningRate,
    Out,
    PenaltyFinal,
    PenaltyWeight,
    Quiet,
    Seed,
    Starts,
    Steps,
    Tol,
    Workers,
    with_problem_options,
)
from .running import need, run_task
from .terminal import comparison_row, print_comparison


@with_problem_options
def compare(
    problem: Annotated[str, typer.Argument(help=PROBLEM_HELP)],
    solvers: Annotated[
        str, typer.Option(help="Which, with commas between them.")
    ] = "pbrl,implicit,independent",
    penalty_weight: PenaltyWeight = None,
    penalty_final: PenaltyFinal = None,
    learning_rate: LearningRate = None,
    anneal: Anneal = None,
    steps: Steps = None,
    starts: Starts = None,
    seed: Seed = 0,
    tol: Tol = 0.0,
    gap_tol: GapTol = 1e-3,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
    workers: Workers = None,
    *,
    options: dict[str, Any],
) -> int:
    """Compare solvers on a problem, each from the same starts."""
    if out is not None:
        check_new_folder(out)
        need("matplotlib")
    methods = [find_method(name.strip()) for name in solvers.split(",")]
    # What no solver takes is given to all: they say so.
    takes = lambda method: method.penalised or not any(one.penalised for one in methods)
    with blaming(problem):
        tasks = [
            prepare(
                Settings(
                    problem=problem,
                    options=options,
                    solver=method.name,
                    penalty_weight=penalty_weight if takes(method) else None,
                    penalty_final=penalty_final if takes(method) else None,
                    learning_rate=learning_rate,
                    anneal=anneal,
                    polish=False,
                    steps=steps,
                    starts=starts,
                    seed=seed,
                    tol=tol,
                    gap_tol=gap_tol,
                )
            )
            for method in methods
        ]
    outcomes, failures = [], {}
    for task in tasks:
        try:
            result = run_task(task, None, False, quiet, workers)
        except ValueError as error:
            # One solver may not apply (tau 0, say); the others still compare.
            failures[task.settings.solver] = str(error)
        else:
            outcomes.append(finished(result, task.about(out)))
    if not outcomes:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in failures.items()))
    record = dict(
        problem=problem,
        options=options,
        maximize=outcomes[0].about.maximize,
        known=outcomes[0].about.known,
        seed=seed,
        solvers=[comparison_row(outcome) for outcome in outcomes],
        failures=failures,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        settings = [task.config(out)["settings"] for task in tasks]
        config = tasks[0].config(out) | dict(settings=settings)
        write_json(out / COMPARISON, record | dict(config=config))
        write_text(out / REPORT, comparison_html(outcomes, failures))
        record["out"] = str(out)
    if json:
        print(to_json(record))
    else:
        print_comparison(outcomes, failures)
    return 0
