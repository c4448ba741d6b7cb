"""The page of a comparison of solvers on one problem."""

from collections.abc import Sequence

import numpy as np

from . import figures
from .outcome import Outcome
from .page import counted, duration, number, page, table, text
from .report import known_values


def comparison_html(outcomes: Sequence[Outcome], failures: dict[str, str]) -> str:
    """A row and a strip of points for each solver; ``failures`` says why a solver has none."""
    about = outcomes[0].about
    better = "larger is better" if about.maximize else "smaller is better"
    rows = [
        [
            outcome.about.solver,
            number(outcome.best.upper_value_at_best_response),
            number(outcome.median_value),
            number(outcome.worst_value),
            number(outcome.best.gap, 2),
            duration(outcome.wall_seconds),
            outcome.best.result.replace("_", " "),
        ]
        for outcome in outcomes
    ]
    rows += [[name, *[""] * 5, reason] for name, reason in failures.items()]
    head = ("Solver", "Best", "Median", "Worst", "Certified gap", "Time", "Result")
    values = {outcome.about.solver: outcome.values for outcome in outcomes}
    nearby = figures.nearby(about.known, np.concatenate(list(values.values())))
    strip = figures.inline(figures.to_svg(figures.strip_figure(values, known=about.known)))
    body = [
        f"<h1>{text(about.problem)}: solvers compared</h1>",
        f'<p class="lead">{text(about.description)}</p>',
        f"<p>Every solver began from the same {counted(about.starts, 'start')} (seed "
        f"{about.seed}). The values are what the upper level gets with the x found once the lower "
        f"level answers exactly ({better}), so they can be compared whatever policy a solver "
        "ended with; the gap says how far that policy is from the exact answer.</p>",
        table(head, rows, "tnnnnnw"),
        f'<h2>Every start</h2><figure class="card narrow">{strip}<figcaption>One point per start'
        + ("; orange lines mark known values" if nearby else "")
        + ".</figcaption></figure>",
        known_values(max(outcomes, key=_merit)),
    ]
    return page(f"bilevax: {about.problem}, solvers compared", body)


def _merit(outcome: Outcome) -> float:
    value = outcome.best.upper_value_at_best_response
    return -np.inf if np.isnan(value) else value if outcome.about.maximize else -value
