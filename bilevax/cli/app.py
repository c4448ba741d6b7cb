"""The commands: list, solve, compare and report."""

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.table import Table

from .. import __version__
from .._driver import Run, default_workers, run
from ..io import figures
from ..io.comparison import comparison_html
from ..io.files import to_json, write_json, write_text
from ..io.outcome import Outcome, finished, to_fields
from ..io.report import write_report
from ..io.run_folder import (
    CHECKPOINT,
    PICTURE,
    REPORT,
    RESULT,
    check_new_folder,
    check_unfinished,
    save_solutions,
)
from ..tasks.catalogue import ZOO, blaming, first_sentence
from ..tasks.settings import SOLVERS, Settings, Task, prepare, read_settings
from .bench import bench, is_bench, list_bench, write_bench_page
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
from .polishing import polished
from .rlhf import is_rlhf, list_rlhf, rlhf, watch, write_rlhf_page
from .terminal import ProgressDisplay, comparison_row, print_comparison, print_outcome

INFEASIBLE, INTERRUPTED = 1, 130

app = typer.Typer(
    help="Bilevel reinforcement learning: solve, compare and look at problems.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        print(f"bilevax {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Bilevel reinforcement learning: solve, compare and look at problems."""
    # Tabular work wants float64. The library leaves that choice to its user; here it is taken.
    jax.config.update("jax_enable_x64", True)


@app.command("list")
def list_() -> None:
    """List the problems and the solvers, and what can be learned from preferences."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("[underline]Problems")
    for name, constructor in ZOO.items():
        table.add_row(name, first_sentence(constructor))
    table.add_row("FILE.py:FUNCTION", "A problem of your own: what the function returns.")
    table.add_row("")
    table.add_row("[underline]Solvers")
    for name, words in SOLVERS.items():
        table.add_row(name, words[0].upper() + words[1:] + ".")
    list_rlhf(table)
    list_bench(table)
    Console().print(table, highlight=False)
    print("\n  Try: bilevax solve discrete-toy --out runs/toy")
    print("       bilevax rlhf moving-dot --out runs/dot")
    print("       bilevax bench discrete-toy --out runs/bench")


@app.command()
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


@app.command()
def compare(
    problem: Annotated[
        str, typer.Argument(help="A name from [bold]bilevax list[/bold], or FILE.py:FUNCTION.")
    ],
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
    """Compare solvers on a problem, each from the same starts."""
    options = problem_options(locals())
    if out is not None:
        check_new_folder(out)
        _need_matplotlib()
    names = [name.strip() for name in solvers.split(",")]
    with blaming(problem):
        tasks = [
            prepare(
                Settings(
                    problem=problem,
                    options=options,
                    solver=name,
                    penalty_weight=penalty_weight if name.startswith("pbrl") else None,
                    penalty_final=penalty_final if name.startswith("pbrl") else None,
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
            for name in names
        ]
    outcomes, failures = [], {}
    for task in tasks:
        try:
            result = _run(task, None, False, quiet, workers)
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
        write_json(out / "comparison.json", record | {"config": tasks[0].config(out)})
        write_text(out / REPORT, comparison_html(outcomes, failures))
        record["out"] = str(out)
    if json:
        print(to_json(record))
    else:
        print_comparison(outcomes, failures)
    return 0


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="The folder of a run.")],
) -> int:
    """Write report.html again from the folder of a run, finished or not."""
    if is_bench(directory):
        return write_bench_page(directory)
    _need_matplotlib()
    print(write_rlhf_page(directory) if is_rlhf(directory) else write_report(directory))
    return 0


app.command()(rlhf)
app.command()(watch)
app.command()(bench)


def _solve(
    settings: Settings, out: Path | None, resume: bool, json: bool, quiet: bool, workers: int | None
) -> int:
    if out is not None:
        if not resume:
            check_new_folder(out)
        _need_matplotlib()
    with blaming(settings.problem):
        try:
            task = prepare(settings)
            result = _run(task, out, resume, quiet, workers)
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


def _run(task: Task, out: Path | None, resume: bool, quiet: bool, workers: int | None) -> Run:
    settings, zoo = task.settings, task.zoo
    with ProgressDisplay(settings.solver, maximize=zoo.maximize, quiet=quiet) as display:
        result = run(
            zoo.problem,
            task.solver,
            task.starts,
            max_steps=settings.steps or zoo.steps,
            tol=settings.tol,
            gap_tol=settings.gap_tol,
            key=task.key,
            directory=out,
            resume=resume,
            config=None if out is None else task.config(out),
            keep_checkpoint=True,
            workers=workers,
            on_progress=display,
        )
        if not settings.polish:
            return result
        display.polishing()
        return polished(
            result,
            zoo.problem,
            tol=settings.tol or 1e-8,
            gap_tol=settings.gap_tol,
            workers=workers or default_workers(),
        )


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


def _need_matplotlib() -> None:
    # Said before the work rather than after it.
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("matplotlib is needed", name="matplotlib")
