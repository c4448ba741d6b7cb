"""Our re-implementations of published methods against published or exact facts.

python benchmarks/reimplementations.py [--seeds 3] [--write] [--only hpgd]

AMD and HPGD on four rooms (Thoma et al. 2024) from near starts, BC-HG on DiscreteToy, M-SoBiRL on
its random reward. ``--write`` puts the table into docs/results.md, between its markers.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import optax
from pages import DOCS, write_between_marks

import bilevax as bx
from bilevax import methods
from bilevax.methods import Request, Rollouts, VisitAverages, build_solver
from bilevax.problems import ZooProblem, discrete_toy, four_rooms, random_reward

jax.config.update("jax_enable_x64", True)

HERE = Path(__file__).parent
ROWS = HERE / "results" / "reimplementations.json"
EPISODES = 8  # of HPGD with clipped SGD, per step
CLIPPED = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5))


@dataclass(frozen=True)
class Fact:
    """One line of the table."""

    method: str
    problem: str
    known: str
    ours: str
    steps: int
    starts: int
    cpu_seconds: float
    values: tuple[float, ...]


def solve(zoo: ZooProblem, solver, steps: int, starts) -> tuple[list, float]:
    """A solution from each start, and the CPU seconds of all, compilation included."""
    began = time.process_time()
    solutions = []
    for number, x0 in enumerate(starts):
        key = jax.random.key(number)
        solution = bx.solve(zoo.problem, solver, x0, max_steps=steps, key=key)
        solutions.append(jax.block_until_ready(solution))
    return solutions, round(time.process_time() - began, 1)


def values(zoo: ZooProblem, solutions) -> tuple[float, ...]:
    """F(x), in the problem's natural sense."""
    return tuple(float(zoo.natural_value(s.best_response_value)) for s in solutions)


def near(zoo: ZooProblem, count: int) -> list:
    """Near starts, one for each seed: w0 ~ N(0, .01^2) in four rooms."""
    return [zoo.starts(jax.random.key(seed), 1)[0] for seed in range(count)]


def sobirl() -> Fact:
    zoo = random_reward()
    starts = zoo.starts(jax.random.key(0), zoo.default_starts)
    solver = build_solver("sobirl", Request(zoo, starts[0]))
    solutions, cpu = solve(zoo, solver, zoo.steps, starts)
    found = values(zoo, solutions)
    shown = f"{max(found):.6f} (worst start)"
    return Fact("M-SoBiRL", "random reward", "1 (exact)", shown, zoo.steps, len(found), cpu, found)


def bc_hg() -> Fact:
    zoo = discrete_toy()
    starts = zoo.starts(jax.random.key(0), zoo.default_starts)
    solver = build_solver("bc-hg", Request(zoo, starts[0]))
    solutions, cpu = solve(zoo, solver, zoo.steps, starts)
    found = tuple(over_150_steps(zoo, s) for s in solutions)
    shown = f"{max(found):.2f} (median {statistics.median(found):.2f})"
    known = "about 27; exact optimum 27.32"
    return Fact(
        "BC-HG, exact expectation",
        "DiscreteToy, 150 steps",
        known,
        shown,
        zoo.steps,
        len(found),
        cpu,
        found,
    )


def over_150_steps(zoo: ZooProblem, solution) -> float:
    """The published measure: the leader's return over 150 steps."""
    from bilevax.problems._discrete_toy import return_over_steps

    return float(return_over_steps(zoo.problem, solution.x, solution.policy))


def amd(beta: float, published: float, independent: float) -> Fact:
    zoo = four_rooms(tau=0.003, beta=beta)
    solutions, cpu = solve(zoo, methods.amd(0.5, 1.0), 4000, near(zoo, 1))
    found = values(zoo, solutions)
    known = f"{published:.2f}; independently {independent:.3f}"
    return Fact(
        "AMD", f"four rooms (.003, {beta:g})", known, f"{found[0]:.3f}", 4000, 1, cpu, found
    )


def hpgd_clipped(seeds: int) -> Fact:
    zoo = four_rooms(tau=0.001, beta=1.0)
    solver = methods.hpgd(CLIPPED, rollouts=Rollouts(EPISODES, 500))
    return hpgd(zoo, "HPGD, clipped SGD", solver, seeds)


def hpgd_averages(seeds: int) -> Fact:
    """After the published experiment; its episodes have the planner's kernel."""
    zoo = four_rooms(tau=0.001, beta=1.0)
    solver = methods.hpgd(CLIPPED, rollouts=VisitAverages())
    return hpgd(zoo, "HPGD, averages over visits", solver, seeds)


def hpgd_default(seeds: int) -> Fact:
    zoo = four_rooms(tau=0.001, beta=1.0)
    request = Request(zoo, near(zoo, 1)[0], steps=10_000)
    return hpgd(zoo, "HPGD, as `--solver hpgd`", build_solver("hpgd", request), seeds)


def hpgd(zoo: ZooProblem, method: str, solver, seeds: int) -> Fact:
    solutions, cpu = solve(zoo, solver, 10_000, near(zoo, seeds))
    found = values(zoo, solutions)
    spread = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
    shown = f"{statistics.mean(found):.3f} ± {spread:.2g}"
    known = ".91 ± .088 (10 seeds)"
    return Fact(method, "four rooms (.001, 1)", known, shown, 10_000, seeds, cpu, found)


def table(facts: list[Fact]) -> str:
    lines = [
        "| method | problem | known | ours | steps | starts | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in facts:
        cells = (f.method, f.problem, f.known, f.ours, f.steps, f.starts, f.cpu_seconds)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write(facts: list[Fact]) -> None:
    """The table into the page, and every start's value beside the other results."""
    write_between_marks(DOCS / "results.md", "reimplementations", table(facts))
    rows = {"rows": [asdict(fact) for fact in facts]}
    ROWS.write_text(json.dumps(rows, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of HPGD")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    measures = {
        "sobirl": sobirl,
        "bc-hg": bc_hg,
        "amd-1": lambda: amd(1.0, 1.00, 1.005),
        "amd-3": lambda: amd(3.0, 0.39, 0.391),
        "amd-5": lambda: amd(5.0, 0.32, 0.320),
        "hpgd-clipped": lambda: hpgd_clipped(arguments.seeds),
        "hpgd-averages": lambda: hpgd_averages(arguments.seeds),
        "hpgd": lambda: hpgd_default(arguments.seeds),
    }
    parser.add_argument("--only", choices=measures, help="measure one line, and keep the others")
    arguments = parser.parse_args()
    kept = json.loads(ROWS.read_text())["rows"] if arguments.only else []
    facts = {(row["method"], row["problem"]): Fact(**row) for row in kept}
    for name, measure in measures.items():
        if arguments.only in (None, name):
            fact = measure()
            facts[fact.method, fact.problem] = fact
            print(fact, flush=True)
            if arguments.write:
                write(list(facts.values()))
    print(table(list(facts.values())))


if __name__ == "__main__":
    main()
