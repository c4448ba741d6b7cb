"""The program: its commands, list and report among them."""

from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.table import Table

from .. import __version__
from ..io.report import write_report
from ..tasks.catalogue import ZOO, first_sentence
from ..tasks.settings import SOLVERS
from .bench import bench, is_bench, list_bench, write_bench_page
from .compare import compare
from .rlhf import is_rlhf, list_rlhf, rlhf, watch, write_rlhf_page
from .running import need
from .solve import solve

app = typer.Typer(
    help="Bilevel reinforcement learning: solve, compare and look at problems.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        print(f"bilevax {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Bilevel reinforcement learning: solve, compare and look at problems."""
    # Tabular work wants float64. The library leaves that choice to its user; here it is taken.
    jax.config.update("jax_enable_x64", True)


@app.command("list")
def list_() -> None:
    """List the problems and the solvers, and what can be learned from preferences."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("[underline]Problems")
    for name, constructor in ZOO.items():
        table.add_row(name, first_sentence(constructor))
    table.add_row("FILE.py:FUNCTION", "A problem of your own: what the function returns.")
    table.add_row("")
    table.add_row("[underline]Solvers")
    for name, words in SOLVERS.items():
        table.add_row(name, words[0].upper() + words[1:] + ".")
    list_rlhf(table)
    list_bench(table)
    Console().print(table, highlight=False)
    print("\n  Try: bilevax solve discrete-toy --out runs/toy")
    print("       bilevax rlhf moving-dot --out runs/dot")
    print("       bilevax bench discrete-toy --out runs/bench")


app.command()(solve)
app.command()(compare)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="The folder of a run.")],
) -> int:
    """Write report.html again from the folder of a run, finished or not."""
    if is_bench(directory):
        return write_bench_page(directory)
    need("matplotlib")
    print(write_rlhf_page(directory) if is_rlhf(directory) else write_report(directory))
    return 0


app.command()(rlhf)
app.command()(watch)
app.command()(bench)
