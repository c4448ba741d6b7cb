"""Penalty against implicit differentiation, over temperatures, both with and without annealing."""

from .common import (
    STEPS,
    Answer,
    axes,
    cooled,
    games,
    implicit,
    median,
    milliseconds_per_step,
    natural,
    pbrl,
    solve_all,
    starts,
    table,
)

TAUS = (0.003, 0.01, 0.03, 0.1, 0.3)
METHODS = {
    "penalty": pbrl,
    "penalty, annealed": lambda tau: cooled(pbrl(tau), tau),
    "implicit": lambda tau: implicit(),
    "implicit, annealed": lambda tau: cooled(implicit(), tau),
}


def answer() -> Answer:
    """Loss of every start against the best F that any method found in its game, in per cent."""
    rows = []
    for tau in TAUS:
        values = {
            (method, seed): natural(zoo, solve_all(zoo, make(tau), starts(zoo, seed)))
            for seed, zoo in enumerate(games(tau))
            for method, make in METHODS.items()
        }
        for (method, seed), own in values.items():
            best = max(max(values[other, seed]) for other in METHODS)
            losses = [100 * (1 - value / best) for value in own]
            rows.append(dict(tau=tau, method=method, game=seed, values=own, losses=losses))
    zoo = games(0.03, 1)[0]
    cost = {
        method: milliseconds_per_step(zoo.problem, make(0.03), starts(zoo, 0)[0])
        for method, make in METHODS.items()
    }
    rows += [dict(method=method, milliseconds=ms) for method, ms in cost.items()]
    return Answer(_table(rows, cost), rows, {"questions-implicit": _figure(rows)})


def _losses(rows, method, tau):
    own = [r for r in rows if r["method"] == method and r.get("tau") == tau]
    return [loss for row in own for loss in row["losses"]], [min(r["losses"]) for r in own]


def _table(rows, cost):
    lines = []
    for method in METHODS:
        cells = []
        for tau in TAUS:
            every, best = _losses(rows, method, tau)
            cells.append(f"{median(every):.2f} ({sum(best) / len(best):.2f})")
        lines.append([method, *cells, f"{cost[method]:.2f}"])
    header = ["method", *(f"tau {tau:g}" for tau in TAUS), "CPU ms a step"]
    return table(header, lines) + (
        f"\n\nLoss of F in per cent of the best found in a game by any method: median over {5 * 4} "
        f"starts (mean over games of the best of four starts), {STEPS} steps.\n\n"
        "![Loss of each start against the temperature](images/questions-implicit.svg)"
    )


def _figure(rows):
    figure, (plot,) = axes()
    colours = ("#1f5fa8", "#1f5fa8", "#c7522a", "#c7522a")
    for k, (method, colour) in enumerate(zip(METHODS, colours, strict=True)):
        hollow = "annealed" not in method
        for i, tau in enumerate(TAUS):
            every, _ = _losses(rows, method, tau)
            at = i + 0.18 * (k - 1.5)
            fill = "none" if hollow else colour
            plot.scatter([at] * len(every), every, s=12, facecolors=fill, edgecolors=colour, lw=0.7)
            bar = dict(label=method) if i == 0 else {}
            plot.plot(
                [at - 0.07, at + 0.07],
                [median(every)] * 2,
                color=colour,
                lw=2.2,
                ls=":" if hollow else "-",
                **bar,
            )
    plot.set_xticks(range(len(TAUS)), [f"{tau:g}" for tau in TAUS])
    plot.set(xlabel="tau of the follower", ylabel="loss of F, per cent")
    plot.set_ylim(bottom=-0.3)
    plot.legend(frameon=False, fontsize=8, title="bar: median of the starts", title_fontsize=8)
    plot.spines[["top", "right"]].set_visible(False)
    return figure
