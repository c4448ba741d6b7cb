"""The report of a run: one HTML page that needs nothing else, for readers new to the method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import figures
from .files import read_json, write_text
from .outcome import Outcome, read_about, read_outcome, unfinished
from .page import UNKNOWN, counted, duration, number, page, repeated, table, text
from .run_folder import (
    CHECKPOINT,
    COMPARISON,
    CONFIG,
    HISTORY,
    PICTURE,
    REPORT,
    RESULT,
    SOLUTION,
    read_history,
)
from .verdict import UNFINISHED, VERDICTS

_FILES = {
    CONFIG: "the problem, the solver, the seed and the versions: everything to repeat the run",
    HISTORY: "the curves above, one line per chunk of steps and start",
    CHECKPOINT: "the state of every start, from which the run continues",
    SOLUTION: "x, the policies and every start's values, for numpy.load",
    RESULT: "the numbers of this page",
    PICTURE: "the picture of the solution",
}


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` from what is in the folder of a run, finished or not."""
    _check_run(folder)
    config = read_json(folder / CONFIG)
    history = read_history(folder / HISTORY)
    is_finished = (folder / RESULT).exists()
    if is_finished:
        outcome = read_outcome(folder)
    else:
        try:
            about = read_about(config["about"])
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG} was not written by bilevax solve.") from error
        outcome = unfinished(history, about)
    present = [name for name in _FILES if (folder / name).exists()]
    if is_finished and CHECKPOINT in present:  # its removal is the last act of a run
        present.remove(CHECKPOINT)
    content = report_html(
        outcome,
        history,
        picture=(folder / PICTURE).read_text() if PICTURE in present else None,
        config=config,
        files=present,
    )
    write_text(folder / REPORT, content)
    return folder / REPORT


def _check_run(folder: Path) -> None:
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {state}: name the folder of a run.")
    if (folder / COMPARISON).exists():
        raise ValueError(
            f"{folder} holds a comparison, whose {REPORT} is written once: read it there, or run "
            "bilevax compare again with another --out."
        )
    if not (folder / CONFIG).exists():
        raise ValueError(f"{folder} holds no run: it has no {CONFIG}.")


def report_html(
    outcome: Outcome,
    history: Sequence[dict[str, Any]],
    *,
    picture: str | None,
    config: dict[str, Any],
    files: Sequence[str] = (),
) -> str:
    """The page: verdict, key numbers, what each number means, figures, starts, how to repeat it.

    Arguments:
        outcome: the numbers.
        history: the lines of the history file.
        picture: the problem's own picture as SVG, if any.
        config: what ``config.json`` holds.
        files: the files of the folder to explain.
    """
    about = outcome.about
    body = [
        f"<h1>{text(about.problem)}</h1>",
        f'<p class="lead">{text(about.description)}</p>',
        "<p>Two levels decide here. The upper level chooses x; the lower level sees x and answers "
        "with the policy that is best for itself. The run looks for the x whose answer suits the "
        "upper level best.</p>",
        _verdict(outcome),
        _tiles(outcome),
        "<h2>The numbers in words</h2>",
        _numbers(outcome),
        known_values(outcome),
        _picture(picture),
        "<h2>How the run went</h2>",
        _figures(outcome, history),
        "<h2>Every start</h2>",
        _starts(outcome),
        "<h2>How to repeat it</h2>",
        _repeat(config, files),
    ]
    return page(f"bilevax: {about.problem}", body)


def known_values(outcome: Outcome) -> str:
    """A table of known values beside the run's own; empty where either is missing."""
    about, own = outcome.about, outcome.best.upper_value_at_best_response
    if not about.known or np.isnan(own):
        return ""
    rows = [
        (source, number(value), _compared(own, value, about.maximize))
        for source, value in about.known.items()
    ]
    return (
        "<h2>Beside known values</h2>"
        "<p>Values of this problem from publications or exact computation. A published method may "
        "have learnt from samples, where this run computes with the model itself.</p>"
        + table(("Source", "Upper value", "This run"), rows, "tnw")
    )


def _compared(own: float, known: float, maximize: bool) -> str:
    if np.isnan(known):
        return ""
    difference = own - known
    if abs(difference) <= 1e-3 * max(1e-9, abs(known)):
        return "equal to within .1 %"
    better = (difference > 0) == maximize
    return f"{number(abs(difference), 3)} {'better' if better else 'worse'}"


def _verdict(outcome: Outcome) -> str:
    best, verdict = outcome.best, VERDICTS[outcome.best.result]
    explanation = verdict.explanation.format(
        gap=number(best.gap), tol=number(outcome.about.gap_tol), message=best.message
    )
    return (
        f'<p class="verdict {verdict.kind}"><b>{verdict.headline}</b>'
        f"<span>{text(explanation)}</span></p>"
    )


def _tiles(outcome: Outcome) -> str:
    about, best = outcome.about, outcome.best
    better = "larger is better" if about.maximize else "smaller is better"
    if best.result == UNFINISHED:
        taken = sum(one.steps for one in outcome.each_start)
        tiles = [
            ("Objective so far", number(best.upper_value), f"best start; {better}"),
            ("Steps so far", f"{taken:,}", f"of {counted(about.starts, 'start')} together"),
            ("Time so far", duration(outcome.wall_seconds), "of computing"),
        ]
    else:
        tiles = [
            ("Upper value", number(best.upper_value_at_best_response), better),
            ("Certified gap", number(best.gap, 2), f"tolerance {number(about.gap_tol)}"),
            (
                "Starts",
                str(about.starts),
                f"ended at {number(outcome.worst_value)} to {number(outcome.best_value)}",
            ),
            (
                "Time",
                duration(outcome.wall_seconds),
                f"of which compiling {duration(outcome.compile_seconds)}",
            ),
        ]
    parts = [
        f'<div class="tile"><small>{text(name)}</small><strong>{text(value)}</strong>'
        f"<small>{text(note)}</small></div>"
        for name, value, note in tiles
    ]
    return f'<div class="tiles">{"".join(parts)}</div>'


def _numbers(outcome: Outcome) -> str:
    about, best = outcome.about, outcome.best
    better = "Larger is better." if about.maximize else "Smaller is better."
    rows = [
        (
            "Upper value at the exact best response",
            number(best.upper_value_at_best_response),
            "What the upper level gets with its choice x once the lower level has answered as well "
            f"as it possibly can. This is the number to quote. {better}",
        ),
        (
            "Upper value at the policy found",
            number(best.upper_value),
            "The same with the lower-level policy that the solver ended with. The closer the two, "
            "the better the solver's policy answers x.",
        ),
        (
            "Certified gap",
            number(best.gap, 2),
            "At most this much could the lower level still gain by changing its policy. It is "
            "proved by a separate exact computation, never by the solver itself; up to "
            f"{number(about.gap_tol)} counts as solved.",
        ),
        (
            "Relative gap",
            number(best.relative_gap, 2),
            "The same as a share of what the lower level can earn.",
        ),
        *_measures(outcome),
        (
            "Solver and steps",
            f"{about.solver}, {best.steps:,}",
            "The method, and the steps that the best start took.",
        ),
        *_about_polish(outcome),
        ("Starts", f"{about.starts} (seed {about.seed})", _about_starts(outcome)),
    ]
    if best.result == UNFINISHED:
        rows = [row for row in rows if row[1] != UNKNOWN]
    return table(("Number", "Value", "What it means"), rows, "tnw")


def _measures(outcome: Outcome) -> list[tuple[str, str, str]]:
    return [
        (name.replace("_", " ").capitalize(), number(value), f"{words[0].upper()}{words[1:]}.")
        for name, (value, words) in outcome.measures.items()
    ]


def _about_polish(outcome: Outcome) -> list[tuple[str, str, str]]:
    if not outcome.about.polished:
        return []
    words = (
        "When its run was over, every start's x was moved to the optimum next to it, with the "
        "lower level answering exactly all the way. The curves below end before that."
    )
    return [("Polished", "later" if outcome.best.result == UNFINISHED else "yes", words)]


def _about_starts(outcome: Outcome) -> str:
    if outcome.about.starts == 1:
        return (
            "One random start. Problems of this kind have local optima: more starts (--starts) "
            "would show how much depends on it."
        )
    words = (
        "Problems of this kind have local optima, so the run is repeated from several random "
        f"starts. Start {outcome.best_start} "
    )
    if np.isnan(outcome.median_value):
        return words + "is ahead so far."
    return words + f"did best; half of them ended at {number(outcome.median_value)} or better."


def _picture(picture: str | None) -> str:
    if picture is None:
        return ""
    svg = figures.inline(picture)
    return f'<h2>The solution</h2><figure class="card picture scroll">{svg}</figure>'


def _figures(outcome: Outcome, history: Sequence[dict[str, Any]]) -> str:
    about, best = outcome.about, outcome.best_start
    if not history:
        return "<p>No steps have been recorded.</p>"
    panels = [
        (
            figures.objective_figure(history, best=best, maximize=about.maximize),
            "<b>Objective.</b> The upper value at the solver's current policy. Early on that "
            "policy need not answer x well, so the curve can flatter x; it counts at the end.",
        ),
        (
            figures.gap_figure(history, best=best, gap_tol=about.gap_tol),
            "<b>Gap.</b> How much the lower level could still gain, as the solver itself "
            "estimates it at each step. The certificate is computed once, at the end.",
        ),
        (
            figures.weight_figure(history, best=best),
            "<b>Penalty weight.</b> How hard the solver presses the policy towards its best "
            "response. Raised along the run, it smooths the search first and is strict last.",
        ),
    ]
    if np.isfinite(outcome.values).any():
        panels.append(
            (
                figures.spread_figure(outcome.values, best=best, known=about.known),
                "<b>Spread over starts.</b> Each grey point is a start, the blue one the best. "
                "Points far apart are different local optima."
                + (
                    " Orange marks known values nearby."
                    if figures.nearby(about.known, outcome.values)
                    else ""
                ),
            )
        )
    parts = [
        f'<figure class="card">{figures.inline(figures.to_svg(figure))}'
        f"<figcaption>{caption}</figcaption></figure>"
        for figure, caption in panels
        if figure is not None
    ]
    return f'<div class="figures">{"".join(parts)}</div>'


def _starts(outcome: Outcome) -> str:
    head = ["Start", "Value at policy found", "Steps", "Result"]
    rows = [
        [str(i), number(one.upper_value, 7), f"{one.steps:,}", one.result.replace("_", " ")]
        for i, one in enumerate(outcome.each_start)
    ]
    kinds = "nnnw"
    if outcome.best.result != UNFINISHED:
        head[1:1] = ["Value at best response", "Certified gap"]
        for row, one in zip(rows, outcome.each_start, strict=True):
            row[1:1] = [number(one.upper_value_at_best_response, 7), number(one.gap, 2)]
        kinds = "nnnnnw"
    return table(head, rows, kinds, best=outcome.best_start)


def _repeat(config: dict[str, Any], files: Sequence[str]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in config.get("versions", {}).items())
    settings = "\n".join(f"{k}: {v}" for k, v in config.get("settings", {}).items())
    parts = [
        repeated(config.get("command")),
        f'<p class="words">{text(versions)}</p>' if versions else "",
        table((), [(name, _FILES[name]) for name in files], "nw") if files else "",
        f"<details><summary>All settings</summary><pre>{text(settings)}</pre></details>"
        if settings
        else "",
    ]
    return "".join(parts)
