"""The oracle's cost, and what follows the best response without solving for it."""

import equinox as eqx
import jax
from jax import lax

import bilevax as bx
from bilevax.problems import stackelberg
from bilevax.problems._zoo import settling

from .common import (
    STEPS,
    Answer,
    add_losses,
    cpu_seconds,
    games,
    history,
    median,
    milliseconds_per_step,
    natural,
    pbrl,
    rising,
    shown,
    solve_all,
    starts,
    table,
)

TAUS = (0.01, 0.1)


def methods(tau: float) -> dict:
    """The followers of the best response; the same weights for all."""
    panda = bx.PANDA(
        penalty_weight=rising(tau),
        optimizer=settling(STEPS).optimizer,
        inner_steps=5,
        policy_step=0.3,
        oracle=bx.PolicyMirrorDescent(step_size=30.0),  # policy_step / tau at tau = .01
    )
    return {
        "solved at every step": pbrl(tau),
        "tracked, one oracle step": pbrl(tau, single_loop=True),
        "tracked by mirror descent": pbrl(
            tau, oracle=bx.PolicyMirrorDescent(step_size=30.0), single_loop=True
        ),
        "PANDA, 5 learning steps": panda,
    }


def answer() -> Answer:
    """F, gap and cost of a step; and the share of a step that the oracle takes."""
    rows, lines = [], []
    for tau in TAUS:
        zoos = games(tau)
        outcomes = {}
        for name, solver in methods(tau).items():
            solutions = [solve_all(zoo, solver, starts(zoo, i)) for i, zoo in enumerate(zoos)]
            outcomes[name] = [natural(zoo, s) for zoo, s in zip(zoos, solutions, strict=True)]
            gaps = [float(s.gap) for own in solutions for s in own]
            cost = milliseconds_per_step(zoos[0].problem, solver, starts(zoos[0], 0)[0])
            rows.append(
                dict(tau=tau, method=name, values=outcomes[name], gaps=gaps, milliseconds=cost)
            )
        own_rows = rows[-len(outcomes) :]
        add_losses(own_rows)
        for row in own_rows:
            lines.append(
                [
                    f"{tau:g}",
                    row["method"],
                    f"{median(row['losses']):.2f}",
                    f"{max(row['losses']):.1f}",
                    shown(median(row["gaps"])),
                    shown(max(row["gaps"])),
                    f"{row['milliseconds']:.3f}",
                ]
            )
    header = ["tau", "best response", "loss %", "worst", "gap", "worst", "CPU ms a step"]
    shares = [_share(states, actions) for states, actions in ((20, 3), (100, 5))]
    rows += shares
    shares_table = table(
        ["states", "actions", "a step", "a step, tracked", "the oracle alone", "its share"],
        [
            [
                r["states"],
                f"{r['actions']} x {r['actions']}",
                *(f"{r[k]:.3f} ms" for k in ("solved", "tracked", "alone")),
                f"{100 * r['alone'] / r['solved']:.0f} %",
            ]
            for r in shares
        ],
    )
    markdown = (
        table(header, lines)
        + f"\n\nLoss of F against the best found in a game, gap: median and worst of {5 * 4} runs "
        f"of {STEPS} steps.\n\n{shares_table}\n\nCPU time of the "
        "oracle along the points of such a run (tau = .01, weight 1000), and of whole steps."
    )
    return Answer(markdown, rows)


def _share(states, actions):
    zoo = stackelberg(
        states=states, leader_actions=actions, follower_actions=actions, tau=0.01, seed=0
    )
    x0 = starts(zoo, 0)[0]
    solved, tracked = (
        bx.PBRL(penalty_weight=1e3, update=settling(STEPS), single_loop=single)
        for single in (False, True)
    )
    cost = {
        name: milliseconds_per_step(zoo.problem, solver, x0, 1000)
        for name, solver in (("solved", solved), ("tracked", tracked))
    }
    path = history(zoo.problem, solved, x0, STEPS)[:2]
    alone = 1e3 * cpu_seconds(lambda: _respond_along(zoo.problem, solved.oracle, path)) / STEPS
    return dict(states=states, actions=actions, **cost, alone=alone)


@eqx.filter_jit
def _respond_along(problem, oracle, path):
    """The oracle's answers along a run, warm from one to the next."""
    estimator, key = bx.Exact(problem), jax.random.key(0)
    _, memory = estimator.init(oracle, path[0][0], key)

    def respond(memory, point):
        x, policy = point
        return estimator.respond(oracle, x, policy, memory, key, single_loop=False), None

    return lax.scan(respond, memory, path)[0].responses.values
