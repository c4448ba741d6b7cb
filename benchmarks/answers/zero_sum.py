"""What changes when the lower level is a zero-sum game."""

import optax

import bilevax as bx
from bilevax.problems import incentive_game, stackelberg
from bilevax.problems._zoo import settling

from .common import (
    Answer,
    adam,
    add_losses,
    cpu_seconds,
    median,
    milliseconds_per_step,
    natural,
    shown,
    solve_all,
    starts,
    table,
)

STATES, ACTIONS, GAMES, STEPS = 5, 3, 5, 600
WEIGHT = bx.Homotopy(0.5, 1e3, round(0.8 * STEPS))
FALLING = optax.linear_schedule(0.05, 5e-4, STEPS // 5, transition_begin=STEPS - STEPS // 5)
METHODS = {
    "PBRL, Alternating(policy_step=.3)": bx.PBRL(
        penalty_weight=WEIGHT, update=settling(STEPS, 0.3)
    ),
    "PBRL, Alternating, whole steps": bx.PBRL(penalty_weight=WEIGHT, update=settling(STEPS)),
    "PBRL, SoftmaxLogits": bx.PBRL(
        penalty_weight=WEIGHT, update=bx.SoftmaxLogits(optax.adam(FALLING))
    ),
    "equilibrium solved, its derivative": bx.ImplicitGradient(adam(STEPS)),
}


def answer() -> Answer:
    """Loss, gap and cost by method; beside them one agent in a chain of the same size."""
    zoos = [incentive_game(states=STATES, actions=ACTIONS, seed=seed) for seed in range(GAMES)]
    rows = []
    for name, solver in METHODS.items():
        solutions = [solve_all(zoo, solver, starts(zoo, i), STEPS) for i, zoo in enumerate(zoos)]
        values = [natural(zoo, own) for zoo, own in zip(zoos, solutions, strict=True)]
        gaps = [float(s.gap) for own in solutions for s in own]
        cost = milliseconds_per_step(zoos[0].problem, solver, starts(zoos[0], 0)[0])
        rows.append(dict(method=name, values=values, gaps=gaps, milliseconds=cost))
    add_losses(rows)
    lines = []
    for row in rows:
        lines.append(
            [
                row["method"],
                f"{median(row['losses']):.2f}",
                f"{max(row['losses']):.1f}",
                shown(median(row["gaps"])),
                shown(max(row["gaps"])),
                f"{row['milliseconds']:.3f}",
            ]
        )
    single = stackelberg(
        states=STATES, leader_actions=ACTIONS, follower_actions=ACTIONS, tau=0.1, seed=0
    )
    x0 = starts(single, 0)[0]
    for name in ("PBRL, Alternating, whole steps", "equilibrium solved, its derivative"):
        cost = milliseconds_per_step(single.problem, METHODS[name], x0)
        rows.append(dict(method=f"one follower: {name}", milliseconds=cost))
        label = "PBRL" if "PBRL" in name else "implicit gradient"
        lines.append([f"*one follower, {label}*", "", "", "", "", f"{cost:.3f}"])
    game = zoos[0].problem.lower(starts(zoos[0], 0)[0])
    alone = 1e3 * cpu_seconds(lambda: bx.solve_game(game, bx.ShapleyNewton()))
    rows.append(dict(method="solve_game, cold", milliseconds=alone))
    header = ["method", "loss %", "worst", "gap", "worst", "CPU ms a step"]
    markdown = table(header, lines) + (
        f"\n\n{GAMES} games of {STATES} states, {ACTIONS} x {ACTIONS} actions, tau = .1; four "
        f"starts of {STEPS} steps each; loss of F at the exact equilibrium against the best found "
        f"in a game. One equilibrium from a cold start takes {alone:.2g} ms of CPU."
    )
    return Answer(markdown, rows)
