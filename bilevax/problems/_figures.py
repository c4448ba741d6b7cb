"""Pictures shared by the zoo: labelled heat maps of policies, and maps of grids with arrows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
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
        if not panel.probabilities or ax is axes[-1]:
            figure.colorbar(image, ax=ax, label="probability" if panel.probabilities else None)
        ax.set_title(panel.title)
        ax.set_xlabel(panel.columns)
        ax.set_ylabel(panel.rows)
        _ticks(ax.set_xticks, panel.column_labels)
        _ticks(ax.set_yticks, panel.row_labels)
        if max(panel.values.shape) <= _MANY_ROWS:
            _numbers(ax, panel.values, image, ".2f" if panel.probabilities else ".2g")
    return figure


def _ticks(setter, labels):
    step = -(-len(labels) // _MANY_ROWS)
    setter(np.arange(0, len(labels), step), [labels[i] for i in range(0, len(labels), step)])


def _numbers(ax, values, image, digits):
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if image.norm(value) > 0.6 else "black"
        text = dict(ha="center", va="center", fontsize=8, color=colour)
        ax.text(column, row, f"{value:{digits}}", **text)


def outcome_map(
    leader: np.ndarray,
    follower: np.ndarray,
    payoffs: tuple[np.ndarray, np.ndarray],
    *,
    title: str,
) -> Figure:
    """A bimatrix game: how often each cell is played, and what it pays."""
    joint = leader[:, None] * follower
    rows, columns = joint.shape
    figure = Figure(figsize=(3.2 + 1.2 * columns, 1.8 + 0.8 * rows), layout="constrained")
    figure.suptitle(title)
    ax = figure.subplots()
    image = ax.imshow(joint, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=ax, label="probability of the outcome")
    ax.set_xticks(range(columns), [f"{a}\nprob. {p:.2f}" for a, p in enumerate(follower)])
    ax.set_yticks(range(rows), [f"{a}\nprob. {p:.2f}" for a, p in enumerate(leader)])
    ax.set_xlabel("follower's action")
    ax.set_ylabel("leader's action")
    for row, column in np.ndindex(rows, columns):
        colour = "white" if joint[row, column] > 0.6 else "black"
        text = f"leader {payoffs[0][row, column]:g}\nfollower {payoffs[1][row, column]:g}"
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    return figure


def bars(rows: Mapping[str, np.ndarray], *, marked: Sequence[int], title: str) -> Figure:
    """One row of bars over states for each array; states in ``marked`` stand out."""
    figure = Figure(figsize=(9, 1 + 1.7 * len(rows)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (label, values) in zip(axes, rows.items(), strict=True):
        ax.vlines(np.arange(values.size), 0, values, color="0.45")
        ax.vlines(np.asarray(marked), 0, values[np.asarray(marked)], color="C1", lw=2.5)
        ax.axhline(0, color="black", lw=0.6)
        ax.set_ylabel(label)
    axes[-1].set_xlabel("state (orange: to be avoided)")
    return figure


@dataclass(frozen=True)
class GridMap:
    """One map: a colour, a policy and the visits per state, and letters at some cells.

    ``outlined`` cells have a frame, ``silent`` ones (where nothing is decided) no arrow.
    """

    title: str
    colour: np.ndarray
    policy: np.ndarray
    visits: np.ndarray
    letters: Mapping[tuple[int, ...], str]
    outlined: Sequence[tuple[int, ...]] = ()
    silent: Sequence[tuple[int, ...]] = ()


def grid_maps(
    panels: Sequence[GridMap],
    *,
    shape: tuple[int, ...],
    cells: Sequence[tuple[int, ...]],
    moves: Sequence[tuple[int, int]],
    colour_label: str,
    title: str,
    note: str,
) -> Figure:
    """Maps side by side (one below the other where they are wide) on one colour scale.

    In every free cell an arrow shows the policy's mean move, the darker the more visits; a dot
    means no preference. ``cells[s]`` is the (row, column) of state s, ``moves[a]`` the (down,
    right) step of action a; all other cells are walls.
    """
    rows, columns = shape
    scale = min(0.8, 6 / max(shape))
    wide = columns > 2 * rows
    across, down = (1, len(panels)) if wide else (len(panels), 1)
    figure = Figure(
        figsize=(across * (columns * scale + 0.5) + 1.4, down * (rows * scale + 0.6) + 1),
        layout="constrained",
    )
    figure.suptitle(title)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    colours = np.concatenate([panel.colour for panel in panels])
    # Beyond the largest entry, so that an arrow still shows on the darkest cell.
    largest = 1.3 * float(np.max(np.abs(colours))) or 1.0
    if np.any(colours > 0):
        norm, palette = TwoSlopeNorm(0, -largest, largest), "RdBu"
    else:
        norm, palette = Normalize(-largest, 0), "Reds_r"
    figure.colorbar(ScalarMappable(norm, palette), ax=axes, label=colour_label, shrink=0.8)
    for ax, panel in zip(axes, panels, strict=True):
        picture = np.full(shape, np.nan)
        picture[tuple(np.transpose(cells))] = panel.colour
        ax.set_facecolor("0.25")
        ax.imshow(picture, cmap=palette, norm=norm)
        ax.set_title(panel.title, fontsize=10)
        ax.set_xticks(range(columns))
        ax.set_yticks(range(rows))
        ax.tick_params(length=0, labelsize=7)
        _arrows(ax, panel, cells, moves)
        _letters(ax, panel)
    figure.supxlabel(note, fontsize=8)
    return figure


def _arrows(ax: Axes, panel: GridMap, cells, moves):
    shown = [s for s, cell in enumerate(cells) if cell not in panel.silent]
    row, column = np.transpose([cells[s] for s in shown])
    down, right = np.transpose(panel.policy[shown] @ np.asarray(moves, float))
    visits = panel.visits[shown] / np.max(panel.visits[shown])
    # The square root keeps the rarer stretches of a path visible; the floor, the rest of the map.
    colour = np.zeros((len(shown), 4))
    colour[:, 3] = 0.2 + 0.8 * np.sqrt(visits)
    moving = np.hypot(down, right) > 0.1
    ax.scatter(column[~moving], row[~moving], s=6, c=colour[~moving], linewidths=0)
    ax.quiver(
        column[moving],
        row[moving],
        0.7 * right[moving],
        0.7 * down[moving],
        color=colour[moving],
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="mid",
        units="xy",
        width=0.06,
        headwidth=4,
        headlength=4,
        headaxislength=3.5,
    )


def _letters(ax: Axes, panel: GridMap):
    for (row, column), letter in panel.letters.items():
        centred = (row, column) in panel.silent
        shift = 0.0 if centred else 0.3
        ax.text(
            column - shift,
            row - shift,
            letter,
            ha="center",
            va="center",
            fontsize=9 if centred else 7,
            fontweight="bold",
            bbox=dict(boxstyle="circle,pad=0.15", facecolor="white", edgecolor="0.3", alpha=0.85),
        )
    for row, column in panel.outlined:
        frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="C1", linewidth=2)
        ax.add_patch(frame)
