"""What an answer is still worth when tau is wrong or the follower is suboptimal."""

import jax

import bilevax as bx

from .common import (
    STEPS,
    Answer,
    adam,
    as_array,
    at_weight,
    cooled,
    games,
    implicit,
    median,
    mixed_with_uniform,
    natural,
    pbrl,
    shown,
    solve_all,
    starts,
    table,
)

TAU = 0.05
LIGHT = 3.0
SHARE = 0.05  # of the follower's moves that are random
TOLERANCE = 0.05  # what the follower may lose of its return
METHODS = {
    "PBRL, annealed": cooled(pbrl(TAU), TAU),
    f"PBRL, weight {LIGHT:g}": at_weight(LIGHT),
    "implicit": implicit(),
    "independent": bx.IndependentGradient(bx.Alternating(adam())),
}
COLUMNS = {
    "half": "tau halved",
    "twice": "tau doubled",
    "mixed": "5 % at random",
    "pessimistic": "pessimistic",
    "optimistic": "optimistic",
}


@jax.jit
def _range(problem, x, tolerance):
    return bx.leader_return_range(problem, x, tolerance=tolerance)


def answer() -> Answer:
    """F of every run, as assumed and under five departures, in per cent of the best as assumed."""
    rows = []
    for name, solver in METHODS.items():
        row = {"method": name, "values": [], "gaps": [], **{k: [] for k in COLUMNS}}
        for seed, zoo in enumerate(games(TAU)):
            solutions = solve_all(zoo, solver, starts(zoo, seed), STEPS)
            row["values"].append(natural(zoo, solutions))
            row["gaps"] += [float(s.gap) for s in solutions]
            departures = [_departures(zoo, s.x) for s in solutions]
            for key in COLUMNS:
                row[key].append([d[key] for d in departures])
        rows.append(row)
    best = [max(max(r["values"][i]) for r in rows) for i in range(len(rows[0]["values"]))]
    lines = []
    for row in rows:
        cells = [row["method"], _percent(row["values"], best), shown(median(row["gaps"]))]
        lines.append([*cells, *(_percent(row[key], best) for key in COLUMNS)])
    header = ["method", "as assumed", "gap", *COLUMNS.values()]
    markdown = table(header, lines) + (
        f"\n\nF in per cent of the best found in the game as assumed (tau = {TAU}): median "
        f"[smallest, largest] of {len(best)} games and four starts, {STEPS} steps. The last two: "
        f"the certified range of F over all followers who lose at most {TOLERANCE} of their return."
    )
    return Answer(markdown, rows)


def _departures(zoo, x):
    half, twice = bx.sensitivity(zoo.problem, x, tau_factors=(0.5, 2.0))
    reach = _range(zoo.problem, x, as_array(TOLERANCE))
    mixed = mixed_with_uniform(zoo.problem, x, as_array(SHARE))
    return dict(
        half=-float(half),
        twice=-float(twice),
        mixed=-float(mixed),
        pessimistic=float(reach.pessimistic),
        optimistic=float(reach.optimistic),
    )


def _percent(values, best):
    shares = [100 * value / top for own, top in zip(values, best, strict=True) for value in own]
    return f"{median(shares):.1f} [{min(shares):.0f}, {max(shares):.0f}]"
