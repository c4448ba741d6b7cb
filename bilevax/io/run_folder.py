"""The folder of a run.

config.json      everything needed to repeat the run
history.jsonl    a line per chunk of steps and start
checkpoint       the states of all starts, while the run is unfinished
solution.npz     the best solution's arrays, and one number per start, by plain names
result.json      the outcome in numbers and words
picture.svg      the problem's own picture of the best solution
report.html      all of it, to be read
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from .._solution import Solution
from .._types import PyTree
from .files import CAN_LOCK, lock, replacing, to_json, write_json
from .verdict import result_name

CONFIG = "config.json"
HISTORY = "history.jsonl"
CHECKPOINT = "checkpoint"
SOLUTION = "solution.npz"
RESULT = "result.json"
PICTURE = "picture.svg"
REPORT = "report.html"
COMPARISON = "comparison.json"
"""In the folder of a comparison, which holds nothing else but its report."""

_NUMBERS = ("upper_value", "penalty", "penalty_weight", "gradient_norm", "seconds")


def check_new_folder(folder: Path) -> None:
    """``ValueError`` unless a new run could be written there; creates nothing."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise ValueError(
                f"{folder} is not empty: name a new folder, or resume the run in it if it holds "
                "an unfinished one."
            )
        existing = folder
    else:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if exists(parent))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "is not a folder" if not existing.is_dir() else "may not be written to"
        raise ValueError(f"{folder} cannot be made: {existing} {reason}.")


def check_unfinished(folder: Path) -> None:
    """``ValueError`` unless the folder holds an unfinished run."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, and so holds no run to resume.")
    if (folder / CHECKPOINT).exists():
        return
    if (folder / SOLUTION).exists():
        raise ValueError(f"the run in {folder} is finished: there is nothing to resume.")
    if not (folder / HISTORY).exists():
        raise ValueError(f"{folder} holds no run: it has neither a {CHECKPOINT} nor a {HISTORY}.")


@contextlib.contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """The folder, made if it is not there, for this process alone while it is at work in it.

    ``ValueError`` where another process is, as far as ``lock`` can tell.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if folder is None or not CAN_LOCK:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, f"another process is at work on the run in {folder}")
        yield
    finally:
        os.close(descriptor)


def open_history(
    folder: Path, length: int, config: dict[str, Any] | None
) -> tuple[BinaryIO, list[dict[str, Any]]]:
    """The history file, open at its end, and its lines; what lies after ``length`` bytes is cut.

    Makes the folder of a new run. Lines written after the last checkpoint belong to steps that a
    resumed run takes again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None and not (folder / CONFIG).exists():
        write_json(folder / CONFIG, config)
    path = folder / HISTORY
    size = path.stat().st_size if path.exists() else 0
    if size < length:
        raise ValueError(
            f"{path} is shorter than when its checkpoint was written: {size} bytes of {length}."
        )
    if path.exists():
        os.truncate(path, length)
    history = read_history(path)
    return open(path, "ab"), history


def history_line(line: dict[str, Any]) -> bytes:
    """One line of the history file."""
    return to_json(line).encode() + b"\n"


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a history file, NaN where a number was missing; none if there is no file.

    A last line that was cut short by a crash is left out.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    try:
        return [_with_nan(json.loads(line)) for line in lines[:-1]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the history of a run.") from error


def save_solutions(folder: Path, best: Solution, solutions: Sequence[Solution], **extra) -> None:
    """Writes ``solution.npz``: x and policy of the best, and one number per start.

    Arguments:
        folder: the folder of the run.
        best: the solution whose ``x`` and ``policy`` are kept; a tree's arrays are ``x.0``, ``x.1``
            or ``policy.name``.
        solutions: of all starts.
        extra: more arrays by name, or others for ``x`` and ``policy``.
    """
    arrays = _named("x", best.x) | _named("policy", best.policy)
    arrays["best_response_values"] = np.asarray([float(s.best_response_value) for s in solutions])
    arrays["gaps"] = np.asarray([float(s.gap) for s in solutions])
    arrays["results"] = np.asarray([result_name(s) for s in solutions])
    with replacing(folder / SOLUTION) as file:
        np.savez(file, allow_pickle=False, **(arrays | extra))


def exists(path: Path) -> bool:
    """Whether anything is there, a broken link included."""
    return os.path.lexists(path)


def _named(name: str, tree: PyTree) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join([name, *map(_part, path)]): np.asarray(leaf) for path, leaf in leaves}


def _part(entry):
    return str(getattr(entry, "idx", getattr(entry, "key", getattr(entry, "name", entry))))


def _with_nan(line):
    return line | {name: np.nan for name in _NUMBERS if line[name] is None}
