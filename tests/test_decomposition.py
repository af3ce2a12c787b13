"""Intent decomposition: overlap with the intent, turn by turn and summed up, by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toys import conversation
from userlm_synth.estimates import difference
from userlm_synth.evaluation.decomposition import (
    decomposition_figures,
    decomposition_places,
    human_turns,
    sampled_turns,
)
from userlm_synth.evaluation.first_turns import SHARES, first_turn_places
from userlm_synth.evaluation.sampling import sample
from userlm_synth.evaluation.simulators import open_simulator
from userlm_synth.recipe import Evaluate, Simulator

GOAL = "bake rye bread"
CHATS = [
    conversation("bread", "ok", "how do i bake the bread?", "so", intent=GOAL, number=0),
    conversation("RYE bread!", "ok", "cake", "no", "thanks", "bye", intent=GOAL, number=1),
    conversation("hello", "hi", "bake", intent=GOAL, number=2),  # closes on a user turn
]
OPTIONS = {"samples": 200, "seed": 0}


def figures(chats=CHATS, texts=None):
    return decomposition_figures(chats, texts or human_turns(chats), **OPTIONS)


def values(record):
    return {name: record[name]["value"] for name in SHARES}


def test_the_overlap_of_each_turn_is_averaged_over_all_turns():
    record, _ = figures()
    # turns: {bread}, {bake bread}; {rye bread}, {cake}, {thanks}; {hello}, {bake}
    assert values(record) == pytest.approx(
        {
            "of_turn": 100 * (1 + 1 + 1 + 0 + 0 + 0 + 1) / 7,
            "of_intent": 100 * (1 / 3 + 2 / 3 + 2 / 3 + 0 + 0 + 0 + 1 / 3) / 7,
            "jaccard": 100 * (1 / 3 + 2 / 3 + 2 / 3 + 0 + 0 + 0 + 1 / 3) / 7,
        }
    )
    assert record["of_turn"]["n"] == 7


def test_cumulative_overlap_is_of_all_words_so_far_over_conversations_that_are_so_long():
    record, _ = figures()
    first, second, third = record["cumulative"]
    assert [one["turn"] for one in (first, second, third)] == [1, 2, 3]
    assert [one["jaccard"]["n"] for one in (first, second, third)] == [3, 3, 1]
    assert values(first)["of_intent"] == pytest.approx(100 * (1 / 3 + 2 / 3 + 0) / 3)
    # {bread bake}, {rye bread cake}, {hello bake}
    assert values(second) == pytest.approx(
        {
            "of_turn": 100 * (1 + 2 / 3 + 1 / 2) / 3,
            "of_intent": 100 * (2 / 3 + 2 / 3 + 1 / 3) / 3,
            "jaccard": 100 * (2 / 3 + 2 / 4 + 1 / 4) / 3,
        }
    )
    assert values(third)["jaccard"] == pytest.approx(100 * 2 / 5)


def test_conversations_are_resampled_and_not_turns():
    _, units = figures()
    one = units["intent_decomposition.of_turn"]
    assert list(one.ids) == ["toy-0", "toy-1", "toy-2"]
    assert one.top.tolist() == [200, 100, 100]
    assert one.bottom.tolist() == [2, 3, 2]


def test_a_simulator_speaks_after_the_human_history_at_every_human_place(tmp_path):
    # as a script, the n-th turn of the user is the n-th text
    (tmp_path / "script.json").write_text(json.dumps(["rye", "rye bread", "bake"]))
    spec = f"scripted:{tmp_path / 'script.json'}"
    model = open_simulator("x", Simulator(spec), Evaluate())
    places = decomposition_places(CHATS)
    assert [len(one.history) for one in places] == [0, 2, 0, 2, 4, 0, 2]
    assert places[4].history == tuple(CHATS[1]["messages"][:4])
    assert not any(one.may_end or one.greedy for one in places)
    assert {one.system for one in places} == {GOAL}
    texts = sampled_turns(CHATS, sample(model, places, tmp_path / "turns.jsonl"))
    assert texts["toy-1"] == ["rye", "rye bread", "bake"]
    made, units = figures(texts=texts)
    assert made["of_turn"] == {"value": 100, "interval": [100, 100], "n": 7}
    human, theirs = figures()
    assert human["of_turn"]["n"] == made["of_turn"]["n"]
    name = "intent_decomposition.of_turn"
    assert difference(units[name], theirs[name], **OPTIONS)["n"] == 3


def test_a_first_turn_is_sampled_once_for_both_figures():
    first = {one.id: one for one in first_turn_places(CHATS)}
    again = {one.id: one for one in decomposition_places(CHATS) if not one.history}
    assert first == again


def test_the_persona_is_shown_and_is_no_part_of_the_intent():
    chat = {**CHATS[0], "persona": "You love bread."}
    assert decomposition_places([chat])[0].system == f"{GOAL}\n\nYou love bread."
    assert figures([chat])[0] == figures(CHATS[:1])[0]


def test_without_conversations_nothing_is_measured():
    assert decomposition_figures([], {}, **OPTIONS) == (None, {})


words = st.lists(st.sampled_from(["bake", "rye", "bread", "tea", "the", "?"]), max_size=5)
turns = st.lists(words.map(" ".join), min_size=1, max_size=4)


@settings(max_examples=40)
@given(st.lists(turns, min_size=1, max_size=5))
def test_more_turns_never_tell_less_of_the_intent(texts):
    chats = [
        conversation(*[part for turn in said for part in (turn, "ok")], intent=GOAL, number=at)
        for at, said in enumerate(texts)
    ]
    for chat in chats:
        record, _ = decomposition_figures([chat], human_turns([chat]), samples=5, seed=0)
        told = [one["of_intent"]["value"] for one in record["cumulative"]]
        assert told == sorted(told)
        assert all(0 <= values(one)["jaccard"] <= 100 for one in record["cumulative"])
        assert told[0] <= told[-1] <= 100
