"""Naturalness figures: what they say of sets that differ, that do not, and that hold nothing."""

from __future__ import annotations

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from userlm_synth.records import read_lines
from userlm_synth.reporting.embeddings import Vectors, embed
from userlm_synth.reporting.naturalness import apart, natural, style
from userlm_synth.reporting.plan import Plan, make_plan, user_text

Record = dict[str, Any]
FIGURES = {one.key: one for one in natural.DEFINITIONS}
TOLD = ("classifier", "mauve", "frechet")
SUBJECTS = [
    "bikes",
    "tea",
    "maps",
    "trains",
    "bread",
    "songs",
    "chess",
    "stars",
    "paint",
    "clocks",
    "rivers",
    "shoes",
]
VERBS = ["buy", "mend", "find", "draw", "count", "sell", "learn", "clean", "move", "borrow"]

pytestmark = pytest.mark.filterwarnings("error")


def chat(name: str, *turns: str, intent: str | None = None, **more: Any) -> Record:
    """A conversation whose user says these turns."""
    messages: list[Record] = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Sure."}]
    return {"id": name, "intent": intent, "messages": messages, **more}


def casual(draw: random.Random, name: str) -> Record:
    """As people here write: without capitals and stops."""
    one, two = draw.sample(SUBJECTS, 2)
    first = f"how do i {draw.choice(VERBS)} {one} {draw.choice(['pls', 'quick', 'at home', ''])}"
    return chat(name, first, f"ok and {draw.choice(VERBS)} {two} too")


def stiff(draw: random.Random, name: str) -> Record:
    """As no one here writes."""
    one, two = draw.sample(SUBJECTS, 2)
    first = f"Could you please explain how to {draw.choice(VERBS)} {one}?"
    return chat(name, first, f"Thank you! Additionally, I would like to discuss {two}.")


def records(make: Any, n: int, seed: int) -> list[Record]:
    draw = random.Random(seed)
    return [make(draw, f"{make.__name__}-{seed}-{at}") for at in range(n)]


def plan_of(made: list[Record], reference: list[Record], seed: int = 0) -> Plan:
    """A plan with its vectors."""
    bare = make_plan(made, reference, seed)
    sets = [[user_text(one) for one in side] for side in (bare.made, bare.people, bare.others)]
    (one, two, three), name = embed(sets, None, seed)
    return make_plan(made, reference, seed, vectors=Vectors(one, two, three, name))


@pytest.fixture(scope="module")
def differing() -> Plan:
    return plan_of(records(stiff, 120, 1), records(casual, 240, 2))


@pytest.fixture(scope="module")
def alike() -> Plan:
    return plan_of(records(casual, 120, 3), records(casual, 240, 4))


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [one for item in value.values() for one in numbers(item)]
    return [value] if isinstance(value, float) else []


# ---- told from people ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", TOLD)
def test_another_way_of_writing_is_beyond_chance(differing: Plan, key: str) -> None:
    found = FIGURES[key].make(differing)
    assert isinstance(found, dict)
    assert found["kind"] == "between"
    assert found["beyond_chance"] is True
    assert found["n"] == 120
    for side in (found["made"], found["floor"]):
        assert side["low"] <= side["value"] <= side["high"]


@pytest.mark.parametrize("key", TOLD)
def test_the_same_way_of_writing_is_not(alike: Plan, key: str) -> None:
    found = FIGURES[key].make(alike)
    assert isinstance(found, dict)
    assert found["beyond_chance"] is False
    assert found["made"]["low"] <= found["floor"]["high"]
    assert found["floor"]["low"] <= found["made"]["high"]


def test_the_floor_is_of_people_alone(differing: Plan, alike: Plan) -> None:
    found: Any = FIGURES["classifier"].make(differing)
    assert found["made"]["value"] == 100
    assert 35 < found["floor"]["value"] < 65
    here, there = differing.vectors, alike.vectors
    assert here
    assert there
    mixed = Vectors(here.made, there.people, there.others, "mixed")
    plan = make_plan(differing.made, alike.pool, 0, vectors=mixed)
    for key in ("mauve", "frechet"):
        one, other = (FIGURES[key].make(which) for which in (plan, alike))
        assert one["floor"] == other["floor"], key  # type: ignore[index]
        assert one["made"] != other["made"], key  # type: ignore[index]


@pytest.mark.parametrize("key", ["mauve", "frechet"])
def test_equal_sets_of_vectors_raise_no_alarm_more_often_than_they_should(key: str) -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for seed in range(30):
        rows = rng.standard_normal((3, 60, 5)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        nothing = [chat(str(at), "x") for at in range(120)]
        plan = make_plan(nothing[:60], nothing, seed, vectors=Vectors(*rows, "drawn"))
        alarms += FIGURES[key].make(plan)["beyond_chance"]  # type: ignore[index]
    assert alarms <= 4  # 2.5 % of 30 is 0.75; five or more are less likely than 1 in 500


@pytest.mark.parametrize("key", ["mauve", "frechet"])
def test_an_interval_is_as_wide_as_the_figure_varies(key: str) -> None:
    rng = np.random.default_rng(1)
    values, widths = [], []
    for seed in range(30):
        rows = rng.standard_normal((3, 80, 4)).astype(np.float32) + np.float32(0.4)
        rows[0] += np.float32(0.5) * np.array([1, -1, 1, -1], dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        nothing = [chat(str(at), "x") for at in range(160)]
        plan = make_plan(nothing[:80], nothing, seed, vectors=Vectors(*rows, "drawn"))
        found: Any = FIGURES[key].make(plan)
        values.append(found["made"]["value"])
        widths.append(found["made"]["high"] - found["made"]["low"])
    ratio = float(np.median(widths)) / (2 * 1.96 * float(np.std(values, ddof=1)))
    assert 0.6 < ratio < 1.7


def test_figures_are_the_same_again(alike: Plan) -> None:
    again = plan_of(records(casual, 120, 3), records(casual, 240, 4))
    assert [FIGURES[key].make(again) for key in TOLD] == [FIGURES[key].make(alike) for key in TOLD]


# ---- the least natural ---------------------------------------------------------------------------


def test_the_least_natural_dialogues_are_those_that_do_not_write_as_people_do() -> None:
    made = records(casual, 90, 5)
    odd = {3, 40, 77}
    for at, one in zip(sorted(odd), records(stiff, 3, 6), strict=True):
        made[at] = one
    made += records(stiff, 30, 7)  # the kind that the model learns to tell
    found, why = natural.least_natural(plan_of(made, records(casual, 240, 8)), k=33)
    assert why == ""
    assert {at for at, _ in found} == odd | set(range(90, 120))
    scores = [score for _, score in found]
    assert scores == sorted(scores)
    assert 0 <= scores[0] <= scores[-1] < 50


def test_a_dialogue_is_never_judged_by_a_model_that_saw_it(
    differing: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[int], set[int]]] = []
    from userlm_synth.naturalness import classifier

    real = classifier.splits

    def watched(corpus: Any, learned: Any, judged: Any, **more: Any) -> Any:
        for learn, judge in real(corpus, learned, judged, **more):
            seen.append((set(corpus.groups[learn].tolist()), set(corpus.groups[judge].tolist())))
            yield learn, judge

    monkeypatch.setattr(classifier, "splits", watched)
    again = make_plan(differing.made, differing.pool, 0, vectors=differing.vectors)
    assert natural.least_natural(again, k=3)[0]
    assert len(seen) == 3 * apart.FOLDS
    assert all(not learnt & judged for learnt, judged in seen)


def test_the_classifier_runs_once_for_the_figure_and_the_least_natural(
    differing: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = apart._tell
    monkeypatch.setattr(apart, "_tell", lambda plan: calls.append(plan) or real(plan))
    again = make_plan(differing.made, differing.pool, 1, vectors=differing.vectors)
    FIGURES["classifier"].make(again)
    natural.least_natural(again)
    assert len(calls) == 1


# ---- nothing to measure --------------------------------------------------------------------------


def test_without_a_reference_the_reason_is_given_and_style_stands_alone() -> None:
    plan = plan_of(records(casual, 30, 0), [])
    for key in TOLD:
        assert FIGURES[key].make(plan) == "needs a reference: conversations of people"
    assert natural.least_natural(plan) == ([], "needs a reference: conversations of people")
    found: Any = FIGURES["all_lower_case"].make(plan)
    assert found["made"]["value"] == 100
    assert found["people"] is None


def test_five_conversations_of_people_are_too_few_for_a_classifier() -> None:
    plan = plan_of(records(casual, 30, 0), records(casual, 5, 1))
    for key in TOLD:
        assert FIGURES[key].make(plan) == "needs 20 conversations a side; there are 2"


ODD = {
    "emoji": lambda at: "\U0001f600" * (at % 3 + 1),
    "one text": lambda at: "Hello there, how are you?",
    "thai": lambda at: "สวัสดีครับ วันนี้เป็นอย่างไร" + "ก" * at,
    "chinese": lambda at: "你好，" + "请问今天天气怎么样？"[at % 9 :],
    "spaces": lambda at: " \n ",
    "empty": lambda at: "",
}


@pytest.mark.parametrize("people", ["same", "casual"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_texts_give_numbers_or_a_reason_and_no_warning(kind: str, people: str) -> None:
    made = [chat(f"d{at}", ODD[kind](at)) for at in range(24)]
    others = [chat(f"h{at}", ODD[kind](at)) for at in range(48)]
    plan = plan_of(made, others if people == "same" else records(casual, 48, 1))
    for one in natural.DEFINITIONS:
        found = one.make(plan)
        assert isinstance(found, str) or all(map(math.isfinite, numbers(found))), one.key
        assert found, one.key
    least, why = natural.least_natural(plan)
    assert bool(least) != bool(why)


def test_texts_that_are_all_the_same_leave_the_classifier_nothing() -> None:
    same = [chat(str(at), "Hello there") for at in range(90)]
    assert FIGURES["classifier"].make(plan_of(same[:30], same[30:])) == apart.ALL_ALIKE


def test_one_dialogue_has_a_reason_for_every_comparison() -> None:
    plan = plan_of(records(casual, 1, 0), records(casual, 10, 1))
    assert {FIGURES[key].make(plan) for key in TOLD} == {
        "needs 20 conversations a side; there are 1"
    }


# ---- style ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "yes", "no"),
    [
        (style.starts_with_capital, ["Hi", "  Élan"], ["hi", "1 Hi", "", "你好"]),
        (style.ends_with_stop, ["hi.", "hi! ", "?"], ["hi", "hi.)", ""]),
        (style.all_lower_case, ["hi there 2", "élan"], ["Hi", "hI", "123", ""]),
        (style.has_question_mark, ["a? b"], ["a"]),
        (style.has_exclamation, ["a! b"], ["a"]),
        (style.is_polite, ["Please!", "ok thank you"], ["pleased", "thankful"]),
        (style.has_emoji, ["ok \U0001f44d", "❤️"], ["ok :)", "naïve – “so”…", "你好"]),
    ],
)
def test_a_mark_is_seen_where_it_is_and_nowhere_else(mark: Any, yes: Any, no: Any) -> None:
    assert [text for text in yes if not mark(text)] == []
    assert [text for text in no if mark(text)] == []


def test_a_style_rate_is_over_turns_and_stands_beside_peoples(differing: Plan) -> None:
    for key, made, people in [
        ("starts_with_capital", 100, 0),
        ("all_lower_case", 0, 100),
        ("has_politeness", 100, None),
        ("user_turns", 2, 2),
    ]:
        found: Any = FIGURES[key].make(differing)
        assert found["kind"] == "sides"
        assert found["made"]["value"] == made, key
        if people is not None:
            assert found["people"]["value"] == people, key
            assert found["beyond_chance"] is (made != people)


def test_misspelt_words_are_counted_in_english_alone() -> None:
    english = chat("a", "I didn't recieve teh parcel that they've sent me on Monday, 3rd of May")
    assert style.unknown_words(english) == (2, 12)  # "I" and "3rd" are not looked up
    german = chat("b", "Ich habe das Paket leider nicht bekommen, das Sie geschickt haben")
    assert style.unknown_words(german) == (0, 0)
    assert FIGURES["unknown_words"].make(make_plan([german] * 3, [], 0)) == natural.NOTHING_ENGLISH


def test_front_loading_is_the_share_of_told_intent_words_in_the_first_turn() -> None:
    intent = "You are a user chatting with an assistant language model to order a large latte and "
    intent += "pay with a card."
    told = chat("a", "Can I get a latte?", "large ones. I pay cash", intent=intent)
    # order is not told; latte first, large and pay later; card never
    assert style.front_loading(told) == (1, 3)
    assert style.front_loading(chat("b", "latte")) == (0, 0)
    assert FIGURES["front_loading"].make(make_plan([chat("c", "x")] * 2, [], 0)) == (
        natural.NO_INTENT
    )
    alone: Any = FIGURES["front_loading"].make(plan_of([told] * 4, records(casual, 8, 0)))
    assert alone["made"]["value"] == pytest.approx(100 / 3)
    assert alone["people"] is None  # people here have no intents


# ---- a detector ----------------------------------------------------------------------------------


def test_without_a_detector_the_figure_says_so(alike: Plan) -> None:
    assert FIGURES["detector"].make(alike) == "no detector was named"


def test_a_named_detector_judges_all_sides_and_what_it_says_is_kept(tmp_path: Path) -> None:
    from test_detectors import save_classifier

    folder = save_classifier(tmp_path / "detector")
    plan = plan_of(records(stiff, 6, 1), records(casual, 12, 2))
    defined = natural.definitions(str(folder), None, tmp_path)
    found: Any = next(one for one in defined if one.key == "detector").make(plan)
    kept = [json.loads(line) for line in (tmp_path / "detector.jsonl").read_text().splitlines()]
    values = [float(one["answer"]) for one in kept]
    assert 0 < found["made"]["value"] < 100
    assert min(values) < found["people"]["value"] / 100 < max(values)
    assert found["detector"].startswith(f"{folder.name}#")
    unkept = next(one for one in natural.definitions(str(folder)) if one.key == "detector")
    assert unkept.make(plan) == found


# ---- real text -----------------------------------------------------------------------------------


def test_real_people_are_not_told_from_themselves_and_are_from_others() -> None:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA names no folder with real text")
    coffee, topical = (
        [record for _, record in read_lines(Path(folder) / f"{name}.jsonl.gz")]
        for name in ("coffee", "topical")
    )
    random.Random(0).shuffle(coffee)
    began = time.perf_counter()
    same, other = (
        plan_of(made, coffee[300:900])
        for made in (coffee[:300], random.Random(1).sample(topical, 300))
    )
    for key in TOLD:
        assert FIGURES[key].make(same)["beyond_chance"] is False, key  # type: ignore[index]
        assert FIGURES[key].make(other)["beyond_chance"] is True, key  # type: ignore[index]
    print(f"seconds: {time.perf_counter() - began:.1f}")
