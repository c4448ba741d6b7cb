"""How large lambda must be, and what chooses it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

import bilevax as bx
from bilevax.problems._zoo import settling

from .common import (
    STEPS,
    Answer,
    add_losses,
    as_array,
    at_weight,
    axes,
    games,
    median,
    natural,
    pbrl,
    shown,
    solve_all,
    spread,
    starts,
    table,
)

TAU = 0.03
WEIGHTS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
RESTING = bx.Alternating(optax.sgd(0.0))
AUTOMATIC = {f"automatic, gap_tol {tol:.0e}": tol for tol in (1e-2, 1e-4)}


def answer() -> Answer:
    """F, gap and last weight of every rule; and gaps at fixed x, y minimised."""
    rules = {f"{w:g}": at_weight(w) for w in WEIGHTS}
    for name, tol in AUTOMATIC.items():
        # A factor of 2 every 20 steps reaches 1e5 within 400.
        weight = bx.AutomaticWeight(as_array(tol), every=20)
        rules[name] = bx.PBRL(penalty_weight=weight, update=settling(STEPS))
    rules["homotopy, 3 to 1000"] = pbrl(TAU)
    rows = [_row(name, solver) for name, solver in rules.items()]
    add_losses(rows)
    fixed: list[dict[str, Any]] = [
        dict(rule="fixed x", weight=w, gaps=_gaps_at_fixed_x(w)) for w in WEIGHTS
    ]
    ends = fixed[-1], fixed[2]
    slope = math.log(median(ends[0]["gaps"]) / median(ends[1]["gaps"])) / math.log(100)
    lines = [
        [r["rule"], shown(median(r["weights"])), spread(r["losses"], 2), shown(median(r["gaps"]))]
        for r in rows
    ]
    markdown = table(["weight", "last weight", "loss %", "gap"], lines) + (
        "\n\nLoss of F against the best found in a game here, median [smallest, largest] of 20 "
        f"runs of {STEPS} steps; median gap. At fixed "
        f"x, with the policy minimised, the gap's slope from weight 10 to 1000 is {slope:.2f}."
        "\n\n![F and gap against the weight](images/questions-weight.svg)"
    )
    return Answer(markdown, [*rows, *fixed], {"questions-weight": _figure(rows, fixed)})


def _row(name, solver) -> dict[str, Any]:
    values, gaps, weights = [], [], []
    for seed, zoo in enumerate(games(TAU)):
        solutions = solve_all(zoo, solver, starts(zoo, seed))
        values.append(natural(zoo, solutions))
        gaps += [float(s.gap) for s in solutions]
        weights += [float(s.stats["penalty_weight"]) for s in solutions]
    return dict(rule=name, values=values, gaps=gaps, weights=weights)


def _gaps_at_fixed_x(weight):
    solver = bx.PBRL(penalty_weight=bx.ConstantWeight(as_array(weight)), update=RESTING)
    gaps = []
    for seed, zoo in enumerate(games(TAU)):
        x = jax.random.normal(jax.random.key(seed), (20, 3))
        gaps.append(float(bx.solve(zoo.problem, solver, jnp.asarray(x), max_steps=60).gap))
    return gaps


def _figure(rows, fixed):
    figure, (left, right) = axes(7.2, 3.2, 2)
    constant = [r for r in rows if r["rule"] in {f"{w:g}" for w in WEIGHTS}]
    for r, w in zip(constant, WEIGHTS, strict=True):
        left.scatter([w] * len(r["losses"]), r["losses"], s=9, color="#1f5fa8", alpha=0.6, lw=0)
    left.plot(WEIGHTS, [median(r["losses"]) for r in constant], color="#1f5fa8", lw=1.5)
    risen = median(rows[-1]["losses"])
    left.axhline(risen, color="#c7522a", lw=1.2)
    high = max(constant[0]["losses"])
    left.text(3, 0.92 * high, "constant weights, line: median", color="#1f5fa8", fontsize=8)
    left.text(3, 0.84 * high, "rising weight, median", color="#c7522a", fontsize=8)
    left.set(xscale="log", xlabel="weight", ylabel="loss of F of every run, per cent")
    right.plot(WEIGHTS, [median(r["gaps"]) for r in constant], "o-", color="#1f5fa8", ms=4)
    right.plot(WEIGHTS, [median(r["gaps"]) for r in fixed], "s:", color="#555", ms=4)
    right.text(1, 0.05 * median(constant[1]["gaps"]), "end of a run", color="#1f5fa8", fontsize=8)
    right.text(5, median(fixed[1]["gaps"]), "x fixed, slope -2", color="#555", fontsize=8)
    right.set(xscale="log", yscale="log", xlabel="weight", ylabel="certified gap, median")
    for plot in (left, right):
        plot.spines[["top", "right"]].set_visible(False)
    return figure
