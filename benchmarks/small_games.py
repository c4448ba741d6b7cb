"""Games small enough for exact values: DiscreteToy (B3) and three bimatrix games (B4).

    python benchmarks/small_games.py [--seeds 1] [--out benchmarks/results/small_games.json]

Each runs with the solver, steps and random starts of its zoo entry. The value is the leader's
return at the follower's exact best response. "known" is the exact optimum of DiscreteToy and the
value of the linear programs, where the follower breaks ties as the leader likes; a follower with
entropy in its reward answers more softly, so "soft" is what the best leader gets from that one, by
brute force over a grid of mixed strategies. The target is within .05 of known (DiscreteToy: 34.9).
"""

import argparse
import json
import platform
import time
from pathlib import Path

import jax
import numpy as np

import bilevax as bx
from bilevax.problems import bimatrix, discrete_toy, return_over_steps

jax.config.update("jax_enable_x64", True)

DISCRETE_TOY_OPTIMUM = 34.993  # exact, infinite horizon
LP_VALUES = {1: 30.0, 3: 2.5, 4: 1.0}  # optimal mixed commitment


def soft_optimum(game, points=400):
    """The best leader's payoff in a bimatrix game with this tau, by brute force over a grid."""
    leads = game.leader_reward.shape[1]
    grid = np.indices((points + 1,) * (leads - 1)).reshape(leads - 1, -1).T / points
    leader = np.column_stack([grid, 1 - grid.sum(1)])
    leader = leader[leader[:, -1] >= 0]
    payoff, reward = (np.asarray(r)[0] for r in (game.leader_reward, game.follower_reward))
    q = leader @ reward / float(game.tau)
    follower = np.exp(q - q.max(1, keepdims=True))
    follower /= follower.sum(1, keepdims=True)
    return float(((leader @ payoff) * follower).sum(1).max())


def solve(name, zoo, known, target, seed):
    """One line of the table: a zoo problem from its default random starts."""
    starts = zoo.starts(jax.random.key(seed), zoo.default_starts)
    cpu = time.process_time()
    run = bx.run(zoo.problem, zoo.solver, starts, max_steps=zoo.steps)
    cpu = time.process_time() - cpu
    values = -run.best_response_values
    best = run.best
    row = {
        "problem": name,
        "seed": seed,
        "value": float(values[run.best_start]),
        "known": known,
        "target": target,
        "reached": bool(values[run.best_start] >= target),
        "values_of_all_starts": sorted(map(float, values), reverse=True),
        "starts_at_target": int(np.sum(values >= target)),
        "starts": len(values),
        "gap": float(best.gap),
        "result": str(bx.RESULTS[best.result]) or "successful",
        "steps": int(best.stats["steps"]),
        "wall_seconds": run.wall_seconds,
        "compile_seconds": run.compile_seconds,
        "cpu_seconds": cpu,
    }
    game = zoo.problem
    if name != "DiscreteToy":
        # Two actions make a line, which can be searched finely.
        row["soft_optimum"] = soft_optimum(game, 20000 if game.leader_reward.shape[1] == 2 else 600)
    else:
        mdp = game.lower(best.x)
        follower = bx.best_responses(mdp).policy
        row["return_over_150_steps"] = float(return_over_steps(game, best.x, follower, 150))
        row["probability_of_0_in_A"] = float(game.leader_policy(best.x)[1, 0])
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=1, help="sets of random starts")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/small_games.json"))
    options = parser.parse_args()
    cases = [("DiscreteToy", discrete_toy(), DISCRETE_TOY_OPTIMUM, 34.9)]
    for tau in (0.003, 0.03):
        for game, value in LP_VALUES.items():
            name = f"bimatrix {game}, tau {tau}"
            cases.append((name, bimatrix(game=game, tau=tau), value, value - 0.05))
    print(
        f"{'problem':22} {'value':>8} {'known':>8} {'soft':>8} {'at target':>9} {'worst':>8} "
        f"{'gap':>8} {'steps':>6} {'wall s':>6} {'CPU s':>6}"
    )
    rows = []
    for name, zoo, known, target in cases:
        for seed in range(options.seeds):
            row = solve(name, zoo, known, target, seed)
            rows.append(row)
            share = f"{row['starts_at_target']}/{row['starts']}"
            soft = f"{row['soft_optimum']:8.4f}" if "soft_optimum" in row else f"{'':8}"
            print(
                f"{name:22} {row['value']:8.4f} {known:8.3f} {soft} {share:>9} "
                f"{row['values_of_all_starts'][-1]:8.4f} {row['gap']:8.1e} {row['steps']:6} "
                f"{row['wall_seconds']:6.1f} {row['cpu_seconds']:6.1f}",
                flush=True,
            )
            if name == "DiscreteToy":
                print(
                    f"{'':22} {row['return_over_150_steps']:8.4f} over 150 steps, "
                    f"P(0|A) = {row['probability_of_0_in_A']:.4f}"
                )
    versions = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "bilevax": bx.__version__,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"rows": rows, "versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
