"""Second-order and accelerated steps: how soon each is within 1e-6 of the optimum nearby."""

import numpy as np
import optax

import bilevax as bx

from .common import (
    Answer,
    games,
    history,
    implicit,
    median,
    milliseconds_per_step,
    solve_all,
    starts,
    table,
)

TAUS = (0.01, 0.1)
STEPS, ROUGH, NEAR = 3000, 200, 1e-6
METHODS = {
    "Adam, rate .05": bx.ImplicitGradient(optax.adam(0.05)),
    "gradient descent, rate 1": bx.ImplicitGradient(optax.sgd(1.0)),
    "gradient descent, rate 3": bx.ImplicitGradient(optax.sgd(3.0)),
    "Anderson, rate 1, memory 5": bx.Anderson(bx.ImplicitGradient(optax.sgd(1.0))),
    "Anderson, rate 3, memory 5": bx.Anderson(bx.ImplicitGradient(optax.sgd(3.0))),
    "quasi-Newton (`polish`)": bx.QuasiNewton(),
}


def answer() -> Answer:
    """Steps and CPU seconds until F is within 1e-6 of the best, from rough answers."""
    rows = []
    for tau in TAUS:
        for seed, zoo in enumerate(games(tau)):
            # A rough answer each: 200 steps of Adam from a near and from a wide start.
            rough = [s.x for s in solve_all(zoo, implicit(), starts(zoo, seed, 2), ROUGH)]
            for i, x0 in enumerate(rough):
                for name, solver in METHODS.items():
                    _, _, progress = history(zoo.problem, solver, x0, STEPS)
                    values = np.asarray(progress.upper_value)
                    rows.append(dict(tau=tau, game=seed, start=i, method=name, values=values))
    _count_steps(rows)
    zoo = games(0.1, 1)[0]
    x0 = starts(zoo, 0)[0]
    lines = []
    for name, solver in METHODS.items():
        cost = milliseconds_per_step(zoo.problem, solver, x0)
        cells = []
        for tau in TAUS:
            own = [r for r in rows if r["method"] == name and r["tau"] == tau]
            reached = [r["steps"] for r in own if r["steps"] is not None]
            cells += [f"{len(reached)} of {len(own)}"]
            cells += [_quantity(reached, 1, "{:.0f}"), _quantity(reached, cost / 1e3, "{:.3f}")]
            cells += [f"{median(100 * r['short'] for r in own):.3f}"]
        lines.append([name, *cells])
        rows.append(dict(method=name, milliseconds=cost))
    columns = ("there", "steps", "CPU s", "loss %")
    header = ["method", *(f"tau {tau:g}: {c}" for tau in TAUS for c in columns)]
    markdown = table(header, lines) + (
        f'\n\nFrom {ROUGH} steps of Adam, ten points for each tau, up to {STEPS:,} steps. "there": '
        "runs within 1e-6, relatively, of the best F that any method found from the point; medians "
        "of those; loss: median of all, at the end, against that best."
    )
    return Answer(markdown, rows)


def _count_steps(rows):
    """The first step at which F is near the best from the same point; the histories are dropped."""
    key = lambda r: (r["tau"], r["game"], r["start"])
    best = {}
    for row in rows:
        best[key(row)] = min(best.get(key(row), np.inf), float(np.nanmin(row["values"])))
    for row in rows:
        values, floor = row.pop("values"), best[key(row)]
        near = values <= floor + NEAR * abs(floor)
        row["steps"] = int(np.argmax(near)) + 1 if near.any() else None
        row["short"] = max(0.0, float((np.nanmin(values) - floor) / abs(floor)))


def _quantity(steps, factor, form):
    return form.format(median(steps) * factor) if steps else ""
