"""What many runs come to: intervals, summaries, shares of pairs, curves."""

from dataclasses import replace

import numpy as np
import pytest
from bench_suite import Canned, own_suite
from scipy.stats import binom, mannwhitneyu

from bilevax.bench import (
    Case,
    Reference,
    Suite,
    find_suite,
    median_interval,
    run_bench,
    share_ahead,
    summarise,
)
from bilevax.bench.job import empty_row
from bilevax.bench.report import markdown
from bilevax.bench.statistics import best_known, curves, seed_shortfalls

SUITE = Suite("s", "S.", (Case("c", "bimatrix"),), references={"c": Reference(5.0, "here")})


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return own_suite(tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("count", [1, 5, 6, 7, 8, 9, 12, 25, 26, 100])
def test_the_interval_of_the_median_is_that_of_the_sign_test(count):
    values = np.random.default_rng(count).normal(size=count)
    k = int(binom.ppf(0.025, count, 0.5))  # as many values may lie outside on each side
    if binom.cdf(k, count, 0.5) > 0.025:
        k -= 1
    expected = None if k < 0 else (np.sort(values)[k], np.sort(values)[count - 1 - k])
    assert median_interval(values) == expected
    assert (expected is None) == (count < 6)


def test_the_interval_covers_the_median_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(size=(2000, 9))
    intervals = [median_interval(draw) for draw in draws]
    inside = [i is not None and i[0] <= np.log(2) <= i[1] for i in intervals]
    assert 0.95 <= np.mean(inside) < 0.99


def row(number, seed, start, value):
    job = dict.fromkeys(("id", "suite", "problem", "options", "steps", "budget"), "")
    job |= dict(number=number, seed=seed, start=start, case="c", method="m")
    error = None if value is not None else "no"
    fields = dict(maximize=True, value=value, cpu_seconds=1.0, gap=0.1, steps=3)
    return empty_row(job, error) | fields


def rows_of(values):
    """A row for each start of each seed; ``None`` is a run that failed."""
    return [row(2 * i + j, i, j, v) for i, pair in enumerate(values) for j, v in enumerate(pair)]


def test_summaries_count_the_best_start_and_failed_seeds_as_worst():
    rows = rows_of([(1.0, 3.0), (2.0, None), (None, None), (4.0, 1.0)])
    (one,) = summarise(rows, SUITE)
    assert one.values == (3.0, 2.0, -np.inf, 4.0)
    assert (one.median, one.best, one.failures, one.fraction) == (2.5, 4.0, 3, 0.5)
    assert best_known(rows, SUITE) == {"c": 5.0}
    np.testing.assert_allclose(seed_shortfalls(rows, SUITE)["m"], [0.4, 0.6, np.inf, 0.2])
    # A share of a negative number, or of a reference beyond zero, says nothing.
    assert replace(one, median=-2.0, reference=-1.0).fraction is None
    assert replace(one, median=-2.0).fraction is None
    assert replace(one, reference=0.0).fraction is None
    assert replace(one, maximize=False).fraction == 2.0


def test_ahead_is_the_share_of_pairs_of_seeds():
    one, other = (3.0, 2.0, -np.inf, 4.0), (3.0, 0.0)
    # Of its pairs 3 is level with one, 2 and -inf behind, 4 ahead.
    assert share_ahead(one, other) == (0.5 + 1 + 1 + 2) / 8
    assert share_ahead(one, other, maximize=False) == (0.5 + 1 + 2) / 8
    assert share_ahead(one, (3.0 * (1 + 1e-9), *one[1:])) == 0.5  # rounding is no lead
    draws = np.random.default_rng(0).integers(5, size=(2, 30)).astype(float)
    np.testing.assert_allclose(share_ahead(*draws.tolist()), mannwhitneyu(*draws).statistic / 900)


def test_a_page_says_which_method_is_ahead_where_smaller_is_better():
    values = {"m": (1.0, 2.0), "n": (3.0, 1.5)}  # n is ahead in one pair of four
    rows = [
        row(i, i, 0, value) | dict(method=method, maximize=False)
        for method, both in values.items()
        for i, value in enumerate(both)
    ]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown(rows, replace(SUITE, methods=("m", "n"))).splitlines()
    ]
    column = next(line.index("Ahead") for line in cells if "Ahead" in line)
    ahead = {line[1]: line[column] for line in cells if len(line) > column and line[0] == "c"}
    assert ahead == {"m": "", "n": "0.25"}


def test_short_runs_are_points_of_the_curves_and_failed_ones_are_lost(own):
    rows = run_bench(replace(own, methods=("own.py:good", "own.py:deadly")), make_worker=Canned)
    ((seconds, short),) = curves(rows, find_suite(own.suite)).values()
    assert len(seconds) == len(short) == 8 and np.isfinite(short).all()
    some = [row | {"error": "no"} if row["seed"] else row for row in rows]
    ((_, short),) = curves(some, find_suite(own.suite)).values()
    assert np.isinf(short).all()


def test_where_a_curve_is_unknown_its_last_known_value_stands():
    first = [(1, 0.1, None), (2, 0.2, 4.0), (3, 0.3, None), (4, 0.4, 5.0)]
    second = [(1, 0.1, None), (2, 0.2, None), (3, 0.3, 3.0), (4, 0.4, None)]
    both = [row(i, i, 0, c[-1][2] or 3.0) | dict(curve=c) for i, c in enumerate((first, second))]
    ((seconds, short),) = curves(both, SUITE).values()
    np.testing.assert_allclose(seconds, [0.1, 0.2, 0.3, 0.4])
    # Short of 5: 4 alone, then 4 and 3, then 5 and 3.
    np.testing.assert_allclose(short, [np.inf, 0.2, 0.3, 0.2])
