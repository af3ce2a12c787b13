"""Figures with intervals: ratios of sums over units, alone and in pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth import estimates
from userlm_synth.estimates import Units, difference


def units(top, bottom=None, **more):
    bottom = [1.0] * len(top) if bottom is None else bottom
    ids = [str(at) for at in range(len(top))]
    return Units(ids, np.array(top, float), np.array(bottom, float), **more)


def test_a_figure_is_a_ratio_of_sums_and_not_a_mean_of_ratios():
    assert units([1, 9], [10, 10], scale=100).value == 50.0
    assert units([2.0, 6.0], [1.0, 3.0], exp=True).value == pytest.approx(math.exp(2))


def test_a_share_of_nothing_is_0_with_an_interval_of_0():
    assert units([0, 0], [0, 0]).estimate(samples=10, seed=0) == {
        "value": 0.0, "interval": [0.0, 0.0], "n": 2,
    }  # fmt: skip


def test_the_interval_of_a_mean_is_the_normal_one_for_many_units():
    rng = np.random.default_rng(1)
    values = rng.normal(3, 2, 4000)
    found = units(values).estimate(samples=2000, seed=0)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert found["interval"] == pytest.approx(
        [values.mean() - half, values.mean() + half], abs=0.01
    )
    assert found["n"] == 4000


def test_intervals_of_many_units_are_drawn_some_resamples_at_a_time(monkeypatch):
    whole = units(range(50)).estimate(samples=200, seed=3)
    monkeypatch.setattr(estimates, "BLOCK", 50 * 7)
    parts = units(range(50)).estimate(samples=200, seed=3)
    assert parts == whole
    assert sum(len(one) for one in estimates._draws(50, 200, 3)) == 200


def test_n_is_what_was_measured_where_units_hold_several_things():
    assert units([1, 2], [3, 4], count=7).estimate(samples=10, seed=0)["n"] == 7


def test_pairs_show_a_small_steady_difference_that_separate_intervals_would_hide():
    hard = np.random.default_rng(0).normal(10, 5, 300)
    one, other = units(hard + 0.1), units(hard)
    apart = difference(one, other, samples=1000, seed=0)
    assert apart["value"] == pytest.approx(0.1)
    assert apart["interval"][0] > 0
    assert apart["p"] == pytest.approx(1 / 1000)
    low, high = other.estimate(samples=1000, seed=0)["interval"]
    assert low < one.value < high  # alone, each would look like the other


def test_perplexities_are_compared_by_their_ratio():
    found = difference(units([4.0, 8.0], [2, 4], exp=True), units([2.0, 4.0], [2, 4], exp=True),
                       samples=100, seed=0)  # fmt: skip
    assert (found["kind"], found["value"]) == ("ratio", pytest.approx(math.e))


def test_a_difference_is_taken_on_the_units_that_both_have():
    one = Units(["a", "b"], np.array([1.0, 5.0]), np.ones(2))
    other = Units(["b", "c"], np.array([3.0, 100.0]), np.ones(2))
    found = difference(one, other, samples=50, seed=0)
    assert (found["value"], found["n"]) == (2.0, 1)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_the_same_figure_twice_is_no_difference(values):
    found = difference(units(values), units(values), samples=50, seed=0)
    assert found["value"] == 0
    assert found["p"] == 1.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 100)), min_size=1, max_size=20))
def test_units_are_the_same_after_they_were_written_and_read(pairs):
    made = units([a for a, _ in pairs], [b for _, b in pairs], scale=100.0)
    again = Units.read(made.plain())
    assert again.ids == made.ids
    assert again.value == made.value
