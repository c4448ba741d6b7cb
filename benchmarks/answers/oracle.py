"""Which oracle for pi*: five of them inside the same penalty runs, small and dense or sparse."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bilevax as bx
from bilevax.problems._zoo import settling

from .common import STEPS, Answer, games, natural, pbrl, rising, shown, solve_all, starts, table

TAU = 0.03
SIDE, GRID_STEPS = 20, 30
ORACLES = {
    "PolicyIteration (default)": bx.PolicyIteration(),
    "AdaptivePolicyIteration": bx.AdaptivePolicyIteration(),
    "NewtonKrylov": bx.NewtonKrylov(),
    "ValueIteration": bx.ValueIteration(),
    "PolicyMirrorDescent": bx.PolicyMirrorDescent(step_size=10 / TAU),
}


class SlipGrid(eqx.Module):
    """A walker on a grid who is paid in the middle; charges x on cells keep it from a column."""

    reward: jax.Array
    transition: bx.SuccessorList

    def lower(self, x):
        """The walker's MDP, a cell charged sigma(x)."""
        reward = self.reward - jax.nn.sigmoid(x)[:, None]
        return bx.MDP(reward, self.transition, discount=0.97, tau=0.05)

    def upper(self, x, policy, evaluation):
        """Visits to the column left of the middle, and a price of the charges."""
        visits = evaluation.occupancy.reshape(SIDE, SIDE)
        return jnp.sum(visits[:, SIDE // 2 - 3]) + 0.01 * jnp.sum(jax.nn.sigmoid(x))

    def project(self, x):
        """x itself."""
        return x


def slip_grid() -> SlipGrid:
    """Moves up, right, down, left; one in ten goes elsewhere."""
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
    clip = lambda z: np.clip(z, 0, SIDE - 1)
    reached = np.stack([clip(row + r) * SIDE + clip(column + c) for r, c in moves], -1)
    next_state = np.repeat(reached[:, None], 4, axis=1)
    probability = np.full((SIDE * SIDE, 4, 4), 0.1 / 3) + np.eye(4) * (0.9 - 0.1 / 3)
    reward = np.zeros((SIDE * SIDE, 4))
    reward[SIDE * (SIDE // 2) + SIDE // 2] = 1.0
    return SlipGrid(
        jnp.asarray(reward), bx.SuccessorList(jnp.asarray(next_state), jnp.asarray(probability))
    )


def answer() -> Answer:
    """CPU seconds, F and gap by oracle."""
    small, grid = games(TAU, 1)[0], slip_grid()
    points = starts(small, 0)
    rows = []
    for name, oracle in ORACLES.items():
        solver = pbrl(TAU, oracle=oracle)
        run = lambda n=STEPS, s=solver: solve_all(small, s, points, n)
        seconds, solutions = _timed(run)
        values, gap = natural(small, solutions), max(float(s.gap) for s in solutions)
        converged = all(bool(s.state.progress.converged) for s in solutions)
        rows.append(_row("game", name, seconds, values, gap, converged))
        weight = rising(TAU, GRID_STEPS)
        solver = bx.PBRL(penalty_weight=weight, update=settling(GRID_STEPS), oracle=oracle)
        x0 = jnp.full(SIDE * SIDE, -2.0)
        seconds, solution = _timed(
            lambda n=GRID_STEPS, s=solver, x=x0: bx.solve(grid, s, x, max_steps=n)
        )
        converged = bool(solution.state.progress.converged)
        values = [-float(solution.best_response_value)]
        rows.append(_row("grid", name, seconds, values, float(solution.gap), converged))
    lines = []
    for name in ORACLES:
        cells = []
        for problem in ("game", "grid"):
            own = [r for r in rows if r["problem"] == problem]
            first, row = own[0], next(r for r in own if r["oracle"] == name)
            pairs = zip(row["values"], first["values"], strict=True)
            off = max(abs(a / b - 1) for a, b in pairs)
            cells += [f"{row['cpu_seconds']:.2g}", shown(off), shown(row["gap"])]
            if not row["converged"]:
                cells[-3] += " (not to tolerance)"
        lines.append([name, *cells])
    header = [
        "oracle",
        "game: CPU s",
        "F off by",
        "gap",
        "grid: CPU s",
        "F off by",
        "gap",
    ]
    markdown = table(header, lines) + (
        f"\n\nGame: 20 states, dense, four starts of {STEPS} steps. Grid: {SIDE * SIDE} cells as "
        f'successor lists, discount .97, one start of {GRID_STEPS} steps. "F off by" is the '
        "largest relative difference from the first line; compilation is left out, "
        "times are the least of five."
    )
    return Answer(markdown, rows)


def _row(problem, oracle, seconds, values, gap, converged):
    return dict(
        problem=problem,
        oracle=oracle,
        cpu_seconds=seconds,
        values=values,
        gap=gap,
        converged=converged,
    )


def _timed(function):
    """The least process time of five calls after one that compiles, and the result."""
    jax.block_until_ready(function(1))
    times: list[float] = []
    result: Any = None
    for _ in range(5):
        began = time.process_time()
        result = jax.block_until_ready(function())
        times.append(time.process_time() - began)
    return min(times), result
