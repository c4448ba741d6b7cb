"""The value penalty against the Bellman penalty."""

import itertools
import math

import bilevax as bx

from .common import (
    Answer,
    add_losses,
    at_weight,
    games,
    median,
    milliseconds_per_step,
    natural,
    pbrl,
    shown,
    solve_all,
    spread,
    starts,
    table,
)

TAU = 0.03
GAPS = (1e-2, 1e-3, 1e-4)
WEIGHTS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
PENALTIES = {"value": bx.NikaidoIsoda(), "Bellman": bx.BellmanPenalty()}
SCALES = {"value": 1.0, "Bellman": 10.0}  # 1 / (1 - discount)


def answer() -> Answer:
    """Gap and F at constant weights, and with a rising weight."""
    rows = []
    for name, penalty in PENALTIES.items():
        for weight in WEIGHTS:
            rows.append(_row(name, weight, at_weight(weight, penalty=penalty)))
        scale = SCALES[name]
        rows.append(_row(name, "rising", pbrl(TAU, penalty=penalty, scale=scale)))
    add_losses(rows)
    zoo = games(TAU, 1)[0]
    lines = []
    for name, penalty in PENALTIES.items():
        own = [r for r in rows if r["penalty"] == name and r["weight"] != "rising"]
        risen = next(r for r in rows if r["penalty"] == name and r["weight"] == "rising")
        cost = milliseconds_per_step(zoo.problem, pbrl(TAU, penalty=penalty), starts(zoo, 0)[0])
        rows.append(dict(penalty=name, milliseconds=cost))
        lines.append(
            [
                name,
                *(_at_gap(own, gap) for gap in GAPS),
                spread(risen["losses"], 2),
                shown(median(risen["gaps"])),
                f"{cost:.2f}",
            ]
        )
    header = [
        "penalty",
        *(f"weight for gap {gap:.0e} (loss)" for gap in GAPS),
        "loss %, rising weight",
        "gap",
        "CPU ms a step",
    ]
    markdown = table(header, lines) + (
        f"\n\ntau = {TAU}; medians over five games and two starts each. The loss is that of F "
        "against the best found in a game here, the weight interpolated between those tried."
    )
    return Answer(markdown, rows)


def _row(name, weight, solver):
    values, gaps = [], []
    for seed, zoo in enumerate(games(TAU)):
        solutions = solve_all(zoo, solver, starts(zoo, seed, 2))
        values.append(natural(zoo, solutions))
        gaps += [float(s.gap) for s in solutions]
    return dict(penalty=name, weight=weight, values=values, gaps=gaps)


def _at_gap(rows, gap):
    """The weight whose median gap is this, and the median F there, log-linear between rows."""
    for below, above in itertools.pairwise(rows):
        high, low = median(below["gaps"]), median(above["gaps"])
        if low <= gap <= high:
            share = math.log(high / gap) / math.log(high / low)
            weight = below["weight"] * (above["weight"] / below["weight"]) ** share
            value = median(below["losses"]) * (1 - share) + median(above["losses"]) * share
            return f"{shown(weight)} ({value:.2f} %)"
    return "out of range"
