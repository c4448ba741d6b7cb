"""The default oracle against QuantEcon's DiscreteDP: hard maximum, Bellman residual 1e-8.

python benchmarks/oracles.py [--rounds 7]

One CPU for both, process time, runs in turn. QuantEcon has its best method: policy iteration, or
modified policy iteration with the evaluation steps and the epsilon that reach the residual soonest.
Compilation is left out on both sides. Times are medians; the ratio is QuantEcon / bilevax.

A bilevel method calls the oracle from within a compiled program, at every step with other rewards.
That is the first time: a program that solves the model again and again, its rewards scaled a little
each time. "One call" is a solve called from Python, as QuantEcon's is. Both are means over calls
one after another, so that caches are as warm for all.
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
from bilevax._oracle import respond

jax.config.update("jax_enable_x64", True)

RESIDUAL = 1e-8
REPEATED = 0.05  # CPU seconds of calls, one after another, that each time is the mean of


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


def within_program(solve, mdp, repeats):
    """A compiled program that solves the model so often, its rewards scaled a little each time.

    Returns the values of the last solve and the factor on its rewards.
    """
    factors = 1 + 1e-3 * jnp.arange(repeats) / repeats
    scaled = lambda model, factor: eqx.tree_at(lambda m: m.reward, model, factor * model.reward)
    program = jax.jit(lambda m, z: jax.lax.map(lambda c: solve(scaled(m, c)).values, z))
    program = program.lower(mdp, factors).compile()
    return lambda: (jax.block_until_ready(program(mdp, factors))[-1], float(factors[-1]))


def check_residual(name, theirs, values, factor=1.0):
    """QuantEcon's Bellman operator, for rewards times the factor, agrees to the residual."""
    values = np.array(values)
    residual = float(np.abs(factor * theirs.bellman_operator(values / factor) - values).max())
    # Tolerances are relative to the largest value, which rounding and the factor move.
    assert residual <= 1.01 * RESIDUAL, f"{name}: residual {residual}"


def calls_in(seconds, function):
    """How many calls of a function take so many CPU seconds."""
    return max(1, math.ceil(seconds / min(timed(function)[0] for _ in range(3))))


def compare(name, models, rounds):
    """One row: all solve in turn, and the residuals are checked."""
    mdp, theirs = models
    method, call = best_method(theirs)
    largest = float(np.abs(call().v).max())
    oracle = bx.AdaptivePolicyIteration(tol=RESIDUAL / largest)
    solve = lambda m: respond(oracle, m)
    solver = jax.jit(solve).lower(mdp).compile()
    ours = lambda: jax.block_until_ready(solver(mdp))
    repeats = calls_in(REPEATED, ours)
    within = within_program(solve, mdp, repeats)
    check_residual(name, theirs, ours().values)
    check_residual(name, theirs, *within())

    functions = {"within": within, "one call": ours, "quantecon": call}
    counts = {key: calls_in(REPEATED, function) for key, function in functions.items()}
    times = {key: [] for key in functions}
    for _ in range(rounds):
        for key, function in functions.items():
            seconds, _ = timed(lambda f=function, n=counts[key]: [f() for _ in range(n)])
            times[key].append(1e3 * seconds / counts[key])
    inside, mine, other = map(statistics.median, times.values())
    inside /= repeats
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
