"""Termination: counts by hand, ranks, whole conversations resampled, and what is not measured."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from toys import conversation
from userlm_synth.estimates import difference
from userlm_synth.evaluation.scores import Places
from userlm_synth.evaluation.termination import (
    NO_END_TOKEN,
    NO_ENDS,
    by_turn,
    ranks,
    termination,
    with_replies,
)

CHATS = [
    conversation("a", "b", "c", "d", number=0),  # goes on at 2, ends at 3
    conversation("a", "b", number=1),  # ends at 2
    conversation("a", "b", "c", number=2),  # goes on at 2, closes on the user's turn
    conversation("a", number=3),  # has no place
    conversation("a", "b", "c", "d", "e", "f", number=4),  # goes on at 2 and 3, ends at 4
]
IDS = [one["id"] for one in CHATS]
LEAVES = [False, True, True, True, True, False, False]
CHANCES = [0.1, 0.9, 0.8, 0.7, 0.85, 0.2, 0.6]


def places(leaves: Any = LEAVES, chances: Any = CHANCES) -> Places:
    found = Places.of(CHATS)
    found.leaves = None if leaves is None else np.array(leaves)
    found.probability = None if chances is None else np.array(chances)
    return found


def figures(some: Places, ids: Any = IDS, samples: int = 100) -> tuple[Any, Any]:
    return termination(some, ids, by="probability", samples=samples, seed=0)


def test_places_are_where_a_user_may_leave_and_ends_are_where_one_did():
    found = Places.of(CHATS)
    assert found.owner.tolist() == [0, 0, 1, 2, 4, 4, 4]
    assert found.turn.tolist() == [2, 3, 2, 2, 2, 3, 4]
    assert found.ended.tolist() == [False, True, True, False, False, False, True]


def test_a_conversation_that_closes_on_a_user_turn_has_no_end():
    assert not Places.of(CHATS[2:4]).ended.any()


def test_hits_misses_and_false_alarms_are_counted():
    found, units = figures(places())
    # said: 3 (0), 2 (1), 2 (2), 2 (4); real: 3 (0), 2 (1), 4 (4)
    assert found["precision"]["value"] == 50.0
    assert found["recall"]["value"] == pytest.approx(200 / 3)
    assert found["f1"]["value"] == pytest.approx(200 * 2 / (4 + 3))
    assert [found[name]["n"] for name in ("precision", "recall", "f1")] == [4, 3, 7]
    assert (found["n"], found["ends"], found["by"]) == (7, 3, "probability")
    assert found["mean_probability_at_end"] == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    assert found["mean_probability_elsewhere"] == pytest.approx((0.1 + 0.7 + 0.85 + 0.2) / 4)
    assert set(units) == {"termination.precision", "termination.recall", "termination.f1"}
    assert list(units["termination.f1"].ids) == ["toy-0", "toy-1", "toy-2", "toy-4"]
    low, high = found["f1"]["interval"]
    assert low < found["f1"]["value"] < high


def test_figures_by_turn_are_those_of_the_places_with_that_number():
    found = {one["turn"]: one for one in by_turn(places(), np.array(LEAVES))}
    assert {turn: (one["n"], one["ends"]) for turn, one in found.items()} == {
        2: (4, 1), 3: (2, 1), 4: (1, 1),
    }  # fmt: skip
    assert found[2]["precision"] == pytest.approx(100 / 3)
    assert (found[2]["recall"], found[2]["f1"]) == (100.0, 50.0)
    assert (found[3]["precision"], found[3]["recall"], found[3]["f1"]) == (100.0, 100.0, 100.0)
    assert (found[4]["precision"], found[4]["recall"], found[4]["f1"]) == (0.0, 0.0, 0.0)


def test_auroc_is_the_share_of_pairs_in_order_and_average_precision_is_by_the_ranks():
    found, _ = figures(places())
    pairs = [end > x for end in (0.9, 0.8, 0.6) for x in (0.1, 0.7, 0.85, 0.2)]
    assert found["auroc"]["value"] == pytest.approx(100 * sum(pairs) / 12)
    # ranks of the ends: 1, 3, 5
    assert found["average_precision"]["value"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 3)
    assert found["auroc"]["n"] == 7


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 3)),
        min_size=2, max_size=30,
    )
)  # fmt: skip
def test_resampled_ranks_are_those_of_scikit_learn_with_ties_and_weights(rows):
    ended, chance, weights = (np.array(column) for column in zip(*rows, strict=True))
    auroc, average = ranks(ended, chance, weights[None])[:, 0]
    if weights[ended].any() and weights[~ended].any():
        assert auroc == pytest.approx(roc_auc_score(ended, chance, sample_weight=weights))
        wanted = average_precision_score(ended, chance, sample_weight=weights)
        assert average == pytest.approx(wanted)
    else:
        assert np.isnan(auroc)
        assert np.isnan(average)


def test_whole_conversations_are_resampled_so_that_copies_of_places_teach_nothing():
    rng = np.random.default_rng(1)

    def some(copies: int) -> Places:
        """40 conversations, whose places are alike."""
        ended = rng.random(40) < 0.5
        chance = np.where(ended, 0.6, 0.4) + rng.normal(0, 0.2, 40)
        owner = np.repeat(np.arange(40), copies)
        return Places(
            owner, np.full(len(owner), 2), ended[owner], chance[owner] > 0.5, chance[owner]
        )

    once, often = some(1), some(50)
    often.ended, often.leaves = once.ended[often.owner], once.leaves[often.owner]
    often.probability = once.probability[often.owner]
    ids = [str(n) for n in range(40)]
    one, other = (figures(each, ids, samples=300)[0] for each in (once, often))
    for name in ("precision", "recall", "f1", "auroc"):
        assert other[name]["value"] == pytest.approx(one[name]["value"])
        assert other[name]["interval"] == pytest.approx(one[name]["interval"])


def test_two_models_are_compared_in_pairs_on_the_same_conversations():
    _, one = figures(places())
    _, other = figures(places(leaves=[False, True, True, False, False, False, True]))
    found = difference(one["termination.f1"], other["termination.f1"], samples=100, seed=0)
    assert found["value"] == pytest.approx(400 / 7 - 100)
    assert found["n"] == 4


def test_greedy_replies_take_the_place_of_the_threshold_and_keep_the_probabilities():
    scored = places(leaves=None)
    replied = with_replies(Places.of(CHATS), LEAVES, scored)
    found, _ = termination(replied, IDS, by="greedy", samples=100, seed=0)
    assert found == {**figures(places())[0], "by": "greedy"}
    alone, _ = termination(
        with_replies(Places.of(CHATS), LEAVES), IDS, by="greedy", samples=100, seed=0
    )
    assert alone["auroc"] is alone["average_precision"] is alone["mean_probability_at_end"] is None
    assert alone["f1"] == found["f1"]
    with pytest.raises(ValueError, match="7 places, and 2 replies"):
        with_replies(scored, [True, False])


def test_why_nothing_is_measured():
    assert figures(places(leaves=None)) == (NO_END_TOKEN, {})
    open_ended = Places.of(CHATS[2:4])
    open_ended.leaves = np.array([True])
    assert figures(open_ended, IDS[2:4]) == (NO_ENDS, {})


def test_a_single_end_of_a_single_conversation_has_an_interval_too():
    one = Places.of(CHATS[:1])
    one.leaves, one.probability = np.array([False, True]), np.array([0.2, 0.1])
    found, _ = figures(one, IDS[:1])
    assert found["auroc"] == {"value": 0.0, "interval": [0.0, 0.0], "n": 2}


def test_where_every_place_is_an_end_nothing_is_ranked():
    ends = Places.of(CHATS[1:2])
    ends.leaves, ends.probability = np.array([True]), np.array([0.5])
    found, _ = figures(ends, IDS[1:2])
    assert found["auroc"] is None
    assert found["mean_probability_elsewhere"] is None
    assert found["f1"]["value"] == 100.0


def test_twenty_thousand_places_take_seconds():
    rng = np.random.default_rng(0)
    owner = np.sort(rng.integers(0, 5000, 20_000))
    ended = np.append(owner[1:] != owner[:-1], True)
    chance = rng.random(20_000) + 0.3 * ended
    many = Places(owner, np.full(20_000, 2), ended, chance > 0.8, chance)
    started = time.process_time()
    found, _ = figures(many, [str(n) for n in range(5000)], samples=300)
    assert time.process_time() - started < 10
    low, high = found["auroc"]["interval"]
    assert low < found["auroc"]["value"] < high < low + 5
