import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import bilevax as bx
from bilevax.io import figures
from bilevax.io.comparison import comparison_html
from bilevax.io.files import write_json
from bilevax.io.outcome import About, Outcome, StartOutcome, read_outcome, to_fields, unfinished
from bilevax.io.page import duration, number
from bilevax.io.report import known_values, report_html, write_report
from bilevax.io.verdict import UNFINISHED, VERDICTS, result_name

NAN = float("nan")


def about(**changes):
    fields: dict[str, Any] = dict(
        problem="toy <1>",
        solver="pbrl",
        description="A leader & a follower.",
        maximize=True,
        known={"a book": 2.5, "far away": -900.0},
        gap_tol=1e-3,
        starts=2,
        seed=7,
        out="runs/toy",
    )
    return About(**(fields | changes))


def ended(value, gap=1e-6, result="successful", message=""):
    return StartOutcome(value + 0.001, value, gap, gap / 2, result, message, 20)


def outcome(*each, **changes):
    each = each or (ended(2.0), ended(2.4))
    best = int(np.nanargmax([one.upper_value_at_best_response for one in each]))
    return Outcome(about(**changes), tuple(each), best, 12.5, 2.1)


def line(start, step, upper_value, penalty=0.1, weight=1.0):
    return dict(
        start=start,
        step=step,
        upper_value=upper_value,
        penalty=penalty,
        penalty_weight=weight,
        gradient_norm=1.0,
        converged=True,
        seconds=0.5,
    )


HISTORY = [line(i, k, -i - k / 100, 1 / k, k) for i in (0, 1) for k in (10, 20)]
CONFIG = dict(command=["bilevax", "solve", "a b"], settings=dict(seed=7), versions=dict(jax="0"))


class Elements(HTMLParser):
    """Which elements a page opens and closes, and what it refers to."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page):
    elements = Elements()
    elements.feed(page)
    assert not elements.open, "every element is closed"
    return elements


def report(one):
    picture = '<svg xmlns="http://www.w3.org/2000/svg"><text>picture</text></svg>'
    return report_html(one, HISTORY, picture=picture, config=CONFIG, files=["config.json"])


def test_the_report_is_one_sound_page_that_refers_to_nothing_outside():
    page = report(outcome())
    elements = parsed(page)
    assert "http" not in page
    assert all(reference.startswith("#") for reference in elements.references)
    assert not {"script", "link", "img", "iframe"} & set(elements.seen)
    assert elements.seen.count("svg") == 5, "four figures and the picture"
    assert "toy &lt;1&gt;" in page and "toy <1>" not in page


def test_the_report_says_what_was_found_and_how_to_repeat_it():
    page = report(outcome())
    for words in (
        "The answer is certified",
        "at most 1.0e-06 by changing its policy",
        "larger is better",
        "Start 1 did best; half of them ended at 2.2 or better",
        "0.1 worse",
        "bilevax solve &#x27;a b&#x27;",
        "12.5 s",
    ):
        assert words in page, words


@pytest.mark.parametrize(
    "result, words",
    [
        ("infeasible", "not yet an answer"),
        ("undecided", "do not tell whether the lower level has settled"),
        ("nonfinite", "The run broke down"),
        ("max_steps_reached", "could still improve"),
    ],
)
def test_the_report_says_what_to_do_where_a_run_failed(result, words):
    page = report(outcome(ended(2.0, 0.5, result, "raise the weight")))
    assert words in page and "raise the weight" in page


def test_every_result_has_its_name_and_its_verdict():
    results = [name for name in VERDICTS if name != UNFINISHED]
    assert len(results) == len(bx.RESULTS)
    for name in results:
        numbers = dict.fromkeys(("x", "policy", "upper_value", "best_response_value", "gap"), 0.0)
        numbers |= dict(relative_gap=0.0, largest_loss=0.0)
        result = getattr(bx.RESULTS, name)
        assert result_name(bx.Solution(**numbers, result=result, stats={}, state=None)) == name


@pytest.mark.slow
def test_a_cost_is_better_where_it_is_smaller():
    page = report(outcome(ended(2.4), maximize=False))
    assert "smaller is better" in page and "0.1 better" in page


def test_the_report_of_an_unfinished_run_says_how_to_continue(tmp_path):
    config = CONFIG | dict(about=to_fields(outcome())["about"])
    write_json(tmp_path / "config.json", config)
    (tmp_path / "history.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in HISTORY) + '{"start": 0, "st'
    )
    page = write_report(tmp_path).read_text()
    parsed(page)
    assert "bilevax solve --resume runs/toy" in page
    assert "The run is unfinished" in page
    assert "not known" not in page and ">nan<" not in page


def test_an_unfinished_run_stands_where_its_last_lines_are():
    stands = unfinished(HISTORY, about(starts=3))
    assert [one.steps for one in stands.each_start] == [20, 20, 0]
    assert stands.best_start == 1 and stands.best.upper_value == pytest.approx(1.2)


def test_a_result_file_gives_back_the_outcome(tmp_path):
    before = outcome(ended(2.0), ended(NAN, NAN, "nonfinite", "lower the step size"))
    write_json(tmp_path / "result.json", to_fields(before))
    after = read_outcome(tmp_path)
    assert after.about == before.about and after.best == before.best
    assert np.isnan(after.each_start[1].gap)
    (tmp_path / "result.json").write_text('{"about": 3}')
    with pytest.raises(ValueError, match=r"result\.json is not the result of a run"):
        read_outcome(tmp_path)


def test_a_known_value_that_is_not_known_and_an_infinite_tolerance_are_reported(tmp_path):
    before = outcome(known={"a book": NAN}, gap_tol=np.inf)
    write_json(tmp_path / "config.json", CONFIG | dict(about=to_fields(before)["about"]))
    write_json(tmp_path / "result.json", to_fields(before))
    assert "tolerance inf" in write_report(tmp_path).read_text()
    after = read_outcome(tmp_path)
    assert np.isnan(after.about.known["a book"]) and after.about.gap_tol == np.inf
    row = "<td>a book</td><td>not known</td><td></td>"
    assert row in re.sub(r"<td[^>]*>", "<td>", known_values(after))
    (tmp_path / "result.json").unlink()
    assert "The run is unfinished" in write_report(tmp_path).read_text()


def test_a_problems_own_measures_join_the_json_and_the_report(tmp_path):
    measures = {"time_saved": (2.25, "minutes a day"), "unknown": (NAN, "of no solution")}
    before = replace(outcome(), measures=measures)
    assert before.line()["time_saved"] == 2.25
    assert "Time saved" in report(before) and "Minutes a day." in report(before)
    write_json(tmp_path / "result.json", to_fields(before))
    after = read_outcome(tmp_path).measures
    assert after["time_saved"] == (2.25, "minutes a day") and np.isnan(after["unknown"][0])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run: it has no config\.json"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="nowhere does not exist: name the folder of a run"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is not a folder"):
        write_report(tmp_path / "file")
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a comparison, whose report\.html is written once"):
        write_report(tmp_path)
    (tmp_path / "comparison.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="was not written by bilevax solve"):
        write_report(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="it holds no JSON"):
        write_report(tmp_path)


def test_statistics_leave_out_what_is_not_finite():
    one = outcome(ended(1.0), ended(4.0), ended(2.0), ended(-1.0))
    assert (one.best_value, one.median_value, one.worst_value) == (4.0, 1.5, -1.0)
    cost = Outcome(about(maximize=False), (ended(1.0), ended(NAN), ended(3.0)), 0, 1.0, 1.0)
    assert (cost.best_value, cost.median_value, cost.worst_value) == (1.0, 2.0, 3.0)


def test_the_objective_is_drawn_in_its_natural_sense_with_one_line_per_start():
    lines = figures.objective_figure(HISTORY, best=1, maximize=True).axes[0].lines
    drawn = [np.asarray(one.get_xydata()).tolist() for one in lines]
    assert sorted(drawn) == [[[10, 0.1], [20, 0.2]], [[10, 1.1], [20, 1.2]]]


def test_what_a_solver_does_not_have_is_not_drawn():
    history = [line(0, k, 1.0, NAN, NAN) for k in (1, 2)]
    assert figures.gap_figure(history, best=0, gap_tol=1e-3) is None
    assert figures.weight_figure(history, best=0) is None


def test_an_infinite_tolerance_is_not_drawn():
    def tolerances(gap_tol):
        figure = figures.gap_figure(HISTORY, best=0, gap_tol=gap_tol)
        assert figure is not None
        return len(figure.axes[0].texts)

    assert (tolerances(1e-3), tolerances(np.inf)) == (1, 0)


def test_known_values_far_away_do_not_squeeze_the_spread():
    ax = figures.spread_figure([2.0, 2.4], best=1, known=about().known).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["this run, per start", "a book"]


def test_figures_take_the_colour_of_the_page_and_are_reproducible():
    draw = lambda: figures.to_svg(figures.spread_figure([2.0, 2.4], best=1, known={}))
    assert "currentColor" in draw() and "#010203" not in draw()
    assert draw() == draw()


def test_a_comparison_shows_every_solver_and_why_one_failed():
    others = [outcome(), outcome(ended(1.0), ended(1.5, 0.9, "infeasible"), solver="independent")]
    page = comparison_html(others, {"implicit": "tau is 0"})
    parsed(page)
    for words in ("independent", "infeasible", "tau is 0", "2.4", "the same 2 starts"):
        assert words in page


@pytest.mark.parametrize(
    "value, shown",
    [(0.0, "0"), (34.99251, "34.993"), (1e-7, "1.0e-07"), (-2.5e7, "-2.5e+07"), (NAN, "not known")],
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    "seconds, shown", [(3.21, "3.2 s"), (125.0, "2 min 5 s"), (7800.0, "2 h 10 min")]
)
def test_durations_are_readable(seconds, shown):
    assert duration(seconds) == shown
