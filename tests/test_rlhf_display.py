"""What a run shows of rounds in which no episode ended."""

import dataclasses
import math

import numpy as np
import pytest
from small_rlhf import PRESET

from bilevax.cli.rlhf_terminal import print_rlhf
from bilevax.deep.rlhf import TrueReward
from bilevax.deep.rlhf.figures import curve_figure
from bilevax.deep.rlhf.run import run_rlhf

NAN = math.nan


@pytest.mark.slow
def test_progress_shows_the_last_true_return_that_is_known():
    # Rounds of four steps, episodes of six: none ends in the last round.
    fields = dict(PRESET.fields) | dict(window=1)
    setup = dataclasses.replace(PRESET, fields=fields).setup(rounds=6, labels=4)
    seen = []
    run = run_rlhf(TrueReward(setup), [0], on_progress=seen.append)
    *_, before, last = [line["true_return"] for line in run.history]
    assert math.isnan(last)
    assert math.isfinite(before)
    assert seen[-1].rounds == 6
    assert seen[-1].latest[0]["true_return"] == before


@pytest.mark.parametrize(("count", "words"), [(2, "lowest to highest"), (6, "with 95%")])
def test_fewer_than_six_seeds_give_a_range_and_no_interval_of_95_per_cent(count, words, capsys):
    each = [dict(true_return=float(seed)) for seed in range(count)]
    record = dict(env="dot", algorithm="pbrl", seeds=count, each_seed=each, true_return=1.0)
    record |= dict(interval=(0.0, 1.0), teacher="oracle", labels=6, reward_accuracy=0.8, held_out=5)
    print_rlhf(record | dict(steps=9, scored="it", wall_seconds=1.0, faults=()))
    out = " ".join(capsys.readouterr().out.split())
    assert words in out and "80% of 5 answers that" in out


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ({0: [NAN, 1.0, NAN, 3.0]}, {10: 1.0, 20: 2.0, 30: 3.0}),
        ({0: [1.0, NAN, 3.0, 4.0], 1: [5.0, 2.0, NAN, 0.0]}, {0: 3.0, 10: 2.0, 20: 2.0, 30: 2.0}),
    ],
)
def test_lines_cross_rounds_of_unknown_returns_and_stay_within_the_band(values, median):
    history = [
        dict(seed=seed, round=k, steps=10 * k, true_return=value)
        for seed, line in values.items()
        for k, value in enumerate(line)
    ]
    figure = curve_figure(history, "true_return", "return")
    assert figure is not None
    ax = figure.axes[0]
    *each, middle = [np.asarray(line.get_data()) for line in ax.lines]
    assert dict(middle.T) == median
    assert len(each) == len(values)
    assert len(ax.collections) == (len(values) > 1)
    for band in ax.collections:
        corners = np.asarray(band.get_paths()[0].vertices)
        for x, y in np.concatenate(each, axis=1).T:
            edges = corners[corners[:, 0] == x, 1]
            assert edges.min() <= y <= edges.max()
