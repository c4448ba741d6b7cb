"""Constrained agents in the lower level: subsidies for an agent with a limit on its spending."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bilevax as bx
from bilevax.problems._zoo import settling

from .common import Answer, cpu_seconds, implicit, median, shown, spread, table

STATES, ACTIONS, STEPS, PROBLEMS = 8, 3, 100, 4
SHARE = 0.8  # of what the free agent spends without subsidies


class Subsidies(eqx.Module):
    """A designer pays sigma(x) for actions and wants few visits to the first quarter of states."""

    reward: jax.Array
    kernel: jax.Array
    cost: jax.Array
    limit: jax.Array
    limited: bool = eqx.field(static=True)

    def free(self, x):
        """The agent without a limit."""
        reward = self.reward + jax.nn.sigmoid(x)
        return bx.MDP(reward, self.kernel, discount=0.9, tau=0.1)

    def priced(self, x):
        """Its limit as a price."""
        return bx.lagrangian(self.free(x), self.cost[None], self.limit[None])

    def lower(self, x):
        """The agent."""
        return self.priced(x).mdp if self.limited else self.free(x)

    def upper(self, x, policy, evaluation):
        """Visits, and a tenth of what is paid."""
        paid = evaluation.expected_return(jax.nn.sigmoid(x))
        return jnp.sum(evaluation.occupancy[: STATES // 4]) + 0.1 * paid

    def project(self, x):
        """x itself."""
        return x


def problem(seed: int, limited: bool, share: float = SHARE) -> Subsidies:
    """A random one; the limit is a share of what the free agent spends without subsidies."""
    draw = np.random.default_rng(seed)
    kernel = jnp.asarray(draw.dirichlet(np.ones(STATES), (STATES, ACTIONS)))
    reward, cost = jnp.asarray(draw.random((2, STATES, ACTIONS)))
    mdp = bx.MDP(reward, kernel, discount=0.9, tau=0.1)
    spent = bx.evaluate(mdp, bx.best_responses(mdp).policy).expected_return(cost)
    return Subsidies(reward, kernel, cost, share * spent, limited)


def answer() -> Answer:
    """F, multiplier, gap, slack and the certified loss, with and without the limit."""
    solvers = {
        "PBRL": bx.PBRL(
            penalty_weight=bx.Homotopy(3.0, 1e3, round(0.8 * STEPS)), update=settling(STEPS)
        ),
        "implicit": implicit(STEPS),
    }
    rows = []
    for limited in (False, True):
        for name, solver in solvers.items():
            rows.append(_row(name, solver, limited))
    lines = [
        [
            "limited" if r["limited"] else "free",
            r["method"],
            spread(r["values"]),
            shown(median(r["gaps"])),
            spread(r["multipliers"], 2) if r["limited"] else "",
            shown(max(r["excess"])) if r["limited"] else f"{max(r['excess']):.2f}",
            shown(max(r["bounds"])) if r["limited"] else "",
            f"{r['milliseconds']:.2f}",
        ]
        for r in rows
    ]
    header = [
        "agent",
        "method",
        "F (a cost)",
        "gap",
        "multiplier",
        "most spent above the limit",
        "certified loss, worst",
        "CPU ms a step",
    ]
    markdown = table(header, lines) + (
        f"\n\n{PROBLEMS} random problems of {STATES} states and {ACTIONS} actions, two starts, "
        f"{STEPS} steps; median [smallest, largest]. The limit is {100 * SHARE:.0f} % of what the "
        "free agent spends without subsidies."
    )
    return Answer(markdown, rows)


def _row(name, solver, limited):
    values, gaps, multipliers, excess, bounds = [], [], [], [], []
    for seed in range(PROBLEMS):
        own = problem(seed, limited)
        for x0 in 0.5 * jax.random.normal(jax.random.key(seed), (2, STATES, ACTIONS)):
            solution = _solve(own, solver, x0, jnp.asarray(STEPS))
            spent, price = map(float, _spent_and_price(own, solution.x, solution.policy))
            over = spent - float(own.limit)
            values.append(float(solution.best_response_value))
            gaps.append(float(solution.gap))
            excess.append(over)
            if limited:
                # Weak duality: the loss against the constrained optimum is at most
                # gap + <multiplier, limit - spent>.
                multipliers.append(price)
                bounds.append(float(solution.gap) - price * over)
    own, x0 = problem(0, limited), jnp.zeros((STATES, ACTIONS))
    once, whole = (
        cpu_seconds(lambda n=n: _solve(own, solver, x0, jnp.asarray(n))) for n in (1, 1 + STEPS)
    )
    cost = 1e3 * (whole - once) / STEPS
    return dict(
        method=name,
        limited=limited,
        values=values,
        gaps=gaps,
        multipliers=multipliers,
        excess=excess,
        bounds=bounds,
        milliseconds=cost,
    )


@eqx.filter_jit
def _solve(own, solver, x0, steps):
    return bx.solve(own, solver, x0, max_steps=steps)


@jax.jit
def _spent_and_price(own, x, policy):
    spent = bx.evaluate(own.free(x), policy).expected_return(own.cost)
    return spent, own.priced(x).multipliers[0] if own.limited else 0.0
