"""Diversity figures and details: people stay within chance, machines do not, nothing crashes."""

from __future__ import annotations

import gzip
import json
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from userlm_synth import metrics
from userlm_synth.reporting.diversity import lexical, variety
from userlm_synth.reporting.diversity.clusters import topics
from userlm_synth.reporting.embeddings import Vectors, embed
from userlm_synth.reporting.plan import Plan, make_plan, user_text

Record = dict[str, Any]
TOPICS = {
    name: text.split(" ")
    for name, text in {
        "cooking": "onion garlic pan simmer oven recipe butter salt dough flour",
        "cycling": "bike chain wheel brake pedal saddle tyre gear spoke pump",
        "gardens": "soil seed tomato compost prune rose weed shovel mulch bulb",
    }.items()
}
PHRASE = "how do i get this to work when it is so old and what would you take"
COMMON = PHRASE.split(" ")
ALL = list(variety.DEFINITIONS)


@pytest.fixture(autouse=True)
def _no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def person(at: int, rng: random.Random, names: list[str] | None = None) -> Record:
    topic = TOPICS[rng.choice(names or sorted(TOPICS))]
    turns = [
        " ".join(rng.choices(COMMON, k=rng.randint(3, 9)) + rng.choices(topic, k=5))
        for _ in range(rng.randint(1, 4))
    ]
    return said(f"p{at}", *turns) | {"intent": f"fix {at % 9}", "intent_id": f"i{at % 9}"}


def said(name: str, *turns: str) -> Record:
    messages = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Yes."}]
    return {"id": name, "messages": messages}


def people(count: int, seed: int, names: list[str] | None = None) -> list[Record]:
    rng = random.Random(seed)
    return [person(at, rng, names) for at in range(count)]


def planned(made: list[Record], reference: list[Record], seed: int = 0) -> Plan:
    plan = make_plan(made, reference, seed)
    sets = [[user_text(one) for one in side] for side in (plan.made, plan.people, plan.others)]
    (mine, theirs, others), name = embed(sets, None, seed)
    return make_plan(made, reference, seed, vectors=Vectors(mine, theirs, others, name))


def counted(records: list[Record]) -> dict[str, Any]:
    tallies = {name: make() for name, make in variety.tallies().items()}
    for place, record in enumerate(records):
        for tally in tallies.values():
            tally.add(place, record)
    return tallies


def everything(plan: Plan) -> Record:
    """All figures and details, which JSON has to take."""
    figures = {one.key: one.make(plan) for one in variety.DEFINITIONS}
    details = variety.details(plan, counted(plan.made))
    json.dumps([figures, details], allow_nan=False)
    return {"figures": figures, "details": details}


# ---- figures -------------------------------------------------------------------------------------


def test_definitions_are_of_diversity_and_named_once() -> None:
    assert {one.group for one in ALL} == {"diversity"}
    assert len({one.key for one in ALL}) == len({one.name for one in ALL}) == len(ALL) == 12
    assert all(one.description.endswith(".") and one.source for one in ALL)


def test_people_against_people_stay_within_chance() -> None:
    figures = everything(planned(people(100, 7), people(200, 8)))["figures"]
    beyond = [key for key, one in figures.items() if one["beyond_chance"]]
    assert len(beyond) <= 2  # one in twenty by luck, and the figures hang together
    for one in figures.values():
        assert one["made"]["low"] <= one["made"]["value"] <= one["made"]["high"]
        assert one["people"]["low"] <= one["people"]["value"] <= one["people"]["high"]
        assert one["n"] == 100
    still = {key for key, one in figures.items() if one["chance"]["p95"] == 0}
    # the toys' few words are in every half, and nothing is copied
    assert still <= {"distinct_1", "duplicates", "near_duplicates", "recurring_openings"}


def test_what_repeats_itself_is_beyond_chance_in_every_figure_and_on_the_right_side() -> None:
    rng = random.Random(3)
    openers = ["Fix my bike and my chain and my bike?", "Fix my pan and my oven and my pan?"]
    made = [
        said(str(at), openers[at % 2], rng.choice(["Thanks and thanks.", "And now and then?"]))
        for at in range(160)
    ]
    figures = everything(planned(made, people(320, 8)))["figures"]
    assert all(one["beyond_chance"] for one in figures.values())
    higher = {key for key, one in figures.items() if one["difference"] > 0}
    assert higher == {
        "self_bleu", "compression_ratio", "near_duplicates", "duplicates", "recurring_openings",
    }  # fmt: skip


def test_every_half_is_measured_at_the_same_number_of_words() -> None:
    made = [said(str(at), " ".join(COMMON * 3)) for at in range(40)]  # three times as long
    plan = planned(made, people(80, 1))
    sizes: set[int] = set()

    def seen(words: Any) -> float:
        sizes.add(len(words))
        return lexical.distinct_share(words)

    figure = variety._of_words(plan, seen)
    assert isinstance(figure, dict)
    assert sizes - {min(sizes)} == set()
    assert min(sizes) == figure["budget"] >= variety.FEWEST_WORDS


def test_first_turn_diversity_is_that_of_metrics() -> None:
    plan = planned(people(30, 1), people(60, 2))
    figure = variety.first_turns(plan)
    assert isinstance(figure, dict)
    for side, records in (("made", plan.made), ("people", plan.people)):
        first = [record["messages"][0]["content"] for record in records]
        expected = metrics.first_turn_diversity(first)
        assert figure[side]["value"] == pytest.approx(expected, abs=1e-3)


def test_near_duplicates_and_openings_count_what_is_alike_within_a_half() -> None:
    made = [person(at, random.Random(at)) for at in range(100)]
    made[50:] = [one | {"id": f"copy{at}"} for at, one in enumerate(made[:50])]  # 50 pairs
    figures = everything(planned(made, []))["figures"]
    # a copy is in the same half with probability 49/99
    for key in ("duplicates", "near_duplicates"):
        assert figures[key]["made"]["value"] == pytest.approx(100 * 49 / 99, abs=6)
        assert figures[key]["people"] is None
    assert figures["recurring_openings"]["made"]["value"] >= figures["duplicates"]["made"]["value"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("beside", [0, 30])
def test_few_dialogues_give_reasons_or_figures_and_never_nan(count: int, beside: int) -> None:
    figures = everything(planned(people(count, 1), people(beside, 2)))["figures"]
    if count == 1:
        assert all(isinstance(one, str) for one in figures.values())
        assert figures["first_turn_diversity"] == "needs 2 conversations a side"
        assert figures["vendi_score"] == "needs 4 conversations a side"
    if count == 9:
        why = [one for one in figures.values() if isinstance(one, str)]
        assert all("in each half" in one for one in why)
        assert len(why) < 6


THAI = "ฉันต้องการซ่อมจักรยานของฉันวันนี้"
CHINESE = "我想知道怎么修理我的旧自行车请告诉我"


@pytest.mark.parametrize(
    "text", ["the same again and again", "\U0001f600", "\U0001f600 \U0001f600!", ".", "0", THAI,
             CHINESE, "a\ud800b", "<b>", " "]
)  # fmt: skip
@pytest.mark.parametrize("beside", [True, False])
def test_identical_texts_emoji_and_other_scripts(text: str, beside: bool) -> None:
    made = [said(str(at), text, text) for at in range(12)]
    found = everything(planned(made, people(40, 2) if beside else []))
    duplicates = found["figures"]["duplicates"]
    assert duplicates["made"] == {"value": 100, "low": 100, "high": 100}
    if not metrics.words(text):
        for key in ("first_turn_diversity", "self_bleu", "distinct_1", "vendi_score"):
            assert isinstance(found["figures"][key], str)
        assert found["details"]["topics"]["kind"] == "none"


def test_different_texts_in_thai_and_chinese_are_measured() -> None:
    rng = random.Random(1)
    made = [
        said(str(at), "".join(rng.sample(CHINESE, 12)), "".join(rng.sample(CHINESE, 9)))
        for at in range(40)
    ]
    figures = everything(planned(made, []))["figures"]
    assert all(isinstance(one, dict) for one in figures.values())
    assert figures["first_turn_diversity"]["made"]["value"] > 10


def test_a_reference_of_five_gives_few_a_side_and_says_so() -> None:
    figures = everything(planned(people(50, 1), people(5, 2)))["figures"]
    assert figures["first_turn_diversity"]["n"] == 2
    assert figures["mtld"] == "needs 4 conversations a side"


def test_figures_are_the_same_each_time() -> None:
    made, beside = people(30, 1), people(60, 2)
    assert everything(planned(made, beside)) == everything(planned(made, beside))


# ---- details -------------------------------------------------------------------------------------


def test_topics_are_found_with_their_words_and_shares() -> None:
    made = people(60, 1, ["cooking"]) + people(30, 2, ["cycling"])
    plan = planned(made, people(180, 3, ["cycling", "gardens"]))
    found = topics(plan)
    assert found["k"] == 7  # sqrt(90 / 2)
    shares = dict.fromkeys(TOPICS, 0.0)
    beside = dict.fromkeys(TOPICS, 0.0)
    for cluster in found["clusters"]:
        named = [name for name, words in TOPICS.items() if cluster["words"][0] in words]
        assert len(named) == 1, cluster  # the first word is of a topic, not of the common ones
        shares[named[0]] += cluster["share"]
        beside[named[0]] += cluster["people_share"]
        assert not set(cluster["words"][:5]) & set(COMMON), cluster
        if cluster["example"]:
            assert set(cluster["example"]["text"].split()) & set(TOPICS[named[0]])
    assert shares == pytest.approx({"cooking": 200 / 3, "cycling": 100 / 3, "gardens": 0}, abs=1)
    assert beside["cooking"] == pytest.approx(0, abs=1)
    assert sum(beside.values()) == pytest.approx(100)
    assert [one["share"] for one in found["clusters"]] == sorted(
        (one["share"] for one in found["clusters"]), reverse=True
    )


def test_the_example_of_a_topic_is_nearest_to_its_middle() -> None:
    degrees = np.radians([-30, -10, -5, 1, 10, 30, 150, 170, 175, 179, 190, 210])
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], 1).astype(np.float32)
    made = [said(str(at), f"word{at}") for at in range(12)]
    nobody = vectors[:0]
    plan = make_plan(made, [], 0, vectors=Vectors(vectors, nobody, nobody, "angles"))
    found = topics(plan)
    assert {one["example"]["id"] for one in found["clusters"]} == {"3", "9"}
    assert [one["share"] for one in found["clusters"]] == [50, 50]
    assert [one["people_share"] for one in found["clusters"]] == [None, None]


def test_openings_stand_beside_people_s_share() -> None:
    made = [said(str(at), "Could you please help me with it") for at in range(20)]
    reference = [said(f"r{at}", "could you please help" if at < 5 else f"{at}") for at in range(40)]
    (one,) = everything(planned(made, reference))["details"]["openings"]
    assert one == {
        "words": "could you please help",
        "count": 20,
        "share": 100,
        "people_share": 12.5,
    }
    alone = everything(planned(made, []))["details"]["openings"][0]
    assert alone["people_share"] is None


def test_details_have_every_part() -> None:
    details = everything(planned(people(60, 1), people(120, 2)))["details"]
    assert list(details) == [
        "openings", "topics", "per_intent", "repetitions", "near_duplicates",
    ]  # fmt: skip
    assert details["per_intent"]["repeated"] == 9
    assert 0 < details["repetitions"]["unigram_difference"]["value"] < 1
    assert details["topics"]["vectors"].startswith("TF-IDF")


def test_a_real_corpus_repeats_its_openings_as_its_other_half_does() -> None:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA is not set: no real text here")
    with gzip.open(Path(folder) / "coffee.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    random.Random(0).shuffle(records)
    found = everything(planned(records[:300], records[300:900]))
    assert sum(one["beyond_chance"] for one in found["figures"].values()) <= 2
    assert found["figures"]["recurring_openings"]["made"]["value"] > 30
    first = found["details"]["openings"][0]
    assert abs(first["share"] - first["people_share"]) < 6
    assert np.isfinite(found["figures"]["mtld"]["made"]["value"])


def test_two_compared_sets_are_cut_to_one_budget() -> None:
    draw = random.Random(5)

    def talk(name: str, length: int) -> list[Record]:
        said = (" ".join(draw.choices(COMMON, k=length)) for _ in range(40))
        return [
            {"id": f"{name}{at}", "messages": [{"role": "user", "content": text}]}
            for at, text in enumerate(said)
        ]

    short, long = talk("s", 12), talk("l", 60)
    plans = [make_plan(one, [], 0, beside=two) for one, two in ((short, long), (long, short))]
    for one in ALL:
        found: list[Any] = [one.make(plan) for plan in plans]
        if "budget" in found[0]:
            assert found[0]["budget"] == found[1]["budget"], one.key
            alone: Any = one.make(make_plan(long, [], 0))
            assert alone["budget"] > found[1]["budget"], one.key
