"""Figures of a benchmark, in the page's style."""

from typing import TYPE_CHECKING

import numpy as np

from ..io.figures import KNOWN, axes, ink

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2f7de1", "#d9822b", "#2a9d6f", "#a05fc4", "#c2413b", "#8b98a9", "#1f9fb5", "#7a6a2f")
_LEGEND_COLUMNS = 4
_SMALLEST = 1e-6
"""Shortfalls below this are drawn as this: the last digits of a float are no merit."""


def profile_figure(shortfalls: dict[str, np.ndarray]) -> "Figure":
    """The share of runs whose shortfall is at most a tolerance, against the tolerance."""
    figure, ax = axes(height=_height(len(shortfalls)))
    finite = np.concatenate([v[np.isfinite(v)] for v in shortfalls.values()] or [np.zeros(0)])
    highest = max(1e-2, float(finite.max(initial=0.0))) * 1.5
    tolerances = np.geomspace(_SMALLEST, highest, 400)
    for (method, values), (colour, dash) in zip(shortfalls.items(), _styles(), strict=False):
        shares = [(values <= tolerance).mean() for tolerance in tolerances]
        ax.plot(tolerances, shares, linewidth=2, label=method, color=colour, linestyle=dash)
    ax.set_xscale("log")
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlim(_SMALLEST, highest)
    ax.set_xlabel("tolerance: relative shortfall from the best value known")
    ax.set_ylabel("share of cases and seeds")
    _legend(ax)
    return figure


def curve_figure(curves: dict[str, tuple[np.ndarray, np.ndarray]], along: str) -> "Figure | None":
    """The median shortfall against what ``along`` names; ``None`` without curves."""
    figure, ax = axes(height=_height(len(curves)))
    drawn = False
    for (method, (spent, short)), (colour, dash) in zip(curves.items(), _styles(), strict=False):
        finite = np.isfinite(short) & (spent > 0)
        if not finite.any():
            continue
        drawn = True
        ax.plot(
            spent[finite],
            np.maximum(short[finite], _SMALLEST),
            linewidth=2,
            marker="o",
            markersize=4,
            label=method,
            color=colour,
            linestyle=dash,
        )
    if not drawn:
        return None
    ax.set_xscale("log")
    ax.set_yscale("log")
    _log_ticks(ax.xaxis, ax.get_xlim())
    _log_ticks(ax.yaxis, ax.get_ylim())
    ax.set_xlabel(along)
    ax.set_ylabel("median shortfall")
    _legend(ax)
    return figure


def case_figure(values: dict[str, tuple[float, ...]], reference: float | None) -> "Figure":
    """One row of points per method, one point per seed, and the line to reach."""
    figure, ax = axes(height=0.9 + 0.32 * len(values))
    for row, (points, colour) in enumerate(zip(values.values(), _colours(), strict=False)):
        finite = [point for point in points if np.isfinite(point)]
        # A fixed shift by seed keeps equal values apart.
        shifts = [0.4 * ((i * 0.618) % 1 - 0.5) - row for i in range(len(finite))]
        ax.scatter(finite, shifts, s=34, color=colour, alpha=0.75, linewidths=0)
    if reference is not None:
        ax.axvline(reference, color=KNOWN, linestyle="--", linewidth=1.3, zorder=1)
    ax.set_yticks([-row for row in range(len(values))], list(values))
    ax.set_ylim(-len(values) + 0.4, 0.6)
    ax.grid(axis="y", visible=False)
    low, high = ax.get_xlim()
    # Values that agree to many digits would be drawn with an axis of noise.
    least = 1e-3 * max(abs(low), abs(high), 1e-9)
    if high - low < least:
        ax.set_xlim((low + high - least) / 2, (low + high + least) / 2)
    return figure


def _log_ticks(axis, limits: tuple[float, float]) -> None:
    """Plain numbers at 1, 2 and 5 of each decade, at the decades alone where there are many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    many = limits[1] > 100 * limits[0]
    axis.set_major_locator(LogLocator(subs=(1,) if many else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _colours():
    return (COLOURS[i % len(COLOURS)] for i in range(1000))


def _styles():
    """A colour, and past the last of them another dash."""
    dashes = ("-", "--", ":", "-.")
    return (
        (colour, dashes[i // len(COLOURS) % len(dashes)]) for i, colour in enumerate(_colours())
    )


def _height(methods: int) -> float:
    return 3.2 + 0.24 * -(-methods // _LEGEND_COLUMNS)


def _legend(ax) -> None:
    # Below the figure: many methods would hide the lines.
    ax.legend(
        frameon=False,
        fontsize=9,
        labelcolor=ink(),
        ncols=_LEGEND_COLUMNS,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
    )
