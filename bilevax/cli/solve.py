"""The command solve."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .._driver import Run
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
from ..tasks.catalogue import blaming
from ..tasks.settings import SOLVERS, Settings, Task, prepare, read_settings
from .options import (
    Actions,
    Anneal,
    Assets,
    Avoid,
    Beta,
    Bonus,
    Budget,
    Cost,
    Discount,
    Environment,
    Follower,
    FollowerActions,
    Game,
    GapTol,
    Json,
    Leader,
    LeaderActions,
    LearningRate,
    Levels,
    MaxChange,
    MaxToll,
    Network,
    Nodes,
    Out,
    Payoff,
    PenaltyFinal,
    PenaltyWeight,
    Polish,
    ProblemSeed,
    Quiet,
    RevenueWeight,
    Rewards,
    Seed,
    SegmentLength,
    Size,
    Slip,
    Starts,
    States,
    Steps,
    Tau,
    Theta,
    Tol,
    Trips,
    Workers,
    problem_options,
)
from .running import need_matplotlib, run_task
from .terminal import print_outcome

INFEASIBLE, INTERRUPTED = 1, 130


def solve(
    problem: Annotated[
        str | None,
        typer.Argument(help="A name from [bold]bilevax list[/bold], or FILE.py:FUNCTION."),
    ] = None,
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
    tau: Tau = None,
    discount: Discount = None,
    beta: Beta = None,
    bonus: Bonus = None,
    leader: Leader = None,
    follower: Follower = None,
    game: Game = None,
    payoff: Payoff = None,
    max_change: MaxChange = None,
    cost: Cost = None,
    size: Size = None,
    slip: Slip = None,
    states: States = None,
    actions: Actions = None,
    leader_actions: LeaderActions = None,
    follower_actions: FollowerActions = None,
    problem_seed: ProblemSeed = None,
    env: Environment = None,
    avoid: Avoid = None,
    budget: Budget = None,
    network: Network = None,
    trips: Trips = None,
    nodes: Nodes = None,
    max_toll: MaxToll = None,
    theta: Theta = None,
    revenue_weight: RevenueWeight = None,
    assets: Assets = None,
    levels: Levels = None,
    rewards: Rewards = None,
    segment_length: SegmentLength = None,
) -> int:
    """Solve a problem from several starts, and certify the answer."""
    options = problem_options(locals())
    if resume is not None:
        if problem is not None or out is not None or options:
            raise ValueError(
                "--resume takes everything from the folder: leave out PROBLEM, --out and the "
                "problem's options."
            )
        check_unfinished(resume)
        return _solve(read_settings(resume), resume, True, json, quiet, workers)
    if problem is None:
        raise ValueError("name a PROBLEM (bilevax list shows them), or give --resume DIR.")
    settings = Settings(
        problem=problem,
        options=options,
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
    return _solve(settings, out, False, json, quiet, workers)


def _solve(
    settings: Settings, out: Path | None, resume: bool, json: bool, quiet: bool, workers: int | None
) -> int:
    if out is not None:
        if not resume:
            check_new_folder(out)
        need_matplotlib()
    with blaming(settings.problem):
        try:
            task = prepare(settings)
            result = run_task(task, out, resume, quiet, workers)
            outcome = finished(result, task.about(out), task.zoo.measures(result.best))
            if out is not None:
                _save(out, task, result, outcome)
        except KeyboardInterrupt:
            return _interrupted(out)
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


def _interrupted(out: Path | None) -> int:
    message = "interrupted"
    if out is not None and out.is_dir():
        message += f"; continue with: bilevax solve --resume {shlex.quote(str(out))}"
    elif out is None:
        message += " (with --out DIR a run can be continued)"
    print(f"bilevax: {message}", file=sys.stderr)
    return INTERRUPTED
