"""The options that commands share, and how the text of an option becomes a value."""

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

_PROBLEM = "Problem (each applies to the problems named)"
_SOLVER = "Solver"
_RUN = "Run and output"

PROBLEM_HELP = (
    "A name from [bold]bilevax list[/bold], or FILE.py:FUNCTION. Of the options, those under "
    "Problem reach the function's own arguments of these names (--tau its tau, --problem-seed its "
    "seed, whatever problems are named there); its other arguments keep their defaults."
)


def _matrix(text: str) -> list[list[float]]:
    try:
        rows = json.loads(text)
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not rows or not all(isinstance(r, list) and r for r in rows):
        raise typer.BadParameter(
            f"{text!r} is no matrix: write rows in brackets, as [[1,3],[0,2]]."
        )
    lengths = [len(row) for row in rows]
    if len(set(lengths)) != 1:
        raise typer.BadParameter(f"the rows have {lengths} entries; give all rows the same number.")
    for entry in (entry for row in rows for entry in row):
        if isinstance(entry, bool) or not isinstance(entry, int | float):
            raise typer.BadParameter(f"the entry {entry!r} is not a number.")
    return [[float(entry) for entry in row] for row in rows]


def _cells(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no list of states: write numbers with commas between them, as 4,8."
        ) from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers: write them with commas between, as 2,3,0,4."
        ) from None


def _file(text: str) -> str:
    # The whole path, so that a run can be resumed from any folder.
    return str(Path(text).resolve())


def _number(help: str, *flags: str, panel: str = _PROBLEM, **limits: Any):
    return typer.Option(*flags, help=help, rich_help_panel=panel, **limits)


PenaltyWeight = Annotated[
    float | None,
    _number(
        "Constant weight of the penalty; with --penalty-final, the first one. Default: the "
        "problem's.",
        panel=_SOLVER,
    ),
]
PenaltyFinal = Annotated[
    float | None, _number("Raise the weight to this, geometrically.", panel=_SOLVER)
]
LearningRate = Annotated[
    float | None, _number("Adam's step size. Default: the problem's.", panel=_SOLVER)
]
Anneal = Annotated[
    float | None,
    _number(
        "Start with the follower's tau this many times larger, and cool it along the run; 1 does "
        "not anneal. Default: the problem's for pbrl, else 1.",
        panel=_SOLVER,
        min=1,
    ),
]
Polish = Annotated[
    bool,
    _number(
        "Afterwards move every start's x to the optimum next to it.",
        "--polish/--no-polish",
        panel=_SOLVER,
    ),
]
Steps = Annotated[
    int | None, _number("Steps per start. Default: the problem's.", panel=_SOLVER, min=1)
]
Tol = Annotated[
    float, _number("Stop a start where its gradient's norm falls to this.", panel=_SOLVER, min=0)
]
GapTol = Annotated[
    float, _number("The largest certified gap that counts as solved.", panel=_SOLVER, min=0)
]
Starts = Annotated[
    int | None, _number("Random starts. Default: the problem's.", panel=_SOLVER, min=1)
]
Seed = Annotated[int, _number("Seed of the starts.", panel=_SOLVER, min=0)]

Out = Annotated[
    Path | None,
    _number("New folder for the solution, the history and report.html.", panel=_RUN),
]
Json = Annotated[bool, _number("Print one JSON object on stdout.", "--json", panel=_RUN)]
Quiet = Annotated[bool, _number("No progress on stderr.", "--quiet", "-q", panel=_RUN)]
Workers = Annotated[int | None, _number("Threads. Default: one per CPU.", panel=_RUN, min=1)]

Tau = Annotated[float | None, _number("Weight of the follower's entropy: all problems but tolls.")]
Discount = Annotated[
    float | None, _number("Discount in [0, 1]: all problems but bimatrix, matrix-game, tolls, tax.")
]
Beta = Annotated[float | None, _number("Cost of the charges: four-rooms.")]
Bonus = Annotated[float | None, _number("Follower's reward from A to B: discrete-toy.")]
Leader = Annotated[
    Any,
    _number("Leader's payoffs, as '[[1,3],[0,2]]': bimatrix.", parser=_matrix, metavar="MATRIX"),
]
Follower = Annotated[
    Any, _number("Follower's payoffs: bimatrix.", parser=_matrix, metavar="MATRIX")
]
Game = Annotated[int | None, _number("A published game, 1, 3 or 4: bimatrix.")]
Payoff = Annotated[
    Any,
    _number(
        "What player 2 pays player 1, as '[[1,3],[0,2]]': matrix-game.",
        parser=_matrix,
        metavar="MATRIX",
    ),
]
MaxChange = Annotated[float | None, _number("Largest change of a payoff: matrix-game.", min=0)]
Cost = Annotated[
    float | None,
    _number(
        "Cost of what the designer does: matrix-game, incentive-game, sentinel-intruder.", min=0
    ),
]
States = Annotated[
    int | None, _number("States: stackelberg, random-reward, incentive-game.", min=1)
]
Size = Annotated[int | None, _number("Rows and columns of the grid: sentinel-intruder.", min=3)]
Slip = Annotated[float | None, _number("How often a move fails: sentinel-intruder.", min=0)]
Actions = Annotated[
    int | None, _number("Actions, of each player: random-reward, incentive-game.", min=1)
]
LeaderActions = Annotated[int | None, _number("Leader's actions: stackelberg.", min=1)]
FollowerActions = Annotated[int | None, _number("Follower's actions: stackelberg.", min=1)]
ProblemSeed = Annotated[
    int | None,
    _number("Which random problem: stackelberg, random-reward, incentive-game.", min=0),
]
Environment = Annotated[str | None, _number("Gymnasium environment: reward-design.")]
Avoid = Annotated[
    Any, _number("States to keep off, as 4,8: reward-design.", parser=_cells, metavar="CELLS")
]
Budget = Annotated[float | None, _number("Largest sum of |x|: reward-design.")]
Network = Annotated[Any, _number("Links, a TNTP file: tolls.", parser=_file, metavar="NET.tntp")]
Trips = Annotated[Any, _number("Demand, a TNTP file: tolls.", parser=_file, metavar="TRIPS.tntp")]
Nodes = Annotated[
    Any,
    _number("Coordinates for the picture, a TNTP file: tolls.", parser=_file, metavar="NODE.tntp"),
]
MaxToll = Annotated[float | None, _number("Largest toll in minutes: tolls.")]
Theta = Annotated[
    float | None,
    _number("Weight of the travellers' entropy in minutes, how varied their routes are: tolls."),
]
RevenueWeight = Annotated[
    float | None, _number("Minutes of travel time that a minute of toll is worth: tolls.")
]
Assets = Annotated[
    int | None, _number("Grid points of a consumer's assets, an odd number: tax.", min=3)
]
Levels = Annotated[
    int | None, _number("Values of spending on a good, and half as many as of hours: tax.", min=2)
]
Rewards = Annotated[
    Any,
    _number(
        "True reward of each cell of the corridor, as 2,3,0,4: preferences.",
        parser=_numbers,
        metavar="NUMBERS",
    ),
]
SegmentLength = Annotated[
    int | None, _number("Steps of the segments that are compared: preferences.", min=1)
]

_PROBLEM_OPTIONS = dict(
    tau=Tau,
    discount=Discount,
    beta=Beta,
    bonus=Bonus,
    leader=Leader,
    follower=Follower,
    game=Game,
    payoff=Payoff,
    max_change=MaxChange,
    cost=Cost,
    size=Size,
    slip=Slip,
    states=States,
    actions=Actions,
    leader_actions=LeaderActions,
    follower_actions=FollowerActions,
    problem_seed=ProblemSeed,
    env=Environment,
    avoid=Avoid,
    budget=Budget,
    network=Network,
    trips=Trips,
    nodes=Nodes,
    max_toll=MaxToll,
    theta=Theta,
    revenue_weight=RevenueWeight,
    assets=Assets,
    levels=Levels,
    rewards=Rewards,
    segment_length=SegmentLength,
)


def with_problem_options(command: Callable[..., int]) -> Callable[..., int]:
    """The command with the options of all problems after its own.

    It gets those that were given as ``options``, by the names of the constructors' arguments. typer
    reads options off a signature, so they are written into that of the command returned.
    """

    @functools.wraps(command)
    def wrapped(**arguments):
        given = {name: arguments.pop(name) for name in _PROBLEM_OPTIONS}
        given = {name: value for name, value in given.items() if value is not None}
        if "problem_seed" in given:
            given["seed"] = given.pop("problem_seed")
        return command(**arguments, options=given)

    signature = inspect.signature(command)
    own = [one for one in signature.parameters.values() if one.name != "options"]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _PROBLEM_OPTIONS.items()
    ]
    wrapped.__signature__ = signature.replace(parameters=own + more)  # pyright: ignore
    return wrapped
