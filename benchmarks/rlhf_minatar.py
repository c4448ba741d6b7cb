"""PBRL, DRLHF and RL on the true reward in four MinAtar games, learned from preferences.

    python benchmarks/rlhf_minatar.py [--part table|labels|teachers] [--games breakout,...]
        [--seeds 5] [--steps 1000000] [--workers 2]

Every algorithm has the same environment steps (counted over both of PBRL's policies), the same
labels, networks and learner; the scored policy is the one that answers queries, pi_y for PBRL. A
return is the mean over 64 fresh episodes, each environment's first, of the sampled policy; tables
hold the median, smallest and largest seed. The presets were chosen on other seeds: the learner on
the true reward, the reward model, segments and schedule on DRLHF, and on PBRL the penalty weight,
the tracker's share and its margin. Runs already in benchmarks/results/rlhf_minatar.json are kept:
a part that was stopped goes on where it was. ``--fresh`` starts anew.

    table     all games and algorithms, 1,000 oracle labels
    labels    250 and 500 labels, PBRL and DRLHF
    teachers  a mistake in ten answers, and a noisy teacher (beta 1), PBRL and DRLHF
"""

import argparse
import json
import platform
import time
from pathlib import Path

import jax

from bilevax.deep.presets import preset
from bilevax.deep.rlhf.run import run_rlhf
from bilevax.deep.teacher import ScriptedTeacher

FILE = Path(__file__).parent / "results" / "rlhf_minatar.json"
GAMES = ("breakout", "asterix", "freeway", "space-invaders")
ALGORITHMS = ("true-reward", "drlhf", "pbrl")
FIRST_SEED = 100  # presets were chosen on seeds 0 to 7 at most
TEACHERS = {
    "oracle": ScriptedTeacher.oracle(),
    "mistake": ScriptedTeacher.mistaken(0.1),
    "noisy": ScriptedTeacher.noisy(1.0),
}
LEARNED = ("drlhf", "pbrl")
PARTS = {
    "table": [(name, 1000, "oracle") for name in ALGORITHMS],
    "labels": [(name, labels, "oracle") for labels in (250, 500) for name in LEARNED],
    "teachers": [(name, 1000, teacher) for teacher in ("mistake", "noisy") for name in LEARNED],
}


def measure(case, workers):
    found = preset(f"minatar-{case['game']}")
    setup = found.setup(steps=case["steps"], labels=case["labels"])
    algorithm = found.algorithm(case["algorithm"], setup)
    wall, cpu = time.perf_counter(), time.process_time()
    run = run_rlhf(algorithm, case["seeds"], teacher=TEACHERS[case["teacher"]], workers=workers)
    curves = [
        [line["true_return"] for line in run.history if line["seed"] == one.seed]
        for one in run.seeds
    ]
    return case | dict(
        median=run.true_return,
        returns=[one.true_return for one in run.seeds],
        reward_accuracy=[one.reward_accuracy for one in run.seeds],
        steps_taken=[one.steps for one in run.seeds],
        faults=[one.fault for one in run.seeds],
        curves=curves,
        wall_seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
    )


def show(rows):
    """The tables of docs/results.md, in Markdown."""
    names = ("game", "teacher", "labels", "steps")
    case = lambda row: (*(row[name] for name in names), len(row["seeds"]))
    known = {(*case(row), row["algorithm"]): row for row in rows}
    print(f"| {' | '.join(names)} | seeds | {' | '.join(ALGORITHMS)} |")
    print("|---" * (len(names) + 1 + len(ALGORITHMS)) + "|")
    for case in dict.fromkeys(key[:-1] for key in known):
        cells = [words(known.get((*case, name))) for name in ALGORITHMS]
        print(f"| {' | '.join(map(str, case))} | {' | '.join(cells)} |")
    wall, cpu = (sum(r[f"{kind}_seconds"] for r in rows) / 60 for kind in ("wall", "cpu"))
    print(f"\nwall {wall:.1f} min, CPU {cpu:.1f} min")


def words(row):
    if row is None:
        return ""
    returns = row["returns"]
    return f"{row['median']:.2f} [{min(returns):.2f}, {max(returns):.2f}]"


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", default="table", choices=list(PARTS))
    parser.add_argument("--games", default=",".join(GAMES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    known = json.loads(FILE.read_text()) if FILE.exists() and not arguments.fresh else {}
    rows = known.get("rows", [])
    seeds = list(range(FIRST_SEED, FIRST_SEED + arguments.seeds))
    for game in arguments.games.split(","):
        for name, labels, teacher in PARTS[arguments.part]:
            case = dict(game=game, algorithm=name, labels=labels, teacher=teacher)
            case |= dict(steps=arguments.steps, seeds=seeds)
            if any(case.items() <= row.items() for row in rows):
                continue
            row = measure(case, arguments.workers)
            rows.append(row)
            print(f"{game} {name} {labels} {teacher}: {words(row)}", flush=True)
            about = dict(
                jax=jax.__version__,
                python=platform.python_version(),
                machine=platform.machine(),
            )
            FILE.write_text(json.dumps(dict(about=about, rows=rows), indent=1) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
