"""One PBRL step in bilevax against the same step in NumPy and LAPACK, on one CPU.

    python benchmarks/step.py [--chunks 20] [--steps 100] [--out benchmarks/results/step.json]

The random Stackelberg game of B1 (100 states, 5 x 5 actions) at discount .95 and tau .01. Both
sides solve the follower to the same tolerance, take the same gradients and make the same Adam
update: the gradients are compared to 1e-9 first, and the two trajectories after the first chunk.
Chunks of steps are timed in turn (A B A B ...), at the same points of the trajectory. CPU time is
what counts, for a busy machine disturbs it least; wall time is given beside it.

The second figure is what the first `bx.solve` of a fresh process spends on compilation.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
CPU = max(os.sched_getaffinity(0))
if __name__ == "__main__":
    os.sched_setaffinity(0, {CPU})

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import get_lapack_funcs

import bilevax as bx
from bilevax.problems import stackelberg

jax.config.update("jax_enable_x64", True)

WEIGHT, LEARNING_RATE, TOL = 20.0, 0.05, 1e-12
GETRF, GETRS = get_lapack_funcs(("getrf", "getrs"), dtype=np.float64)

COMPILE = """
import time
began = time.process_time()
import jax
import bilevax as bx
from bilevax.problems import stackelberg
jax.config.update("jax_enable_x64", True)
zoo = stackelberg()
x0 = zoo.starts(jax.random.key(0), 1)[0]
imported = time.process_time()
bx.solve(zoo.problem, zoo.solver, x0, max_steps=10)
first = time.process_time()
bx.solve(zoo.problem, zoo.solver, x0, max_steps=10)
second = time.process_time()
print(imported - began, first - imported, second - first)
"""


class NumpyPBRL:
    """PBRL with the value penalty and Adam, by hand (Shen, Yang and Chen 2025; spec (M8)).

    The follower is solved by soft policy iteration from the last step's values; an LU is kept for
    the next iteration while it still gains a digit, which beats a new one each time. LAPACK is
    called directly, on Fortran-ordered matrices that it may overwrite: SciPy's wrappers cost much
    at this size.
    """

    def __init__(self, game, x, logits):
        self.states, self.leads, self.follows = game.leader_reward.shape
        S, L, A = self.states, self.leads, self.follows
        self.discount, self.tau = float(game.discount), float(game.tau)
        self.rho = np.asarray(game.initial)
        kernel = np.ascontiguousarray(game.kernel)
        # Views of one array, for batched products without copies.
        self.kernel_by_lead = kernel.reshape(S, L, A * S)
        self.kernel_rows = kernel.reshape(S * L * A, S)
        self.leader_reward = np.asarray(game.leader_reward)
        self.follower_reward = np.asarray(game.follower_reward)
        self.z = np.concatenate([np.ravel(x), np.ravel(logits)])
        self.first, self.second, self.count = np.zeros_like(self.z), np.zeros_like(self.z), 0
        self.values = np.zeros(S)
        self.diagonal = np.arange(S)

    @property
    def x(self):
        """The leader's logits ``[S, L]``."""
        return self.z[: self.states * self.leads].reshape(self.states, self.leads)

    @property
    def logits(self):
        """The follower's logits ``[S, A]``."""
        return self.z[self.states * self.leads :].reshape(self.states, self.follows)

    def factorise(self, kernel, policy):
        """The LU factors of (I - discount P_pi)'; its transpose lies in memory as LAPACK wants."""
        matrix = np.matmul(policy[:, None, :], kernel)[:, 0, :]
        matrix *= -self.discount
        matrix[self.diagonal, self.diagonal] += 1
        lu, pivots, info = GETRF(matrix.T, overwrite_a=True)
        assert info == 0
        return lu, pivots

    def best_response(self, reward, kernel, rows):
        """The follower's optimal values and policy, to the tolerance."""
        values, previous = self.values, 0.0
        factors: Any = None
        for _ in range(50):
            q = reward + self.discount * (rows @ values).reshape(reward.shape)
            top = q.max(1, keepdims=True)
            policy = np.exp((q - top) / self.tau)
            total = policy.sum(1, keepdims=True)
            policy /= total
            backup = (top + self.tau * np.log(total))[:, 0]
            residual = backup - values
            if np.abs(residual).max() <= TOL * np.abs(backup).max():
                self.values = values
                return values, policy
            size = np.abs(residual).max()
            if size > 0.1 * previous:
                factors = self.factorise(kernel, policy)
            previous = size
            values = values + GETRS(*factors, residual, trans=1)[0]
        raise RuntimeError("the follower was not solved")

    def gradient(self):
        """f + weight p, and its gradient in the logits of both."""
        S, L, A = self.states, self.leads, self.follows
        leader, log_policy = softmax(self.x)[0], softmax(self.logits)[1]
        policy = np.exp(log_policy)
        kernel = np.matmul(leader[:, None, :], self.kernel_by_lead).reshape(S, A, S)
        rows = kernel.reshape(S * A, S)
        reward, upper_reward = (
            np.matmul(leader[:, None, :], r)[:, 0, :]
            for r in (self.follower_reward, self.leader_reward)
        )
        best_values, best = self.best_response(reward, kernel, rows)
        best_mass = GETRS(*self.factorise(kernel, best), self.rho)[0]

        factors = self.factorise(kernel, policy)
        mass = GETRS(*factors, self.rho)[0]
        own = (policy * (reward - self.tau * log_policy)).sum(1)
        # One right-hand side: f + weight p is linear in the rewards of this policy.
        joint_reward = (policy * upper_reward).sum(1) + WEIGHT * own
        joint_values = GETRS(*factors, joint_reward, trans=1)[0]
        objective = WEIGHT * (self.rho @ best_values) - mass @ joint_reward

        joint = WEIGHT * reward + upper_reward - WEIGHT * self.tau * log_policy
        joint += self.discount * (rows @ joint_values).reshape(S, A)
        in_logits = -(mass[:, None]) * centred(policy, joint)

        after = self.kernel_rows @ joint_values
        after_best = self.kernel_rows @ best_values
        at_policy = WEIGHT * self.follower_reward + self.leader_reward
        at_policy += self.discount * after.reshape(S, L, A)
        at_best = self.follower_reward + self.discount * after_best.reshape(S, L, A)
        in_leader = np.matmul(at_best, (WEIGHT * best_mass[:, None] * best)[:, :, None])
        in_leader -= np.matmul(at_policy, (mass[:, None] * policy)[:, :, None])
        in_x = centred(leader, in_leader[:, :, 0])
        return objective, np.concatenate([in_x.ravel(), in_logits.ravel()])

    def step(self):
        """One step; returns f + weight p and the gradient's norm before it."""
        objective, gradient = self.gradient()
        self.count += 1
        self.first += 0.1 * (gradient - self.first)
        self.second += 0.001 * (gradient * gradient - self.second)
        first = self.first / (1 - 0.9**self.count)
        second = self.second / (1 - 0.999**self.count)
        self.z -= LEARNING_RATE * first / (np.sqrt(second) + 1e-8)
        return objective, np.sqrt(gradient @ gradient)


def softmax(z):
    z = z - z.max(1, keepdims=True)
    e = np.exp(z)
    total = e.sum(1, keepdims=True)
    return e / total, z - np.log(total)


def centred(policy, gradient):
    """The gradient in the logits: pi (g - <pi, g>)."""
    return policy * (gradient - (policy * gradient).sum(1, keepdims=True))


def check_gradients(game, x, logits):
    """Both gradients at one point agree to 1e-9; returns the largest relative difference."""
    # A step of plain gradient descent at rate 1 shows the gradient, in x and in logits alike.
    descent = bx.PBRL(update=bx.SoftmaxLogits(optax.sgd(1.0)), penalty_weight=WEIGHT)
    policy = jax.nn.softmax(logits, axis=-1)
    after = bx.solve(game, descent, x, policy0=policy, max_steps=1)
    change = np.log(np.asarray(policy)) - np.log(np.asarray(after.policy))
    in_logits = change - change.mean(1, keepdims=True)  # each row of the gradient sums to 0
    ours = np.concatenate([np.ravel(x - after.x), np.ravel(in_logits)])
    _, theirs = NumpyPBRL(game, x, logits).gradient()
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    assert difference < 1e-9, f"the gradients differ by {difference}"
    return difference


@eqx.filter_jit
def advance(estimator, solver, state, steps):
    """The state after so many more steps."""
    return jax.lax.fori_loop(0, steps, lambda _, s: solver.step(estimator, s), state)


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(chunks, steps):
    game = stackelberg(tau=0.01, discount=0.95).problem
    solver = bx.PBRL(update=bx.SoftmaxLogits(optax.adam(LEARNING_RATE)), penalty_weight=WEIGHT)
    x0 = jax.random.normal(jax.random.key(0), game.leader_reward.shape[:2])
    wide = jax.random.normal(jax.random.key(1), (game.leader_reward.shape[0], 5))
    difference = check_gradients(game, x0, wide)

    estimator = bx.Exact(game)
    state = solver.init(estimator, x0, None, jax.random.key(0))
    by_hand = NumpyPBRL(game, x0, np.log(np.asarray(state.policy)))

    def ours():
        nonlocal state
        state = jax.block_until_ready(advance(estimator, solver, state, jnp.asarray(steps)))

    def theirs():
        for _ in range(steps):
            by_hand.step()

    records: dict[str, list[tuple[float, float]]] = {"bilevax": [], "numpy": []}
    drift = float("nan")
    for chunk in range(chunks + 1):
        pair = {"bilevax": timed(ours), "numpy": timed(theirs)}
        if chunk == 0:  # compiled and warm from here on
            drift = float(np.abs(np.asarray(state.x) - by_hand.x).max())
            assert drift < 1e-6, f"after {steps} steps x differs by {drift}"
            continue
        for name, times in pair.items():
            records[name].append(times)
    microseconds = {
        name: {
            kind: 1e6 / steps * statistics.median(times[i] for times in records[name])
            for i, kind in enumerate(("wall", "cpu"))
        }
        for name in records
    }
    ratios = [b[1] / a[1] for a, b in zip(records["bilevax"], records["numpy"], strict=True)]
    return {
        "microseconds_per_step": microseconds,
        "ratio_of_cpu_times": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "largest_relative_gradient_difference": difference,
        "difference_in_x_after_first_chunk": drift,
        "chunks": chunks,
        "steps_per_chunk": steps,
    }


def compile_seconds():
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True
    )
    imported, first, second = map(float, done.stdout.split())
    return {"import_cpu_seconds": imported, "compile_cpu_seconds": first - second}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step.json"))
    options = parser.parse_args()
    result: dict[str, Any] = measure(options.chunks, options.steps) | compile_seconds()
    result["versions"] = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "bilevax": bx.__version__,
    }
    for name, times in result["microseconds_per_step"].items():
        print(f"{name:8} {times['cpu']:7.0f} us CPU, {times['wall']:7.0f} us wall per step")
    low, high = result["ratio_quartiles"]
    print(f"ratio    {result['ratio_of_cpu_times']:.2f} (quartiles {low:.2f}, {high:.2f})")
    print(f"gradients differ by {result['largest_relative_gradient_difference']:.1e} (relative)")
    print(f"compilation of the first solve: {result['compile_cpu_seconds']:.1f} CPU-seconds")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
