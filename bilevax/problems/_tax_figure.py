"""The picture of a tax design: the rates, and what consumers do about them."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_LINES = ("-", "--")
_HIDDEN = 1e-3
"""Levels of assets outside of which consumers spend this share of their time are not drawn."""


@dataclass(frozen=True)
class Habits:
    """What N kinds of consumers do at S levels of assets.

    Attributes:
        assets: the levels, ``[S]``.
        hours: mean hours of work, ``[N, S]``.
        spending: mean money spent on each good, ``[N, S, 3]``.
        share: share of time spent at each level, ``[N, S]``, rows summing to 1.
    """

    assets: np.ndarray
    hours: np.ndarray
    spending: np.ndarray
    share: np.ndarray


def tax_figure(rates: np.ndarray, habits: Habits, *, preferences: np.ndarray, title: str) -> Figure:
    """Four panels: the rates ``[4]``, time, hours and spending by assets, one line per kind."""
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    figure.suptitle(title)
    (rate, time), (hours, spending) = figure.subplots(2, 2)
    _rates(rate, rates)
    below = np.cumsum(habits.share, axis=-1)
    often = ((below > _HIDDEN) & (below - habits.share < 1 - _HIDDEN)).any(0)
    assets = habits.assets[often]
    density = habits.share / np.gradient(habits.assets)
    for kind, line in enumerate(_LINES):
        weights = ", ".join(f"{weight:.1f}".lstrip("0") for weight in preferences[kind])
        label = f"kind {kind + 1}, who weighs the goods ({weights})"
        time.plot(assets, 100 * density[kind, often], line, color="0.3", label=label)
        hours.plot(assets, habits.hours[kind, often], line, color="0.3")
        for good in range(3):
            values = habits.spending[kind, often, good]
            spending.plot(assets, values, line, color=f"C{good}")
    time.set_title("where consumers are (discounted time)")
    time.set_ylabel("% of time per unit of assets")
    hours.set_title("how long they work (8 hours at most)")
    hours.set_ylabel("mean hours in a step")
    spending.set_title("what they spend, taxes included (5 per good at most)")
    spending.set_ylabel("mean money spent in a step")
    goods = [Line2D([], [], color=f"C{good}", label=f"good {good + 1}") for good in range(3)]
    spending.legend(handles=goods, fontsize=8, frameon=False)
    for ax in (time, hours, spending):
        ax.set_xlabel("assets (debt below 0)")
        ax.axvline(0, color="0.8", lw=0.8, zorder=0)
        ax.set_ylim(bottom=0)
    handles, labels = time.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="half of the consumers each; lines coincide where both do the same",
        loc="outside lower center",
        ncols=2,
        fontsize=9,
        title_fontsize=9,
        frameon=False,
    )
    return figure


def _rates(ax, rates):
    names = ("income", "good 1", "good 2", "good 3")
    bars = ax.bar(names, rates, color=["0.6", "C0", "C1", "C2"], width=0.6)
    ax.bar_label(bars, [f"{rate:.2f}" for rate in rates], padding=2)
    ax.axhline(2, color="0.4", lw=0.8, ls=":")
    ax.text(3.4, 1.97, "largest rate allowed", ha="right", va="top", fontsize=8, color="0.4")
    ax.set_ylim(0, 2.25)
    ax.set_title("what the government takes")
    ax.set_ylabel("tax per unit of wage, or of net price")
