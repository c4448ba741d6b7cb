"""Runs the code that the documentation shows, so that it stays true.

    python tools/run_readme.py README.md [docs/page.md ...] [examples ...]

Of a Markdown file it runs the blocks fenced as ```python, in order and in one namespace; a fence
that says more than the language (```python no-run) is left out. Of a folder it runs every `*.py`.
Each file runs in a process of its own, in an empty temporary folder. Exits with 1 if one of them
fails, and shows what it printed: a traceback names the file and the line, in Markdown too.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIME_LIMIT_S = 300
ROOT = Path(__file__).resolve().parent.parent
OPENING = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[^`]*)$")


def python_of_markdown(text: str) -> str:
    """Returns the Python blocks of `text` as one program, each line at its line number in `text`.

    Every line outside the blocks is left empty, so a traceback counts the lines of the Markdown.
    """
    program: list[str] = []
    closing = None
    indent = 0
    is_python = False
    for line in text.splitlines():
        kept = ""
        if closing is None:
            opening = OPENING.match(line)
            if opening is not None:
                fence, indent = opening["fence"], len(opening["indent"])
                closing = re.compile(rf"^ *{fence[0]}{{{len(fence)},}} *$")
                is_python = opening["language"].strip() == "python"
        elif closing.match(line):
            closing = None
        elif is_python:
            kept = re.sub(rf"^ {{0,{indent}}}", "", line)
        program.append(kept)
    return "\n".join(program) + "\n"


def run_file(path: Path) -> tuple[int, str]:
    """Returns the exit status and the output of the code of `path`, a Python or Markdown file."""
    # The package need not be installed, and a warning that a reader would see is worth seeing here.
    environment = dict(os.environ, MPLBACKEND="Agg", PYTHONWARNINGS="default")
    environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory(prefix="bilevax-") as folder:
        # Not the folder that the code runs in, which stays empty.
        script, work = Path(folder, "code", path.name), Path(folder, "work")
        script.parent.mkdir()
        work.mkdir()
        text = path.read_text(encoding="utf-8")
        script.write_text(
            python_of_markdown(text) if path.suffix == ".md" else text, encoding="utf-8"
        )
        try:
            done = subprocess.run(
                [sys.executable, str(script)],
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=TIME_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return 1, f"{path}: still running after {TIME_LIMIT_S} s"
    return done.returncode, done.stdout.replace(str(script), str(path))


def files_of(arguments: list[str]) -> list[Path]:
    """Returns the files that the arguments name: themselves, or the `*.py` of a folder."""
    files: list[Path] = []
    for argument in map(Path, arguments):
        found = sorted(argument.glob("*.py")) if argument.is_dir() else [argument]
        missing = [path for path in found if not path.is_file()]
        if missing or not found:
            sys.exit(f"{argument}: no such file, or a folder with no *.py in it")
        files += found
    return files


def main(arguments: list[str]) -> int:
    """Runs the code of the files that the arguments name; returns the exit status."""
    status = 0
    for path in files_of(arguments or ["README.md"]):
        start = time.monotonic()
        failed, output = run_file(path)
        seconds = time.monotonic() - start
        print(f"{'FAILED' if failed else 'ok':6} {path}  {seconds:.1f} s", flush=True)
        if failed:
            status = 1
            print(output.rstrip(), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
