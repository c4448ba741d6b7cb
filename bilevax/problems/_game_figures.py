"""Pictures of zero-sum games: tables of payoffs between both players' policies, and grids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


@dataclass(frozen=True)
class StateTable:
    """One state: a table [actions of player 1, actions of player 2] and both policies there."""

    title: str
    values: np.ndarray
    first: np.ndarray
    second: np.ndarray


def state_tables(
    tables: Sequence[StateTable], *, label: str, title: str, note: str | None = None
) -> Figure:
    """Tables on one colour scale, at most three in a row, the policies as bars on their margins."""
    across = min(3, len(tables))
    down = -(-len(tables) // across)
    figure = Figure(figsize=(3.1 * across + 1.3, 3 * down + 0.9), layout="constrained")
    figure.suptitle(title)
    values = np.concatenate([table.values.ravel() for table in tables])
    norm = Normalize(min(0.0, values.min()), max(0.0, values.max()) or 1.0)
    axes = figure.subplots(
        2 * down,
        2 * across,
        squeeze=False,
        width_ratios=(1, 3) * across,
        height_ratios=(1, 3) * down,
    )
    for ax in axes.ravel():
        ax.set_axis_off()
    centres = []
    for number, table in enumerate(tables):
        row, column = 2 * (number // across), 2 * (number % across)
        block = axes[row : row + 2, column : column + 2]
        _table(block, table, norm)
        centres.append(block[1, 1])
    figure.colorbar(ScalarMappable(norm, "Blues"), ax=centres, label=label, shrink=0.7)
    if note is not None:
        figure.supxlabel(note, fontsize=8)
    return figure


def _table(axes, table: StateTable, norm: Normalize):
    (_, top), (left, centre) = axes
    for ax in (top, left, centre):
        ax.set_axis_on()
    rows, columns = table.values.shape
    centre.imshow(table.values, cmap="Blues", norm=norm, aspect="auto")
    if max(rows, columns) <= 8:
        for (row, column), value in np.ndenumerate(table.values):
            colour = "white" if norm(value) > 0.6 else "black"
            text = dict(ha="center", va="center", fontsize=7, color=colour)
            centre.text(column, row, f"{value:.2g}", **text)
    centre.tick_params(left=False, labelleft=False)
    centre.set_xticks(range(columns))
    centre.set_xlabel("player 2's action", fontsize=8)
    top.bar(range(columns), table.second, color="C1")
    top.set(xlim=(-0.5, columns - 0.5), ylim=(0, 1), xticks=[], yticks=[])
    top.set_title(table.title, fontsize=9)
    left.barh(range(rows), table.first, color="C0")
    left.set(ylim=(rows - 0.5, -0.5), xlim=(1, 0), xticks=[], yticks=range(rows))
    left.set_ylabel("player 1's action", fontsize=8)


@dataclass(frozen=True)
class Grid:
    """One map of a grid: a number per cell, charges (at most 0) or visits."""

    title: str
    values: np.ndarray
    charges: bool


def grids(
    panels: Sequence[Grid],
    *,
    across: int,
    outlined: Sequence[tuple[int, int]],
    letters: Mapping[tuple[int, int], str],
    title: str,
    note: str,
) -> Figure:
    """Maps in rows of ``across``: all charges on one scale, all visits on another."""
    down = -(-len(panels) // across)
    figure = Figure(figsize=(3.1 * across + 1.2, 3 * down + 0.9), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    largest = max((float(p.values.max()) for p in panels if not p.charges), default=1.0)
    lowest = min((float(p.values.min()) for p in panels if p.charges), default=-1.0)
    # Visits differ by orders of magnitude; the root keeps the rarer ones in sight.
    visits = PowerNorm(0.5, 0, largest or 1.0)
    charges = Normalize(lowest or -1.0, 0)
    for ax, panel in zip(axes, panels, strict=False):
        norm, palette = (charges, "Reds_r") if panel.charges else (visits, "Blues")
        image = ax.imshow(panel.values, cmap=palette, norm=norm)
        figure.colorbar(image, ax=ax, shrink=0.8)
        ax.set_title(panel.title, fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
        for row, column in outlined:
            corner = column - 0.5, row - 0.5
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="C1", linewidth=1.2))
        for (row, column), letter in letters.items():
            box = dict(boxstyle="circle,pad=0.15", facecolor="white", edgecolor="0.3", alpha=0.85)
            text = dict(ha="center", va="center", fontsize=8, fontweight="bold", bbox=box)
            ax.text(column, row, letter, **text)
    figure.supxlabel(note, fontsize=8)
    return figure
