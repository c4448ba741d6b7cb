"""Measured answers to what readers of Shen, Yang and Chen (2025) ask.

python benchmarks/questions.py [--only NAME ...] [--write]

Every question is a module of ``answers``, all on small instances: the whole takes about ten
CPU-minutes. ``--write`` puts tables between the markers of docs/questions.md and docs/choosing.md,
figures into docs/images, and every row into benchmarks/results/questions.json.
"""

import argparse
import importlib
import json
import os
import platform
import time
from pathlib import Path

# One core: times are those of one processor, however many others are busy.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
from answers.common import Answer
from pages import DOCS, write_between_marks

import bilevax as bx

jax.config.update("jax_enable_x64", True)

HERE = Path(__file__).parent
PAGES = [DOCS / "questions.md", DOCS / "choosing.md"]
RECORD = HERE / "results" / "questions.json"
NAMES = (
    "implicit",
    "bellman",
    "weight",
    "oracle",
    "tracking",
    "zero_sum",
    "constrained",
    "unbounded",
    "acceleration",
    "practice",
    "robustness",
)


def write(name: str, answer: Answer) -> None:
    """The answer into its page, its figures beside it, its rows into the record."""
    (page,) = (page for page in PAGES if f"<!-- {name}:begin -->" in page.read_text())
    write_between_marks(page, name, answer.markdown)
    for figure_name, figure in answer.figures.items():
        figure.savefig(DOCS / "images" / f"{figure_name}.svg", metadata={"Date": None})
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"answers": {}}
    record["made_with"] = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "bilevax": bx.__version__,
        "device": jax.devices()[0].device_kind,
    }
    record["answers"][name] = answer.rows
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--write", action="store_true", help="into the pages and the record")
    arguments = parser.parse_args()
    for name in arguments.only:
        began = time.process_time()
        answer = importlib.import_module(f"answers.{name}").answer()
        seconds = time.process_time() - began
        print(f"\n{name}: {seconds:.0f} CPU-seconds\n\n{answer.markdown}", flush=True)
        if arguments.write:
            write(name, answer)


if __name__ == "__main__":
    main()
