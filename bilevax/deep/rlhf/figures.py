"""Figures of a run of RL from human feedback, over its seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...io.figures import BEST, OTHER, axes, draw_level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[dict[str, Any]]


def curve_figure(
    history: History,
    name: str,
    label: str,
    *,
    level: tuple[float, str] | None = None,
    lowest: float | None = None,
    percent: bool = False,
) -> "Figure | None":
    """A quantity against steps: every seed, their median, and the band from lowest to highest.

    Each seed's line goes straight across rounds in which it is unknown, as the true return is where
    no episode ended. ``None`` where the history holds no number of that name. ``level`` is a line
    to compare with, and what it is; ``lowest`` the lower end of the axis.
    """
    curves = seed_curves(history, name)
    if not any(np.isfinite(values).any() for _, values in curves.values()):
        return None
    factor = 100 if percent else 1
    figure, ax = axes()
    for steps, values in curves.values():
        ax.plot(steps, factor * values, color=OTHER, linewidth=1.0, alpha=0.6, zorder=2)
    steps, low, middle, high = over_seeds(curves)
    if len(curves) > 1:
        ax.fill_between(steps, factor * low, factor * high, color=BEST, alpha=0.15, linewidth=0)
    marker = "o" if len(steps) == 1 else None
    ax.plot(steps, factor * middle, color=BEST, linewidth=2.2, zorder=3, marker=marker)
    if level is not None:
        draw_level(ax, factor * level[0], level[1])
    if percent:
        ax.yaxis.set_major_formatter("{x:g}%")
    ax.xaxis.set_major_formatter(lambda value, _: _count(value))
    ax.set_xlabel("environment steps")
    ax.set_ylabel(label)
    ax.margins(x=0.01)
    if lowest is not None:
        ax.set_ylim(bottom=lowest)
    return figure


def scatter_figure(predicted: np.ndarray, true: np.ndarray) -> "Figure":
    """Predicted against true returns of segments, ``[K, P]``; one shade per seed."""
    figure, ax = axes(height=3.2)
    # True returns are often whole numbers: a fixed shift keeps equal points apart.
    spread = 0.012 * max(float(np.ptp(true)), 1e-6)
    shift = spread * (np.arange(true.shape[1]) * 0.618 % 1 - 0.5)
    for row in range(len(true)):
        color = BEST if row == 0 else OTHER
        ax.scatter(
            true[row] + shift,
            predicted[row],
            s=14,
            color=color,
            alpha=0.45,
            linewidths=0,
            zorder=3 if row == 0 else 2,
        )
    ax.set_xlabel("true return of the segment")
    ax.set_ylabel("predicted return")
    return figure


def seed_curves(history: History, name: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of each seed, in order; straight lines join the known values."""
    seeds = sorted({line["seed"] for line in history})
    lines = {
        seed: sorted((z for z in history if z["seed"] == seed), key=lambda z: z["round"])
        for seed in seeds
    }
    column = lambda rows, key: np.asarray([row.get(key, np.nan) for row in rows], float)
    return {seed: _joined(column(z, "steps"), column(z, name)) for seed, z in lines.items()}


def over_seeds(curves) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and lowest, median and highest value of the seeds there, NaN left out.

    Rounds are paired: the k-th round of every seed took the same number of steps but for episodes
    outside JAX, where the mean is taken.
    """
    most = max(len(steps) for steps, _ in curves.values())
    pad = lambda z: np.pad(z, (0, most - len(z)), constant_values=np.nan)
    steps = np.stack([pad(steps) for steps, _ in curves.values()])
    values = np.stack([pad(values) for _, values in curves.values()])
    known = np.isfinite(values).any(axis=0)
    steps, values = np.nanmean(steps[:, known], axis=0), values[:, known]
    return steps, np.nanmin(values, 0), np.nanmedian(values, 0), np.nanmax(values, 0)


def _joined(steps, values):
    known = np.isfinite(values)
    if not known.any():
        return steps, values
    line = np.interp(steps, steps[known], values[known], left=np.nan, right=np.nan)
    return steps, line


def _count(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
