"""Sets X that are not compact: where x runs away, and what keeps it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevax as bx

from .common import Answer, games, shown, table

STATES = 6
STEPS = (300, 1000, 3000, 10_000)
KERNEL = np.stack(
    [np.eye(STATES)[np.clip(np.arange(STATES) + move, 0, STATES - 1)] for move in (-1, 1)], axis=1
)
REWARD = jnp.zeros((STATES, 2)).at[0].set(1.0)
BOX = 2.0
PENALISED = bx.PBRL(update=bx.Alternating(optax.adam(0.05)))
EXACT = bx.ImplicitGradient(optax.adam(0.05))


def walker(bonus):
    """An agent on a line who is paid at one end, and ``bonus`` at the other."""
    return bx.MDP(REWARD.at[STATES - 1].add(bonus), KERNEL, discount=0.9, tau=0.1)


def away(x, policy, evaluation):
    """Visits to all cells but the subsidised one: a subsidy costs nothing."""
    return 10 - evaluation.occupancy[STATES - 1]


def taxed(x, policy, evaluation):
    """Minus the tax on every step: nothing the agent does avoids it."""
    return -x * jnp.sum(evaluation.occupancy)


def problems() -> dict:
    """By name: the problem, its start and what x is in the table."""
    line = lambda upper, lower, *project: bx.BilevelProblem(upper, lower, *project)
    ridge = lambda x, y, e: away(x, y, e) + 0.05 * x**2
    positive = lambda x: walker(jax.nn.softplus(x))
    box = lambda x: jnp.clip(x, -BOX, BOX)
    everywhere = lambda x: bx.MDP(REWARD - x, KERNEL, discount=0.9, tau=0.1)
    game = games(0.1, 1)[0].problem
    return {
        "free subsidy, x in R": line(away, walker),
        "free subsidy, softplus(x)": line(away, positive),
        f"free subsidy, x in [-{BOX:g}, {BOX:g}]": line(away, walker, box),
        "free subsidy, ridge .05 x^2": line(ridge, walker),
        "tax without alternative, x in R": line(taxed, everywhere),
        "leader's logits in R": game,
    }


def answer() -> Answer:
    """|x|, F, the gradient's norm and the result, over the steps."""
    rows, lines = [], []
    for name, problem in problems().items():
        x0 = jnp.zeros((20, 3)) if "logits" in name else jnp.asarray(0.0)
        for method, solver in (("PBRL", PENALISED), ("implicit", EXACT)):
            own = [_row(name, method, problem, solver, x0, n) for n in STEPS]
            rows += own
            if method == "implicit" and "logits" not in name and "R" not in name:
                continue  # as PBRL, to the digits shown
            lines.append(
                [
                    name,
                    method,
                    ", ".join(shown(r["size"]) for r in own),
                    ", ".join(_digits(r["value"]) for r in own),
                    ", ".join(shown(r["gradient"]) for r in own),
                    shown(own[-1]["gap"]),
                    own[-1]["result"],
                ]
            )
    header = ["problem", "method", "size of x", "F", "gradient's norm", "last gap", "result"]
    markdown = table(header, lines) + (
        f"\n\nAfter {', '.join(f'{n:,}' for n in STEPS)} steps of Adam at .05 with tol = 1e-6. "
        "The size of x is its largest entry. F is minimised, at the exact best response; gap and "
        "result are those of the longest run."
    )
    return Answer(markdown, rows)


def _row(name, method, problem, solver, x0, steps) -> dict[str, Any]:
    solution = bx.solve(problem, solver, x0, max_steps=steps, tol=1e-6)
    result = next(
        member
        for member in ("successful", "max_steps_reached", "infeasible", "nonfinite")
        if bool(solution.result == getattr(bx.RESULTS, member))
    )
    return dict(
        problem=name,
        method=method,
        steps=int(solution.stats["steps"]),
        size=float(jnp.max(jnp.abs(solution.x))),
        value=float(solution.best_response_value),
        gradient=float(solution.stats["gradient_norm"]),
        gap=float(solution.gap),
        result=result,
    )


def _digits(number):
    return f"{number:.4f}" if abs(number) < 100 else f"{number:,.0f}"
