"""The table of RLHF on MinAtar, from the folders of its benchmarks.

    bilevax bench rlhf-minatar --seeds 10 --out runs/minatar
    bilevax bench rlhf-labels --seeds 5 --out runs/labels
    bilevax bench rlhf-teachers --seeds 5 --out runs/teachers
    python benchmarks/rlhf_minatar.py runs/minatar runs/labels runs/teachers

Runs are added to ``results/rlhf_minatar.csv``, their returns on the way to
``results/rlhf_minatar_curves.csv``; a run made again takes the old one's place. The table in
``docs/results.md`` is made of all that stand there. Runs with options or budgets of their own are
refused: the table has no column for them.
"""

import argparse
from pathlib import Path
from statistics import median

import pandas as pd
from pages import DOCS, write_between_marks

from bilevax.bench import find_suite, share_ahead
from bilevax.bench.learned import FIRST_SEED
from bilevax.bench.run import read_rows

RESULTS = Path(__file__).parent / "results"
RUNS, CURVES = RESULTS / "rlhf_minatar.csv", RESULTS / "rlhf_minatar_curves.csv"
RUN = ["game", "teacher", "labels", "method", "seed"]
TEACHERS = ("oracle", "mistake", "noisy")


def runs_of(folder):
    """The runs of a benchmark and the points of their curves."""
    runs, curves = [], []
    for row in read_rows(folder):
        refuse_others(folder, row)
        taught = row["method"] != "true-reward"
        run = dict(
            game=row["case"].split(",")[0],
            teacher=row["options"].get("teacher", "oracle") if taught else "none",
            labels=row["options"]["labels"] if taught else 0,
            method=row["method"],
            seed=FIRST_SEED + row["seed"],
        )
        figures = dict(environment_steps=row["environment_steps"], true_return=row["value"])
        runs.append(run | figures | dict(cpu_seconds=round(row["cpu_seconds"], 1)))
        curves += [
            run | dict(environment_steps=step, true_return=value and round(value, 4))
            for step, _, value in row["curve"]
        ]
    if not runs:
        raise SystemExit(f"{folder} holds no runs: give the folder of a finished bilevax bench.")
    return pd.DataFrame(runs), pd.DataFrame(curves)


def refuse_others(folder, row):
    """Ends the program at a run that is no line of the table."""
    if row["error"] is not None:
        again = f"repeat it with bilevax bench --resume {folder} --retry-failed"
        raise SystemExit(f"{folder}: run {row['id']} failed ({row['error']}): {again}.")
    if not row["suite"].startswith("rlhf-"):
        raise SystemExit(f"{folder} is a benchmark of {row['suite']}: give one of rlhf-minatar.")
    suite = find_suite(row["suite"])
    options = {case.name: dict(case.options) for case in suite.cases}
    planned = f"{suite.environment_steps:,} environment steps"
    if row["options"] != options[row["case"]] or row["budget"] != planned or row["start"]:
        raise SystemExit(f"{folder}: run {row['id']} is not by the suite's own options and budget.")


def with_those(old, new):
    """The old lines with the new ones, which take the place of those of the same runs."""
    again = old.set_index(RUN).index.isin(new.set_index(RUN).index)
    return pd.concat([old.loc[~again], new]).sort_values(RUN, kind="stable")


def table(runs):
    """A line for each game, teacher and number of labels."""
    cells = runs.groupby(RUN[:-1], sort=False)
    returns, seconds = cells.true_return.apply(list), cells.cpu_seconds.median()
    seeds = cells.seed.apply(set)
    lines = [
        "| game | teacher | labels | seeds | true-reward | drlhf | pbrl | pbrl / true-reward "
        "| ahead | CPU s of drlhf, pbrl |",
        "|---" * 10 + "|",
    ]
    cases = [case for *case, method in returns.index if method == "pbrl"]
    for case in sorted(cases, key=lambda case: (TEACHERS.index(case[1]), -case[2])):
        own = [(*case, method) for method in ("drlhf", "pbrl")]
        if seeds.get(own[0]) != seeds[own[1]]:
            raise SystemExit(f"{', '.join(map(str, case))}: DRLHF and PBRL need the same seeds.")
        drlhf, pbrl = (returns[one] for one in own)
        true = returns[case[0], "none", 0, "true-reward"]
        row = (
            *(*case, len(pbrl)),
            *(f"{median(one):.2f} [{min(one):.2f}, {max(one):.2f}]" for one in (true, drlhf, pbrl)),
            f"{median(pbrl) / median(true):.0%}",
            f"{share_ahead(pbrl, drlhf):.2f}",
            ", ".join(f"{seconds[one]:.0f}" for one in own),
        )
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    runs, curves = pd.read_csv(RUNS), pd.read_csv(CURVES)
    for folder in parser.parse_args().folders:
        new_runs, new_curves = runs_of(folder)
        runs, curves = with_those(runs, new_runs), with_those(curves, new_curves)
    text = table(runs)
    runs.to_csv(RUNS, index=False)  # after all that may refuse a folder
    curves.to_csv(CURVES, index=False)
    write_between_marks(DOCS / "results.md", "minatar", text)
    print(text)


if __name__ == "__main__":
    main()
