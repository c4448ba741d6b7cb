"""How long the equilibrium of a zero-sum Markov game takes, exact to a certified gap.

    python benchmarks/equilibrium.py [--grids 5 10 20]

Random games of 10 states and 5 x 5 actions (discount .9), and Sentinel-Intruder grids, of which the
20 x 20 one has 160,000 joint states. CPU and wall seconds after compilation, the best of five (of
two on grids), from a cold start; the certified gap of the policies; peak memory of the process.
"""

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import bilevax as bx
from bilevax.problems import sentinel_intruder

jax.config.update("jax_enable_x64", True)


def random_game(tau: float, seed: int) -> bx.ZeroSumGame:
    draw = np.random.default_rng(seed)
    kernel = draw.random((10, 5, 5, 10))
    kernel /= kernel.sum(-1, keepdims=True)
    return bx.ZeroSumGame(draw.random((10, 5, 5)), kernel, discount=0.9, tau=tau)


def measured(name: str, game: bx.ZeroSumGame, repeats: int) -> dict:
    oracle = bx.ShapleyNewton()
    found = jax.block_until_ready(bx.solve_game(game, oracle))
    cpu, wall = [], []
    for _ in range(repeats):
        start = time.process_time(), time.perf_counter()
        found = jax.block_until_ready(bx.solve_game(game, oracle))
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    gap = bx.duality_gap(game.induced_mdps(found.policy), found.policy)
    return {
        "game": name,
        "states": game.reward.shape[0],
        "converged": bool(found.converged),
        "steps": int(found.steps),
        "cpu_seconds": min(cpu),
        "wall_seconds": min(wall),
        "gap": float(gap.absolute),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--grids", type=int, nargs="*", default=[5, 10, 20])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/equilibrium.json"))
    options = parser.parse_args()
    rows = [measured(f"random, tau {tau}", random_game(tau, seed=0), 5) for tau in (1.0, 0.1, 0.01)]
    for size in options.grids:
        problem = sentinel_intruder(size=size).problem
        game = problem.lower(jnp.zeros((2, size * size)))
        rows.append(measured(f"Sentinel-Intruder {size} x {size}", game, 2))
    print("| game | states | Newton steps | CPU s | wall s | certified gap | peak GB |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        assert r["converged"]
        print(
            f"| {r['game']} | {r['states']:,} | {r['steps']} | {r['cpu_seconds']:.2g} | "
            f"{r['wall_seconds']:.2g} | {r['gap']:.0e} | {r['peak_gigabytes']:.2f} |"
        )
    made = {"python": platform.python_version(), "jax": jax.__version__, "bilevax": bx.__version__}
    options.out.write_text(json.dumps({"made_with": made, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
