"""Environment steps per CPU-second of A2C on MinAtar: acting, learning and the game in one program.

    python benchmarks/actor_critic.py

An MLP of two layers of 64, 64 environments, rollouts of 8 steps, true reward; five runs of 500,000
steps after two that may compile. CPU time counts every thread. Kept in results/actor_critic.json.
"""

import json
import statistics
import time
from pathlib import Path

import jax
import optax

from bilevax.deep.actor_critic import A2C
from bilevax.deep.environments.minatar import minatar
from bilevax.deep.policy import actor_critic
from bilevax.deep.sampler import CompiledSampler, NoExtra, TrueRate

FILE = Path(__file__).parent / "results" / "actor_critic.json"
GAMES = ("Breakout", "Asterix", "Freeway", "SpaceInvaders")
ENVS, LENGTH, STEPS, RUNS = 64, 8, 500_000, 5


def measure(game):
    sampler = CompiledSampler(minatar(game), ENVS, LENGTH)
    learner = A2C(optax.chain(optax.clip_by_global_norm(0.5), optax.adam(4e-3, eps=1e-5)))
    agent = learner.start(actor_critic(jax.random.key(0), sampler.spec, 64, 2), ENVS)
    actors = sampler.start(jax.random.key(RUNS + 3))
    rates = []
    for run in range(RUNS + 2):
        began = time.process_time()
        done = sampler.improve(
            learner,
            agent,
            actors,
            TrueRate(),
            NoExtra(),
            jax.random.key(run + 1),
            iterations=STEPS // (ENVS * LENGTH),
            window=1,
        )
        steps = int(done.summary.steps)
        rates.append(steps / (time.process_time() - began))
        agent, actors = done.agent, done.actors
    rates = rates[2:]
    return dict(game=game, median=statistics.median(rates), slowest=min(rates), fastest=max(rates))


def main():
    rows = [measure(game) for game in GAMES]
    print("| game | steps per CPU-second | slowest and fastest run |\n|---|---|---|")
    for row in rows:
        row |= {name: round(value) for name, value in row.items() if name != "game"}
        print(f"| {row['game']} | {row['median']:,} | {row['slowest']:,} to {row['fastest']:,} |")
    FILE.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
