"""Sampled PBRL beside exact PBRL on B1 and B2, and the checks of its estimates.

python benchmarks/sampled.py [--problems stackelberg four_rooms] [--seeds 1] [--scale 1.0]

Everything sampled is evaluated by the exact core: F is the upper value at the exact best response
(larger is better), the gap that of the policy found. Environment steps count every episode, those
that only the tracked response learns from included. ``--scale`` shortens or lengthens the runs.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
from methods import RESULTS
from scipy.stats import chi2

import bilevax as bx
from bilevax.deep import sampled as sm
from bilevax.problems import ZooProblem, four_rooms, stackelberg

jax.config.update("jax_enable_x64", True)


@dataclass(frozen=True)
class Case:
    """A problem, and how it is sampled and solved."""

    name: str
    zoo: ZooProblem
    options: dict = field(default_factory=dict)
    weights: tuple[float, float] = (3.0, 30.0)
    rate: float = 0.1
    steps: int = 400


@dataclass(frozen=True)
class Row:
    """One seed of one problem."""

    problem: str
    seed: int
    start: float
    sampled: float
    exact_same_solver: float
    exact_pbrl: float
    hypergradient: float
    gap: float
    gap_interval: tuple[float, float]
    upper_value: float
    upper_interval: tuple[float, float]
    tracked_gap: float
    environment_steps: int
    cut: float
    wall_seconds: float
    cpu_seconds: float


def cases() -> dict[str, Case]:
    return {
        "stackelberg": Case(
            "stackelberg, 100 states, tau .1",
            stackelberg(tau=0.1),
            dict(streams=64, episodes=32, trace=0.7, decay=1.0, sweeps=1, window=300.0),
            rate=0.07,
            steps=600,
        ),
        "four_rooms": Case(
            "four rooms, tau .005, beta 1",
            four_rooms(),
            dict(streams=64, episodes=8, trace=0.9, decay=0.7, sweeps=10, window=500.0),
            rate=0.05,
            weights=(10.0, 1000.0),
            steps=1200,
        ),
    }


def solver(case: Case, steps: int) -> bx.PBRL:
    """PBRL along the gradients as they come, its rate falling to zero."""
    rate = optax.cosine_decay_schedule(case.rate, steps)
    weight = bx.Homotopy(*case.weights, max(1, steps * 2 // 3))
    return bx.PBRL(penalty_weight=weight, update=bx.SoftmaxLogits(optax.adam(rate)))


def compare(case: Case, seed: int, scale: float) -> Row:
    """The row of one start."""
    zoo, steps = case.zoo, max(1, round(case.steps * scale))
    problem = zoo.problem
    x0 = zoo.starts(jax.random.key(seed), 1)[0]
    method = solver(case, steps)
    estimator = sm.Sampled(problem, **case.options)
    exact = bx.Exact(problem)
    value = lambda solution: float(zoo.natural_value(solution.best_response_value))
    wall, cpu = time.perf_counter(), time.process_time()
    # A counter-based generator of the machine is twice as fast as JAX's own on a CPU.
    key = jax.random.key(seed, impl="rbg")
    found = jax.block_until_ready(
        bx.solve(estimator, method, x0, key=key, max_steps=steps, gap_tol=jnp.inf)
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    truth = exact.certify(found.x, found.policy)
    mdp = problem.lower(found.x)
    tables = found.state.memory
    tracked = estimator.response(estimator.simulator.at(found.x), tables)
    same = bx.solve(problem, method, x0, max_steps=steps)
    ours = bx.solve(problem, zoo.annealed(zoo.solver, zoo.steps), x0, max_steps=zoo.steps)
    implicit = bx.solve(problem, bx.ImplicitGradient(), x0, max_steps=1000)
    start = exact.certify(x0, problem.lower(x0).uniform_policy())
    ends = lambda interval: (float(interval.lower), float(interval.upper))
    return Row(
        problem=case.name,
        seed=seed,
        start=float(zoo.natural_value(start.upper_at_best_response)),
        sampled=float(zoo.natural_value(truth.upper_at_best_response)),
        exact_same_solver=value(same),
        exact_pbrl=value(ours),
        hypergradient=value(implicit),
        gap=float(truth.gap.absolute),
        gap_interval=ends(found.gap),
        upper_value=float(truth.upper),
        upper_interval=ends(found.upper_value),
        tracked_gap=float(bx.duality_gap(mdp, tracked.reshape(mdp.reward.shape)).absolute),
        environment_steps=int(tables.steps),
        cut=float(tables.cut),
        wall_seconds=round(wall, 1),
        cpu_seconds=round(cpu, 1),
    )


def estimates(zoo, x, policies, tables, keys, trace=1.0, episodes=8):
    """Per key: the gradient in x of the follower's return, and of the penalty's two returns."""
    simulator = sm.as_simulator(zoo.problem)
    length = sm.buffer_length(float(zoo.problem.discount), episodes)

    @jax.jit
    def every(keys):
        def one(key):
            dynamics = simulator.at(x)
            options = dict(streams=64, episodes=episodes, max_steps=length)
            pair = sm.rollout(dynamics, policies, key, **options)
            own, best = (
                sm.returns(dynamics, pair, sm.FOLLOWER, tables, policy=i, trace=trace)
                for i in (0, 1)
            )
            apart = [
                sm.returns(
                    dynamics,
                    sm.rollout(
                        dynamics, policies[i : i + 1], jax.random.fold_in(key, i), **options
                    ),
                    sm.FOLLOWER,
                    tables,
                    trace=trace,
                )
                for i in (0, 1)
            ]
            in_x = lambda found: sm.gradient_in_x(simulator, x, found)
            alone = [in_x(found) for found in apart]
            return (
                alone[0],
                alone[1] - alone[0],
                in_x(best) - in_x(own),
                jnp.mean(sm.value_samples(dynamics, own)),
            )

        return jax.lax.map(one, keys)

    return every(keys)


def checks(samples: int = 200) -> dict:
    """Unbiasedness and variance on a random game of 20 states, near the best response."""
    zoo = stackelberg(states=20, leader_actions=3, follower_actions=3, tau=0.1)
    x = zoo.starts(jax.random.key(1), 2)[1]
    mdp = zoo.problem.lower(x)
    best = bx.best_responses(mdp)
    tilt = 0.2 * jax.random.normal(jax.random.key(2), best.policy.shape)
    own = jax.nn.softmax(jnp.log(best.policy) + tilt)
    policies, table = jnp.stack([own, best.policy]), bx.q_values(mdp, best.policy)
    keys = jax.random.split(jax.random.key(3, impl="rbg"), samples)
    gradient = lambda policy: jax.grad(lambda z: bx.expected_return(zoo.problem.lower(z), policy))(
        x
    )
    exact = gradient(own), gradient(best.policy) - gradient(own)
    exact = (exact[0], exact[1], exact[1], bx.expected_return(mdp, own))
    with_table = estimates(zoo, x, policies, table, keys)
    without = estimates(zoo, x, policies, 0 * table, keys)
    short = estimates(zoo, x, policies, table, keys, trace=0.7)
    spread = lambda z: float(np.sum(np.var(np.asarray(z).reshape(samples, -1), axis=0, ddof=1)))
    names = (
        "gradient in x of V",
        "difference, independent episodes",
        "difference, shared episodes",
        "V",
    )
    return {
        name: {
            "p_value": joint_p_value(a, e),
            "variance_without_table_over_with": spread(b) / spread(a),
            "variance_trace_1_over_trace_.7": spread(a) / spread(c),
            "noise_over_signal": spread(a) ** 0.5 / float(jnp.linalg.norm(jnp.atleast_1d(e))),
        }
        for name, a, b, c, e in zip(names, with_table, without, short, exact, strict=True)
    } | {"variance_independent_over_shared": spread(with_table[1]) / spread(with_table[2])}


def joint_p_value(samples, exact) -> float:
    """Of the chi-square test that the samples' mean is exact, over the directions with noise."""
    samples = np.asarray(samples).reshape(len(samples), -1)
    error = samples.mean(0) - np.asarray(exact).ravel()
    covariance = np.cov(samples.T).reshape(error.size, -1) / len(samples)
    scale, axes = np.linalg.eigh(covariance)
    noisy = scale > 1e-10 * scale[-1]
    statistic = np.sum((axes[:, noisy].T @ error) ** 2 / scale[noisy])
    dimension, count = int(noisy.sum()), len(samples)
    # Hotelling's T^2, to the chi-square distribution by its mean.
    return float(chi2.sf(statistic * (count - dimension - 2) / (count - 1), dimension))


def coverage(repeats: int = 200) -> dict:
    """How often 99% intervals hold the exact f and the exact gap, on a small game."""
    zoo = stackelberg(states=5, leader_actions=2, follower_actions=2, tau=0.2, discount=0.8)
    x = zoo.starts(jax.random.key(0), 1)[0]
    estimator = sm.Sampled(zoo.problem, streams=32, certificate_batches=8)
    policy, tables = estimator.init(bx.PolicyIteration(), x, jax.random.key(0))
    for i in range(20):
        key = jax.random.key(100 + i)
        tables = estimator.respond(bx.PolicyIteration(), x, policy, tables, key)
    truth = bx.Exact(zoo.problem).certify(x, policy)
    certify = jax.jit(lambda key: estimator.certify(x, policy, tables, key))
    found = jax.lax.map(certify, jax.random.split(jax.random.key(7, impl="rbg"), repeats))
    inside = lambda i, exact: float(jnp.mean((i.lower <= exact) & (exact <= i.upper)))
    gap = found.gap.absolute
    return {
        "upper_value": inside(found.upper, truth.upper),
        "gap": inside(gap, truth.gap.absolute),
        "gap_exact": float(truth.gap.absolute),
        "gap_interval_median": [float(jnp.median(gap.lower)), float(jnp.median(gap.upper))],
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--problems", nargs="*", default=list(cases()))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    made = {"python": platform.python_version(), "jax": jax.__version__, "bilevax": bx.__version__}
    made["device"] = jax.devices()[0].device_kind
    result = {"made_with": made, "scale": arguments.scale, "rows": []}
    result["estimates"], result["coverage"] = checks(), coverage()
    print(json.dumps({k: result[k] for k in ("estimates", "coverage")}, indent=1), flush=True)
    print("| problem | seed | start | sampled | exact, same solver | exact PBRL | hypergradient |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.problems:
        for seed in range(arguments.seeds):
            row = compare(cases()[name], seed, arguments.scale)
            result["rows"].append(asdict(row))
            columns = (row.start, row.sampled, row.exact_same_solver, row.exact_pbrl)
            values = " | ".join(f"{v:.3f}" for v in (*columns, row.hypergradient))
            print(f"| {row.problem} | {seed} | {values} |")
            print(
                f"  {row.environment_steps:.3g} steps, {row.cpu_seconds} CPU s; {row}", flush=True
            )
            path = RESULTS / "sampled.json"
            path.write_text(json.dumps(result, indent=1))
    print(f"\nwritten to {RESULTS / 'sampled.json'}")


if __name__ == "__main__":
    main()
