"""Figures of a run: objective, gap and penalty weight against steps, and the spread over starts.

Each function returns a matplotlib ``Figure``. ``to_svg`` turns one into text that can stand in a
page, in the page's own text colour.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[dict[str, Any]]

BEST, OTHER, KNOWN = "#2f7de1", "#8b98a9", "#d9822b"
_INK = "#010203"
"""Stands for the page's text colour until the figure is text itself."""


def objective_figure(history: History, *, best: int, maximize: bool) -> "Figure":
    """f(x, policy) in the problem's natural sense against steps, one line per start."""
    sign = -1 if maximize else 1
    curves = _curves(history, "upper_value")
    figure, ax = axes()
    _draw(ax, {start: (steps, sign * values) for start, (steps, values) in curves.items()}, best)
    ax.set_ylabel("objective")
    return figure


def gap_figure(history: History, *, best: int, gap_tol: float) -> "Figure | None":
    """The penalty by the solver's own oracle against steps, logarithmic; None if there is none."""
    curves = {
        start: (steps, np.where(values > 0, values, np.nan))
        for start, (steps, values) in _curves(history, "penalty").items()
    }
    if not any(np.isfinite(values).any() for _, values in curves.values()):
        return None
    figure, ax = axes()
    _draw(ax, curves, best)
    ax.set_yscale("log")
    if np.isfinite(gap_tol):
        draw_level(ax, gap_tol, "tolerance")
    ax.set_ylabel("gap, by the solver's estimate")
    return figure


def weight_figure(history: History, *, best: int) -> "Figure | None":
    """The penalty weight against steps, logarithmic; None if the solver has none."""
    curves = _curves(history, "penalty_weight")
    if not any(np.isfinite(values).any() for _, values in curves.values()):
        return None
    figure, ax = axes()
    _draw(ax, curves, best)
    ax.set_yscale("log")
    ax.set_ylabel("penalty weight")
    return figure


def spread_figure(
    values: Sequence[float] | np.ndarray, *, best: int, known: dict[str, float]
) -> "Figure":
    """The value at the exact best response at the end of every start, with known values nearby.

    Known values far away (of a deliberately bad policy, say) would press all points into one.
    """
    finite = {i: value for i, value in enumerate(values) if np.isfinite(value)}
    known = nearby(known, values)
    figure, ax = axes(height=1.5 + 0.3 * (1 + len(known)))
    for i, value in finite.items():
        # A fixed shift by start keeps equal values apart without suggesting a second quantity.
        shift = 0.5 * ((i * 0.618) % 1 - 0.5)
        color, size, layer = (BEST, 70, 3) if i == best else (OTHER, 38, 2)
        ax.scatter([value], [shift], s=size, color=color, alpha=0.85, linewidths=0, zorder=layer)
    for row, value in enumerate(known.values(), start=1):
        ax.scatter([value], [-row], marker="D", s=30, color=KNOWN, zorder=2)
        ax.axvline(value, color=KNOWN, linewidth=0.8, alpha=0.4, zorder=1)
    labels = ["this run, per start", *known]
    ax.set_yticks([-row for row in range(len(labels))], labels)
    ax.set_ylim(-len(known) - 0.6, 0.6)
    ax.set_xlabel("value at the exact best response")
    ax.locator_params(axis="x", nbins=5)  # values close together have long labels
    ax.grid(axis="y", visible=False)
    if len({round(v, 12) for v in [*finite.values(), *known.values()]}) == 1:
        center = next(iter(finite.values()))
        ax.set_xlim(center - 0.05 * max(1, abs(center)), center + 0.05 * max(1, abs(center)))
    return figure


def strip_figure(values: dict[str, np.ndarray], *, known: dict[str, float]) -> "Figure":
    """One row of points per solver: the value at the exact best response of every start."""
    known = nearby(known, np.concatenate(list(values.values())))
    figure, ax = axes(height=1.2 + 0.45 * len(values))
    for row, points in enumerate(values.values()):
        shifts = [0.4 * ((i * 0.618) % 1 - 0.5) - row for i in range(len(points))]
        ax.scatter(points, shifts, s=38, color=BEST, alpha=0.7, linewidths=0)
    for value in known.values():
        ax.axvline(value, color=KNOWN, linewidth=1, alpha=0.6, zorder=1)
    ax.set_yticks([-row for row in range(len(values))], list(values))
    ax.set_ylim(-len(values) + 0.4, 0.6)
    ax.set_xlabel("value at the exact best response")
    ax.grid(axis="y", visible=False)
    return figure


def to_svg(figure: "Figure", *, recolour: bool = True) -> str:
    """The figure as an ``<svg>`` element; text and axes in the colour of the page's text."""
    import matplotlib

    buffer = io.StringIO()
    style: Any = {"svg.fonttype": "none" if recolour else "path", "svg.hashsalt": "bilevax"}
    with matplotlib.rc_context(style):
        # Without a date the same run gives the same bytes.
        figure.savefig(buffer, format="svg", transparent=recolour, metadata={"Date": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    return svg.replace(_INK, "currentColor") if recolour else svg


def inline(svg: str) -> str:
    """The ``<svg>`` element as HTML wants it: no namespaces and no metadata, hence no addresses."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)


def nearby(known: dict[str, float], values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The known values that can be drawn on one axis with these without squeezing them."""
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    reach = max(2 * (highest - lowest), 0.3 * max(abs(lowest), abs(highest)))
    return {name: v for name, v in known.items() if lowest - reach <= v <= highest + reach}


def ink() -> str:
    """The colour that becomes the page's text colour in ``to_svg``."""
    return _INK


def draw_level(ax: Any, value: float, words: str) -> None:
    """A dashed line at a value to compare with, and what it is."""
    ax.axhline(value, color=KNOWN, linestyle="--", linewidth=1.3)
    ax.annotate(
        words,
        (1, value),
        (-4, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=KNOWN,
        fontsize=9,
        ha="right",
        va="bottom",
    )


def axes(height: float = 2.8):
    """A figure with one pair of axes in the page's style."""
    import matplotlib
    from matplotlib.figure import Figure

    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(ink, _INK) | {
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _INK,
        "grid.alpha": 0.12,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.0, height), layout="constrained")
        return figure, figure.subplots()


def _draw(ax: "Axes", curves, best: int) -> None:
    for start, (steps, values) in curves.items():
        top = start == best
        ax.plot(
            steps,
            values,
            color=BEST if top else OTHER,
            linewidth=2.0 if top else 1.0,
            alpha=1.0 if top else 0.6,
            zorder=3 if top else 2,
            label="best start" if top else "other starts",
            marker="o" if len(steps) == 1 else None,
        )
    ax.set_xlabel("steps")
    ax.margins(x=0.01)
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if len(unique) > 1:
        ax.legend(unique.values(), unique.keys(), frameon=False, fontsize=9, labelcolor=_INK)


def _curves(history: History, name: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    curves: dict[int, list[tuple[int, float]]] = {}
    for line in sorted(history, key=lambda line: line["step"]):
        curves.setdefault(line["start"], []).append((line["step"], line[name]))
    return {
        start: (np.array([k for k, _ in points]), np.array([v for _, v in points], float))
        for start, points in sorted(curves.items())
    }
