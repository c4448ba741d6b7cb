"""From nothing to a certified answer: problems of the zoo as they come, in new processes."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .common import Answer, shown, table

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = (
    "bimatrix",
    "discrete-toy",
    "reward-design",
    "stackelberg",
    "incentive-game",
    "preferences",
    "four-rooms",
)
CODE = """
import json, sys, time
import jax
jax.config.update("jax_enable_x64", True)
import bilevax as bx
from bilevax import problems
zoo = getattr(problems, sys.argv[1].replace("-", "_"))()
starts = zoo.starts(jax.random.key(0), zoo.default_starts)
solver = zoo.annealed(zoo.solver, zoo.steps)
run = bx.run(zoo.problem, solver, starts, max_steps=zoo.steps)
values = sorted(float(zoo.natural_value(v)) for v in run.best_response_values)
print(json.dumps(dict(
    starts=zoo.default_starts,
    steps=zoo.steps,
    value=float(zoo.natural_value(run.best.best_response_value)),
    lowest=values[0],
    highest=values[-1],
    gap=float(run.best.gap),
    certified=bool(run.best.result == bx.RESULTS.successful),
    compile_seconds=run.compile_seconds,
)))
"""


def answer() -> Answer:
    """Seconds of a whole process, import and compilation included, and its certified answer."""
    rows = [_measured(name) for name in PROBLEMS]
    lines = [
        [
            f"`{r['problem']}`",
            r["starts"],
            f"{r['steps']:,}",
            f"{r['value']:.4f}",
            f"{r['lowest']:.4f} to {r['highest']:.4f}",
            shown(r["gap"]),
            f"{r['wall_seconds']:.0f}",
            f"{r['cpu_seconds']:.0f}",
            f"{r['compile_seconds']:.1f}",
        ]
        for r in rows
    ]
    header = [
        "problem",
        "starts",
        "steps",
        "F",
        "F of the starts",
        "gap",
        "wall s",
        "CPU s",
        "wall s compiling",
    ]
    return Answer(table(header, lines), rows)


def _measured(name):
    # A cache of compiled programs would hide what the first run costs.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["PYTHONPATH"] = str(ROOT)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", CODE, name],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads(done.stdout.strip().splitlines()[-1])
    wall = time.perf_counter() - began
    return dict(problem=name, wall_seconds=wall, cpu_seconds=cpu, **found)
