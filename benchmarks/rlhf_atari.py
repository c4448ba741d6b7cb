"""Learning curves of RL from human feedback in Atari games, on a GPU.

    python benchmarks/rlhf_atari.py [--runs pong:pbrl,pong:drlhf,...] [--steps pong=2000000,...]
        [--labels 1200] [--seed 0] [--limit SECONDS] [--out FOLDER] [--draw]

Every run is one command, `bilevax rlhf atari-GAME ...`, printed at its start; all start at once,
on one accelerator and the machine's CPUs, which step the games. ``--steps`` names every game of
``--runs``; a step is four frames. Histories, ended or cut by ``--limit``, are kept in
benchmarks/results/rlhf_atari.json and drawn in docs/images/atari.svg; a run that fails leaves both
as they were. ``--draw`` only draws what is kept.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure

from bilevax.deep.rlhf.folder import read_rlhf_history
from bilevax.io.figures import BEST, KNOWN, OTHER, to_svg
from bilevax.io.files import write_json
from bilevax.io.run_folder import HISTORY

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "rlhf_atari.json"
FIGURE = ROOT / "docs" / "images" / "atari.svg"
RUNS = "pong:true-reward,pong:drlhf,pong:pbrl,beam-rider:pbrl,seaquest:pbrl"
STEPS = "pong=2000000,beam-rider=700000,seaquest=700000"
SPAN = 5  # rounds between two restarts, a tenth of the preset's 50; fewer in runs of 100,000 steps
FEW = 100  # games
COLOURS = {"pbrl": BEST, "drlhf": KNOWN, "true-reward": OTHER}


def commands(arguments):
    """The name of each run, and what is to be typed for it."""
    steps = dict(one.split("=") for one in arguments.steps.split(","))
    for run in arguments.runs.split(","):
        game, algorithm = run.split(":")
        yield (
            run.replace(":", "."),
            f"bilevax rlhf atari-{game} --algorithm {algorithm} --labels {arguments.labels} "
            f"--steps {steps[game]} --seed {arguments.seed} --quiet --json",
        )


def start(name, command, folder):
    """The run as a process; memory is taken as it is needed, so that all fit on one card."""
    print(f"{command} --out {folder / name}", flush=True)
    words = [sys.executable, "-m", *command.split(), "--out", str(folder / name)]
    output = open(folder / f"{name}.log", "wb")  # noqa: SIM115 (lives as long as the process)
    return subprocess.Popen(
        words,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )


def device():
    """The accelerator's name, as its own tool says it; without one the runs take days."""
    if shutil.which("nvidia-smi") is None:
        return "CPU"
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True
    )
    return found.stdout.strip()


def seen(row):
    """Million frames, and the mean return of the games that ended since the last restart.

    All games start anew ten times in a run, and what is still being played then is never counted:
    the points lean towards short games, and a span in which none ended has no point.
    """
    history = row["history"]
    frames, returns = [], []
    for first in range(0, len(history), SPAN):
        span = [line for line in history[first : first + SPAN] if line["episodes"]]
        if len(history) < first + SPAN or not span:
            continue
        games = sum(line["episodes"] for line in span)
        frames.append(4e-6 * history[first + SPAN - 1]["steps"])
        returns.append(sum(line["episodes"] * line["true_return"] for line in span) / games)
    return frames, returns


def ended(row):
    """How many games ended."""
    return sum(line["episodes"] for line in row["history"])


def gather(folder, about):
    """Every run's history, and its result where it came to its end."""
    rows = []
    for name, command in about["commands"].items():
        result = folder / name / "result.json"
        # A run that was cut early may not have begun its history.
        begun = (folder / name / HISTORY).exists()
        history = read_rlhf_history(folder / name) if begun else []
        if not history:
            continue
        first, last = history[0], history[-1]
        seconds = last["seconds"] - first["seconds"]
        outcome = json.loads(result.read_text()) if result.exists() else {}
        rows.append(
            dict(
                game=name.split(".")[0],
                algorithm=name.split(".")[1],
                command=command,
                history=history,
                ended=bool(outcome),
                true_return=outcome.get("true_return"),
                wall_seconds=last["seconds"],
                # From the first round on: before it there is only compilation.
                frames_per_second=4 * (last["steps"] - first["steps"]) / seconds if seconds else 0,
            )
        )
    return dict(about=about, rows=rows)


def figure(found):
    """The games side by side, the algorithms as lines; a run with few ended games says nothing."""
    drawn_rows = [row for row in found["rows"] if ended(row) >= FEW]
    games = list(dict.fromkeys(row["game"] for row in drawn_rows))
    drawn = Figure(figsize=(3.6 * len(games), 3.0), layout="constrained")
    (all_axes,) = drawn.subplots(1, len(games), squeeze=False)
    for game, ax in zip(games, all_axes, strict=True):
        for row in drawn_rows:
            if row["game"] != game:
                continue
            name = row["algorithm"]
            ax.plot(*seen(row), ".-", color=COLOURS[name], label=name, linewidth=1.2)
        ax.set_title(game)
        ax.set_xlabel("million frames, over all policies")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    all_axes[0].set_ylabel("true return of the scored policy")
    FIGURE.write_text(to_svg(drawn, recolour=False))


def show(found):
    """A table in Markdown; returns are those of ``seen``."""
    print("| run | frames | labels | games ended | first return | last | wall | frames/s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found["rows"]:
        history = row["history"]
        _, returns = seen(row)
        first, last = (f"{returns[i]:.1f}" if returns else "-" for i in (0, -1))
        print(
            f"| {row['game']}, {row['algorithm']}{'' if row['ended'] else ' (cut off)'} "
            f"| {4 * history[-1]['steps']:,} | {history[-1].get('labels', 0):,} "
            f"| {ended(row)} | {first} | {last} "
            f"| {row['wall_seconds']:.0f} s | {row['frames_per_second']:,.0f} |"
        )


def run(chosen, folder, limit):
    """All runs side by side until the last ends or ``limit`` seconds are over."""
    about = dict(device=device(), cpus=os.cpu_count(), python=platform.python_version())
    about |= dict(jax=version("jax"), commands=chosen)
    began = time.perf_counter()
    running = {name: start(name, command, folder) for name, command in chosen.items()}
    left = lambda: max(0.0, limit - (time.perf_counter() - began))
    while left() and any(one.poll() is None for one in running.values()):
        time.sleep(1)
    cut = [name for name, one in running.items() if one.poll() is None]
    for name in cut:
        running[name].terminate()  # as Ctrl-C: the round under way ends and is kept
    for name, one in running.items():
        if one.wait() and name not in cut:
            raise SystemExit(f"{name} failed: see {folder / name}.log; nothing was kept.")
    return gather(folder, about | dict(seconds=time.perf_counter() - began))


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", default=RUNS)
    parser.add_argument("--steps", default=STEPS)
    parser.add_argument("--labels", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/atari"))
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds for all runs")
    parser.add_argument("--draw", action="store_true")
    arguments = parser.parse_args()
    if not arguments.draw:
        arguments.out.mkdir(parents=True)
        found = run(dict(commands(arguments)), arguments.out, arguments.limit)
        if not found["rows"]:
            raise SystemExit("No run came to the end of a round; nothing was kept.")
        write_json(RESULTS, found)
    found = json.loads(RESULTS.read_text())
    figure(found)
    show(found)


if __name__ == "__main__":
    main()
