"""The default oracle against QuantEcon's DiscreteDP: hard maximum, Bellman residual 1e-8.

python benchmarks/oracles.py [--rounds 7]

One CPU for both, process time, runs in turn. QuantEcon has its best method: policy iteration, or
modified policy iteration with the evaluation steps and the epsilon that reach the residual soonest.
Compilation is left out on both sides. Times are medians; the ratio is QuantEcon / bilevax.

A bilevel method calls the oracle from within a compiled program, at every step with other rewards.
That is the first time: a program that solves the model again and again, its rewards scaled a little
each time. "One call" is one solve called from Python, as each of QuantEcon's is.
"""

import argparse
import json
import math
import os
import statistics
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from methods import RESULTS
from quantecon.markov import DiscreteDP

import bilevax as bx
from bilevax._oracle import cold_start, respond

jax.config.update("jax_enable_x64", True)

RESIDUAL = 1e-8
REPEATED = 0.05  # CPU seconds that one run of the repeating program is to take, at least


def dense(states, actions):
    """Uniform random kernel and rewards."""
    draw = np.random.default_rng(0)
    kernel = draw.random((states, actions, states))
    kernel /= kernel.sum(-1, keepdims=True)
    reward = draw.random((states, actions))
    return bx.MDP(reward, kernel, discount=0.95), DiscreteDP(reward, kernel, 0.95)


def sparse(states, actions=5, branching=10):
    """Random successors with uniform random weights."""
    draw = np.random.default_rng(0)
    next_state = draw.integers(0, states, (states, actions, branching))
    probability = draw.random(next_state.shape)
    probability /= probability.sum(-1, keepdims=True)
    return lists(draw.random((states, actions)), next_state, probability, 0.95)


def slip_grid(size=100, slip=0.1):
    """A grid with 1 per step in the middle; a move goes elsewhere with probability ``slip``."""
    cells = np.arange(size * size)
    row, column = np.divmod(cells, size)
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
    clip = lambda z: np.clip(z, 0, size - 1)
    reached = np.stack([clip(row + r) * size + clip(column + c) for r, c in moves], -1)
    next_state = np.repeat(reached[:, None], 4, axis=1)
    probability = np.full((size * size, 4, 4), slip / 3) + np.eye(4) * (1 - slip - slip / 3)
    reward = np.repeat((cells == size * (size // 2) + size // 2)[:, None] * 1.0, 4, axis=1)
    return lists(reward, next_state, probability, 0.99)


def lists(reward, next_state, probability, discount):
    """The same successor lists for both libraries."""
    states, actions, width = probability.shape
    rows = states * actions
    ends = np.arange(0, rows * width + 1, width)
    kernel = scipy.sparse.csr_matrix(
        (probability.ravel(), next_state.ravel(), ends), shape=(rows, states)
    )
    pairs = np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)
    theirs = DiscreteDP(reward.ravel(), kernel, discount, *pairs)
    transition = bx.SuccessorList(jnp.asarray(next_state), jnp.asarray(probability))
    return bx.MDP(jnp.asarray(reward), transition, discount=discount), theirs


def timed(function):
    """Process time of one call, and its result."""
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


def best_method(model):
    """QuantEcon's fastest setting that meets the residual."""
    settings = []
    if model.num_states <= 1000:
        settings.append(("pi", lambda: model.solve("policy_iteration")))
    for k in (5, 10, 20, 50, 100):
        for epsilon in (1e-5, 1e-6, 1e-7, 1e-8):
            call = lambda k=k, epsilon=epsilon: model.solve(
                "mpi", epsilon=epsilon, k=k, max_iter=100_000
            )
            v = call().v
            if np.abs(model.bellman_operator(v) - v).max() <= RESIDUAL:
                settings.append((f"mpi k={k}", call))
                break
    speed = lambda setting: min(timed(setting[1])[0] for _ in range(3))
    return min(settings, key=speed)


def compare(name, models, rounds):
    """One row: both solve in turn, and both residuals are checked."""
    mdp, theirs = models
    method, call = best_method(theirs)
    scale = float(np.abs(call().v).max())
    oracle = bx.AdaptivePolicyIteration(tol=RESIDUAL / scale)
    solve = lambda m: respond(oracle, m, cold_start(oracle, m))
    solver = jax.jit(solve).lower(mdp).compile()
    ours = lambda: jax.block_until_ready(solver(mdp))
    response = ours()
    residual = float(
        np.abs(theirs.bellman_operator(np.array(response.values)) - response.values).max()
    )
    assert residual <= 1.01 * RESIDUAL, f"{name}: residual {residual}"
    count = max(2, math.ceil(REPEATED / min(timed(ours)[0] for _ in range(3))))
    scales = 1 + 1e-3 * jnp.arange(count) / count

    def again(mdp, scale):
        return solve(eqx.tree_at(lambda m: m.reward, mdp, scale * mdp.reward)).values

    repeated = jax.jit(lambda m, z: jax.lax.map(lambda s: again(m, s), z))
    repeated = repeated.lower(mdp, scales).compile()
    within = lambda: jax.block_until_ready(repeated(mdp, scales))
    last = scales[-1] * theirs.bellman_operator(np.array(within()[-1] / scales[-1]))
    residual = float(np.abs(last - within()[-1]).max())
    assert residual <= 1.02 * RESIDUAL, f"{name}, repeated: residual {residual}"
    times = [(timed(within)[0] / count, timed(ours)[0], timed(call)[0]) for _ in range(rounds)]
    inside, mine, other = (statistics.median(part) * 1e3 for part in zip(*times, strict=True))
    print(
        f"| {name} | {inside:.3g} | {mine:.3g} | {other:.3g} | {method} | {other / inside:.2f} | "
        f"{other / mine:.2f} |",
        flush=True,
    )
    return dict(
        model=name,
        bilevax_ms=inside,
        one_call_ms=mine,
        quantecon_ms=other,
        method=method,
        ratio=other / inside,
        ratio_of_one_call=other / mine,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    models = {
        "dense 100 x 5": lambda: dense(100, 5),
        "dense 1000 x 10": lambda: dense(1000, 10),
        "sparse 1e4 x 5": lambda: sparse(10_000),
        "sparse 1e5 x 5": lambda: sparse(100_000),
        "slip grid 100 x 100": slip_grid,
    }
    print("| model | bilevax ms | one call ms | QuantEcon ms | its method | ratio | of one call |")
    print("|---|---|---|---|---|---|---|")
    rows = [compare(name, make(), arguments.rounds) for name, make in models.items()]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "oracles.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
