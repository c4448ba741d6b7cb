"""The rows of a benchmark on the disk: a line of JSON each, appended by one process alone."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.files import lock, replacing, to_json

if TYPE_CHECKING:
    import pandas

ROWS = "rows.jsonl"
SPEEDS = "speeds.jsonl"


class Lines:
    """A file of JSON lines, open at its end; what a crash cut short is gone.

    Attributes:
        lines: those that it holds.
    """

    def __init__(self, path: Path):
        self._file = open(path, "ab")  # noqa: SIM115 (closed by __exit__)
        try:
            lock(self._file.fileno(), f"another process is writing to {path}")
        except ValueError:
            self._file.close()
            raise
        self.lines = read_lines(path)
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line, which is on the disk when this returns."""
        self._file.write(to_json(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(line)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; none where there is no file."""
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise ValueError(f"{path} holds a line that is no JSON: it is damaged.") from error


def latest(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each run, in the order of the plan: a run that was repeated has its last."""
    last = {row["number"]: row for row in rows}
    return [last[number] for number in sorted(last)]


def table(rows: Sequence[dict[str, Any]]) -> "pandas.DataFrame":
    """The rows as a tidy table: one run a row, in the order of the plan; options as JSON."""
    import pandas

    kinds = {
        "seed": "int64",
        "start": "int64",
        "steps": "Int64",
        "environment_steps": "Int64",
        "attempts": "Int64",
        "maximize": "boolean",
        **dict.fromkeys(("upper_value", "value", "gap"), "float64"),
        **dict.fromkeys(("cpu_seconds", "spent"), "float64"),
        **dict.fromkeys(("wall_seconds", "compile_seconds"), "float64"),
        **dict.fromkeys(("result", "error"), "string"),
    }
    plain = [
        {
            name: to_json(value) if isinstance(value, dict) else value
            for name, value in row.items()
            if name != "curve"
        }
        for row in sorted(rows, key=lambda row: row["number"])
    ]
    return pandas.DataFrame(plain).astype(kinds)


def write_tables(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes ``rows.parquet``, ``rows.csv`` and ``curves.csv``."""
    frame = table(rows)
    with replacing(folder / "rows.parquet") as file:
        frame.to_parquet(file, index=False)
    with replacing(folder / "rows.csv") as file:
        frame.to_csv(file, index=False)
    with replacing(folder / "curves.csv") as file:
        file.write(b"id,case,method,seed,start,step,cpu_seconds,value\n")
        for line in _curve_lines(rows):
            file.write(line.encode())


def _curve_lines(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    for row in sorted(rows, key=lambda row: row["number"]):
        names = [_quoted(row[n]) for n in ("id", "case", "method", "seed", "start")]
        for point in row["curve"]:
            yield ",".join([*names, *("" if v is None else repr(v) for v in point)]) + "\n"


def _quoted(value: Any) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text
