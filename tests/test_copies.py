"""Copies and repetitions over all dialogues: what is planted is found, and blocks merge exactly."""

from __future__ import annotations

import json
import pickle
import random
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.metrics import jaccard_matrix
from userlm_synth.reporting.diversity import copies, repeats
from userlm_synth.reporting.diversity.alike import Prints, alike, recurring, text_hash
from userlm_synth.reporting.diversity.copies import Copies, opening_of
from userlm_synth.reporting.diversity.repeats import Repeats

Record = dict[str, Any]
VOCABULARY = [f"word{at}" for at in range(400)]


def dialogue(name: str, *turns: str, **fields: Any) -> Record:
    messages = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Yes."}]
    return {"id": name, "messages": messages, **fields}


def prose(rng: random.Random, count: int = 60) -> list[str]:
    return rng.choices(VOCABULARY, k=count)


def planted() -> list[Record]:
    """300 dialogues: 0, 100 and 200 identical, 50 and 250 near, the others apart."""
    rng = random.Random(5)
    texts = [prose(rng) for _ in range(300)]
    texts[100] = texts[200] = texts[0]
    texts[250] = [*texts[50][:30], "changed", *texts[50][31:]]
    return [dialogue(f"d{at}", "Could you please help me", " ".join(t)) for at, t in
            enumerate(texts)]  # fmt: skip


def counted(records: list[Record], tally: Any = Copies, cuts: tuple[int, ...] = ()) -> Any:
    """A tally over the records, in blocks that went through pickle, merged in order."""
    parts = []
    bounds = [0, *sorted(cuts), len(records)]
    for start, end in pairwise(bounds):
        one = tally()
        for place in range(start, end):
            one.add(place, records[place])
        parts.append(pickle.loads(pickle.dumps(one)))
    first, *later = parts
    for one in later:
        first.merge(one)
    return first


# ---- near-duplicates -----------------------------------------------------------------------------


def test_planted_copies_are_found_and_identical_ones_counted_apart() -> None:
    found = counted(planted()).near_duplicates()
    assert found["n"] == 300
    assert found["share"] == pytest.approx(100 * 5 / 300)
    assert found["surplus"] == pytest.approx(100 * 3 / 300)
    assert found["identical"]["share"] == pytest.approx(100 * 3 / 300)
    assert found["identical"]["groups"] == found["near"]["groups"] == 1
    assert found["identical"]["largest"][0]["ids"] == ["d0", "d100", "d200"]
    assert found["near"]["share"] == pytest.approx(100 * 2 / 300)
    assert found["near"]["largest"][0]["ids"] == ["d50", "d250"]
    (pair,) = found["pairs"]
    assert (pair["ids"], pair["places"]) == (["d50", "d250"], [50, 250])
    assert pair["texts"][1].startswith("Could you please help me\n")
    assert "changed" in pair["texts"][1]
    assert "changed" not in pair["texts"][0]
    assert 0.8 <= pair["similarity"] < 1


@given(st.lists(st.integers(0, 300), max_size=6))
@settings(max_examples=6, deadline=None)
def test_blocks_merge_to_the_same_result(cuts: list[int]) -> None:
    records = planted()
    assert counted(records, cuts=tuple(cuts)).result() == counted(records).result()


def test_lots_are_packed_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    records = planted()
    expected = counted(records).result()
    monkeypatch.setattr(copies, "LOT", 7)
    assert counted(records).result() == expected


def test_a_chain_of_near_duplicates_is_one_group_with_one_pair_each() -> None:
    rng = random.Random(1)
    text, records = prose(rng, 150), []
    for at in range(12):
        text = [*text[: 9 * at], f"new{at}", *text[9 * at + 1 :]]
        records.append(dialogue(f"d{at}", " ".join(text)))
    found = counted(records).near_duplicates()
    assert found["near"]["largest"][0]["count"] == found["near"]["largest"][0]["different"] == 12
    assert found["surplus"] == pytest.approx(100 * 11 / 12)
    names = [name for pair in found["pairs"] for name in pair["ids"]]
    assert len(names) == len(set(names)) > 2  # each dialogue is in one pair


def test_similarity_is_near_the_jaccard_index_of_3_grams() -> None:
    rng = random.Random(2)
    for changed in (1, 3, 5):
        one = prose(rng, 150)
        two = list(one)
        for at in range(changed):
            two[20 * at + 10] = f"new{at}"
        sets = [{tuple(t[at : at + 3]) for at in range(148)} for t in (one, two)]
        exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        records = [dialogue("a", " ".join(one)), dialogue("b", " ".join(two))]
        (pair,) = counted(records).near_duplicates()["pairs"]
        assert pair["similarity"] == pytest.approx(exact, abs=0.12)


def test_texts_too_short_for_a_3_gram_are_alike_only_when_identical() -> None:
    texts = ["hi", "hello", "hi there", "hi", "\U0001f600", "\U0001f600\U0001f600", "", "thanks"]
    found = counted([dialogue(str(at), text) for at, text in enumerate(texts)]).near_duplicates()
    assert found["pairs"] == []
    assert found["share"] == pytest.approx(100 * 2 / 8)


def test_a_million_dialogues_would_fit() -> None:
    rng = random.Random(3)
    records = [dialogue(f"dialogue-{at:08}", " ".join(prose(rng, 120))) for at in range(2000)]
    tally = counted(records)
    assert len(pickle.dumps(tally)) / 2000 < 700  # bytes each: 0.7 GB a million


def test_all_identical_and_none_at_all() -> None:
    same = counted([dialogue(str(at), "how do i fix my bike") for at in range(50)]).result()
    near = same["near_duplicates"]
    assert (near["share"], near["surplus"]) == (100, 98)
    assert near["near"] == {"share": 0, "groups": 0, "largest": []}
    assert len(near["identical"]["largest"][0]["ids"]) == 5
    assert same["openings"] == [{"words": "how do i fix", "count": 50, "share": 100}]
    nothing = counted([]).result()
    assert nothing["openings"] == []
    assert nothing["near_duplicates"]["share"] == 0
    json.dumps([same, nothing], allow_nan=False)


def test_groups_are_the_linked_ones_whatever_the_order() -> None:
    rng = random.Random(8)
    base = [prose(rng, 100) for _ in range(20)]
    texts = [[*base[at % 20][: at // 20], "x", *base[at % 20][at // 20 + 1 :]] for at in range(100)]
    order = list(range(100))
    rng.shuffle(order)
    shuffled = [texts[at] for at in order]
    found = alike(Prints.of([text_hash(" ".join(t)) for t in shuffled], shuffled))
    groups = {frozenset(at % 20 for at, g in zip(order, found.group, strict=True) if g == one)
              for one in set(found.group.tolist())}  # fmt: skip
    assert groups == {frozenset({at}) for at in range(20)}
    assert all(found.group[row] <= row for row in range(100))


def test_recurring_marks_labels_of_two_rows_or_more() -> None:
    assert recurring(np.array([3, 1, 3, 2])).tolist() == [True, False, True, False]
    assert recurring(np.zeros(0, np.int64)).tolist() == []


# ---- openings ------------------------------------------------------------------------------------


def test_openings_are_counted_by_their_first_four_words() -> None:
    assert opening_of("I'm looking for... a NEW bike!") == "i'm looking for a"
    assert opening_of("Hi!") == "hi"
    assert opening_of("\U0001f600") == ""
    assert opening_of("你好吗朋友") == "你 好 吗 朋"
    texts = ["How do I fix it?", "how do i fix my bike", "Hello", "\U0001f600", "\U0001f600"]
    found = counted([dialogue(str(at), text) for at, text in enumerate(texts)]).openings()
    assert found == [{"words": "how do i fix", "count": 2, "share": 40}]


def test_the_most_frequent_openings_come_first_and_are_twenty() -> None:
    rng = random.Random(4)
    texts = [f"a{at} b c d e" for at in range(30) for _ in range(at + 1)]
    rng.shuffle(texts)
    found = counted([dialogue(str(at), text) for at, text in enumerate(texts)]).openings()
    assert [one["count"] for one in found] == list(range(30, 10, -1))
    assert found[0]["words"] == "a29 b c d"


# ---- repetitions of one intent -------------------------------------------------------------------


def repeated(intents: int, each: int, alike_turns: bool = False) -> list[Record]:
    rng = random.Random(9)
    records = []
    for at in range(intents * each):
        turn = "the same words again" if alike_turns else " ".join(prose(rng, 8))
        intent = f"i{at % intents}"
        fields = {"intent_id": intent, "intent": f"do {intent}"}
        records.append(dialogue(str(at), turn, "and more", **fields))
    return records


def test_diversity_and_unigram_difference_within_an_intent_by_hand() -> None:
    records = [
        dialogue("a", "fix bikes", "now", intent_id="i", intent="fix"),
        dialogue("b", "fix my bike", "now", intent_id="i", intent="fix"),
        dialogue("c", "cook rice", intent_id="j", intent="cook"),
    ]
    found = counted(records, Repeats).result()
    # {fix, bikes} and {fix, my, bike}: 1 of 4 words; lemmas {fix, bike, now}, {fix, my, bike, now}
    one = {"value": 75.0, "low": 75.0, "high": 75.0}
    assert found["per_intent"]["within"] == one
    assert found["per_intent"]["across"] == pytest.approx(100)
    (intent,) = found["per_intent"]["intents"]
    assert intent == {
        "id": "i",
        "intent": "fix",
        "count": 2,
        "compared": 2,
        "diversity": 75,
        "unigram_difference": 0.25,
    }
    assert found["repetitions"]["unigram_difference"]["value"] == 0.25
    assert (found["repetitions"]["intents"], found["repetitions"]["dialogues"]) == (1, 2)


def test_repetitions_alike_differ_less_than_other_intents() -> None:
    found = counted(repeated(20, 4, alike_turns=True), Repeats).result()
    assert found["repetitions"]["unigram_difference"]["value"] == 0
    assert found["per_intent"]["within"]["value"] == 0
    varied = counted(repeated(20, 4), Repeats).result()
    assert varied["repetitions"]["unigram_difference"]["value"] > 0.7
    assert varied["repetitions"]["across"] > 0.7
    assert len(varied["per_intent"]["intents"]) == repeats.SHOWN


@given(st.lists(st.integers(0, 120), max_size=6))
@settings(max_examples=6, deadline=None)
def test_drawn_intents_do_not_depend_on_blocks(cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "INTENTS", 7)
        patch.setattr(repeats, "EACH", 3)
        records = repeated(30, 4)
        whole, parts = counted(records, Repeats), counted(records, Repeats, tuple(cuts))
        assert parts.result() == whole.result()
        assert whole.result()["per_intent"]["drawn"] == 7
        assert whole.result()["repetitions"]["dialogues"] == 21
        assert all(one["count"] == 4 for one in whole.result()["per_intent"]["intents"])


def test_without_intents_or_repetitions_the_reason_is_given() -> None:
    none = counted([dialogue("a", "x"), dialogue("b", "y")], Repeats).result()
    assert none["per_intent"] == {"kind": "none", "why": "the dialogues name no intent"}
    single = counted(repeated(5, 1), Repeats).result()
    assert single["repetitions"] == {"kind": "none", "why": "no intent has two dialogues"}
    by_text = [dialogue("a", "x", intent="z", intent_id=None), dialogue("b", "x", intent="z")]
    assert counted(by_text, Repeats).result()["per_intent"]["intents"][0]["id"] is None


def test_first_turn_diversity_within_is_that_of_all_pairs() -> None:
    records = repeated(1, 6)
    turns = [record["messages"][0]["content"] for record in records]
    matrix = jaccard_matrix(turns)
    pairs = [float(matrix[a, b]) for a, b in combinations(range(6), 2)]
    found = counted(records, Repeats).result()["per_intent"]
    assert found["within"]["value"] == pytest.approx(100 * (1 - sum(pairs) / len(pairs)), abs=1e-4)
    assert found["across"] is None
