"""Pictures shared by the zoo: labelled heat maps of policies, and maps of grids with arrows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_MANY_ROWS = 24
"""Above this many rows or columns, labels and numbers would overlap and are thinned out."""


@dataclass(frozen=True)
class HeatMap:
    """One table: ``values`` [rows, columns], its title, and what rows and columns are."""

    title: str
    values: np.ndarray
    rows: str
    columns: str
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    probabilities: bool = True


def heat_maps(panels: Sequence[HeatMap], *, title: str) -> Figure:
    """Tables side by side: probabilities share one scale from 0 to 1, the rest have their own."""
    rows = max(len(panel.row_labels) for panel in panels)
    columns = [len(panel.column_labels) for panel in panels]
    figure = Figure(
        figsize=(2.2 + sum(max(2.4, 0.62 * c) + 1.1 for c in columns), 1.7 + min(6, 0.45 * rows)),
        layout="constrained",
    )
    figure.suptitle(title)
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=columns)[0]
    for ax, panel in zip(axes, panels, strict=True):
        limits = dict(vmin=0, vmax=1) if panel.probabilities else {}
        image = ax.imshow(panel.values, aspect="auto", cmap="Blues", **limits)
        figure.colorbar(image, ax=ax, label="probability" if panel.probabilities else None)
        ax.set_title(panel.title)
        ax.set_xlabel(panel.columns)
        ax.set_ylabel(panel.rows)
        _ticks(ax.set_xticks, panel.column_labels)
        _ticks(ax.set_yticks, panel.row_labels)
        if max(panel.values.shape) <= _MANY_ROWS:
            _numbers(ax, panel.values, image)
    return figure


def _ticks(setter, labels):
    step = -(-len(labels) // _MANY_ROWS)
    setter(np.arange(0, len(labels), step), [labels[i] for i in range(0, len(labels), step)])


def _numbers(ax, values, image):
    for (row, column), value in np.ndenumerate(values):
        dark = image.norm(value) > 0.6
        ax.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )


@dataclass(frozen=True)
class GridMap:
    """One map: a colour, a policy and how often it is visited, per cell; letters at some cells."""

    title: str
    colour: np.ndarray
    policy: np.ndarray
    letters: dict[tuple[int, int], str]
    outlined: Sequence[tuple[int, int]] = ()
    silent: Sequence[tuple[int, int]] = ()


def grid_maps(
    panels: Sequence[GridMap],
    *,
    shape: tuple[int, int],
    cells: Sequence[tuple[int, int]],
    moves: Sequence[tuple[int, int]],
    colour_label: str,
    title: str,
    note: str,
) -> Figure:
    """Maps side by side on one colour scale.

    Every free cell holds one arrow per action, as long as the action is likely; ``cells[s]`` is the
    (row, column) of state s, ``moves[a]`` the step of action a, and all other cells are walls.
    """
    rows, columns = shape
    scale = min(0.5, 9 / columns)
    figure = Figure(
        figsize=(len(panels) * (columns * scale + 0.5) + 1.2, rows * scale + 1.6),
        layout="constrained",
    )
    figure.suptitle(title)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    largest = max(float(np.max(np.abs(panel.colour))) for panel in panels) or 1.0
    norm = TwoSlopeNorm(0, -largest, largest)
    figure.colorbar(ScalarMappable(norm, "RdBu"), ax=axes, label=colour_label, shrink=0.8)
    for ax, panel in zip(axes, panels, strict=True):
        picture = np.full(shape, np.nan)
        picture[tuple(np.transpose(cells))] = panel.colour
        ax.set_facecolor("0.25")
        ax.imshow(picture, cmap="RdBu", norm=norm)
        ax.set_title(panel.title)
        ax.set_xticks(range(columns))
        ax.set_yticks(range(rows))
        ax.tick_params(length=0, labelsize=7)
        _arrows(ax, panel, cells, moves)
        _letters(ax, panel)
    figure.supxlabel(note, fontsize=8)
    return figure


def _arrows(ax: Axes, panel: GridMap, cells, moves):
    shown = [s for s, cell in enumerate(cells) if cell not in panel.silent]
    for action, (down, right) in enumerate(moves):
        length = 0.42 * panel.policy[shown, action]
        long_enough = length > 0.06
        row, column = np.transpose([cells[s] for s in shown])
        ax.quiver(
            column[long_enough],
            row[long_enough],
            (right * length)[long_enough],
            (down * length)[long_enough],
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.004,
            headwidth=4,
            headlength=4,
            headaxislength=3.5,
        )


def _letters(ax: Axes, panel: GridMap):
    for (row, column), letter in panel.letters.items():
        box = dict(boxstyle="circle,pad=0.15", facecolor="white", edgecolor="black", alpha=0.85)
        ax.text(
            column - 0.28,
            row - 0.28,
            letter,
            ha="center",
            va="center",
            fontsize=7,
            fontweight="bold",
            bbox=box,
        )
    for row, column in panel.outlined:
        frame = Rectangle(
            (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="C1", linewidth=2.5
        )
        ax.add_patch(frame)
