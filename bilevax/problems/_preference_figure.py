"""The picture of rewards learned from preferences: what is fitted, and where the queries are."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure


def corridor(
    true_reward: np.ndarray, answers: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str
) -> Figure:
    """Above the true and the fitted reward per cell, below the share of visits to each.

    ``answers`` holds, by name, the fitted reward and the visits. Preferences say nothing about a
    constant, so every fitted reward is moved to agree with the truth on average over its visits.
    """
    cells = np.arange(true_reward.size)
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    figure.suptitle(title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.bar(cells, true_reward, width=0.8, color="0.85", label="true reward")
    width = 0.8 / len(answers)
    for i, (name, (fitted, visits)) in enumerate(answers.items()):
        moved = fitted + visits @ (true_reward - fitted)
        above.plot(cells, moved, "o-", color=f"C{i}", label=f"fitted: {name}")
        below.bar(cells - 0.4 + (i + 0.5) * width, visits, width, color=f"C{i}", label=name)
    above.set_ylabel("reward")
    above.legend(fontsize=8)
    below.set_ylabel("share of visits")
    below.set_xlabel("cell")
    below.set_xticks(cells)
    return figure
