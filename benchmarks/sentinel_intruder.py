"""Sentinel-Intruder (B7) by quasi-Newton descent on F: F, certified gap, time and memory.

    python benchmarks/sentinel_intruder.py [--size 20] [--steps 15]

One start, without charges; every step is one exact equilibrium and its gradient. 20 x 20 cells are
160,000 joint states and 800 charges. The value without any charge stands beside F.
"""

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp

import bilevax as bx
from bilevax.problems import sentinel_intruder

jax.config.update("jax_enable_x64", True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sentinel.json"))
    options = parser.parse_args()
    zoo = sentinel_intruder(size=options.size)
    x0 = jnp.zeros((2, options.size**2))
    began, cpu = time.perf_counter(), time.process_time()
    solver = bx.QuasiNewton()
    estimator = bx.Exact(zoo.problem)
    step = eqx.filter_jit(solver.step)
    state = solver.init(estimator, x0, None, jax.random.key(0))
    values = []
    for k in range(options.steps):
        state = step(estimator, state)
        values.append(float(state.progress.upper_value))
        print(f"step {k:3} F {values[-1]:.5f} {time.perf_counter() - began:6.0f} s", flush=True)
    solution = bx.solve(zoo.problem, solver, x0, state=state, max_steps=options.steps)
    result = {
        "size": options.size,
        "evaluations": options.steps,
        "without_charges": values[0],
        "best_response_value": float(solution.best_response_value),
        "gap": float(solution.gap),
        "successful": bool(solution.result == bx.RESULTS.successful),
        "wall_seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "bilevax": bx.__version__,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
