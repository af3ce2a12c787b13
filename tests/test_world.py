"""Facts about the embedded corpus of everyday conversations."""

from __future__ import annotations

import json
import re
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.world import INTENT_START, USERS, make_conversations
from userlm_synth.world.grammar import STYLE_CYCLE, TYPOS, fill, load_goals, restyle

Record = dict[str, Any]


@pytest.fixture(scope="module")
def corpus() -> list[Record]:
    return make_conversations()


def contents(corpus: list[Record], role: str) -> list[str]:
    return [m["content"] for record in corpus for m in record["messages"] if m["role"] == role]


def test_the_default_corpus_has_3000_records_with_ids_in_order(corpus: list[Record]) -> None:
    assert [record["id"] for record in corpus] == [f"quickstart-{n:06d}" for n in range(3000)]


def test_a_record_has_exactly_the_agreed_fields(corpus: list[Record]) -> None:
    for record in corpus:
        assert list(record) == [
            "id", "source", "user_id", "language", "intent", "persona", "messages", "metadata",
        ]  # fmt: skip
        assert (record["source"], record["language"], record["persona"]) == (
            "quickstart",
            "en",
            None,
        )
        assert list(record["metadata"]) == ["topic", "goal", "style"]


def test_roles_alternate_from_the_user_to_a_closing_assistant(corpus: list[Record]) -> None:
    for record in corpus:
        roles = [message["role"] for message in record["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert 1 <= len(roles) // 2 <= 6


def test_the_numbers_of_user_turns_are_spread_as_planned(corpus: list[Record]) -> None:
    turns = Counter(len(record["messages"]) // 2 for record in corpus)
    planned = {1: 0.18, 2: 0.25, 3: 0.25, 4: 0.18, 5: 0.09, 6: 0.05}
    for number, share in planned.items():
        assert turns[number] / len(corpus) == pytest.approx(share, abs=0.03)


def test_every_intent_opens_alike_and_ends_with_a_full_stop(corpus: list[Record]) -> None:
    for record in corpus:
        assert record["intent"].startswith(INTENT_START)
        assert record["intent"].endswith(".")
        assert not re.search(r"\b(my|me)\b", record["intent"])


def test_every_text_is_ascii_without_open_placeholders_or_stray_blanks(
    corpus: list[Record],
) -> None:
    texts = contents(corpus, "user") + contents(corpus, "assistant")
    for text in texts + [record["intent"] for record in corpus]:
        assert text.isascii()
        assert text.strip() == text != ""
        assert not re.search(r"[{}\n]|  |\.\.|,,", text), text


def test_articles_agree_with_the_next_sound(corpus: list[Record]) -> None:
    texts = contents(corpus, "user") + contents(corpus, "assistant")
    for text in texts + [record["intent"] for record in corpus]:
        assert not re.search(r"\ba (?!use|one )[aeiou]|\ban (?!hour)[^aeiou]", text.lower()), text


def test_the_assistant_writes_at_most_48_words_in_whole_sentences(corpus: list[Record]) -> None:
    for text in contents(corpus, "assistant"):
        assert len(text.split()) <= 48
        assert re.match(r"[A-Z0-9]", text), text
        assert re.search(r'[.?!]"?$', text), text
        assert not re.search(r'[.?!] "?[a-z]', text), text


def test_users_write_at_most_20_words(corpus: list[Record]) -> None:
    assert max(len(text.split()) for text in contents(corpus, "user")) <= 20


def test_every_goal_and_every_first_value_occurs(corpus: list[Record]) -> None:
    goals = load_goals()
    assert len({goal["topic"] for goal in goals}) == 12
    assert len({goal["name"] for goal in goals}) == len(goals)
    found = Counter(record["metadata"]["goal"] for record in corpus)
    assert set(found) == {goal["name"] for goal in goals}
    assert min(found.values()) >= 40


def test_a_goal_has_enough_phrasings() -> None:
    for goal in load_goals():
        assert len(goal["intents"]) == 2
        assert len(goal["openings"]) >= 6
        assert len(goal["answers"]) >= 2 or "full" in goal["clarify"]
        assert 3 <= len(goal["followups"]) <= 6
        for followup in goal["followups"]:
            assert len(followup["q"]) >= 3
            assert len(followup["a"]) == 2


def test_the_assistant_always_has_the_subject_in_its_main_answers() -> None:
    for goal in load_goals():
        first = "{" + next(iter(goal["slots"]))
        answers = [*goal["answers"], *goal.get("clarify", {}).get("answers", []), goal["wish"]]
        for followup in goal["followups"]:
            answers += followup["a"]
        others = [answer for answer in answers if first not in answer]
        assert len(others) <= 1, others


def test_an_intent_names_every_slot_that_openings_may_state() -> None:
    for goal in load_goals():
        full = goal.get("clarify", {}).get("full", [])
        for phrase in goal["openings"] + full:
            for slot in re.findall(r"\{(\w+)", phrase):
                assert all("{" + slot + "}" in intent for intent in goal["intents"])


def test_a_user_has_one_style(corpus: list[Record]) -> None:
    for record in corpus:
        number = int(record["user_id"].removeprefix("user-"))
        assert number < USERS
        assert record["metadata"]["style"] == STYLE_CYCLE[number % len(STYLE_CYCLE)]


def test_a_few_users_have_many_conversations(corpus: list[Record]) -> None:
    counts = sorted(Counter(record["user_id"] for record in corpus).values())
    assert len(counts) > 220
    assert counts[-1] > 3 * counts[len(counts) // 2]


def test_nobody_goes_on_after_the_assistants_goodbye(corpus: list[Record]) -> None:
    goodbye = ("You're welcome!", "Glad I could help!", "Happy to help!")
    closed = 0
    for record in corpus:
        replies = [message["content"] for message in record["messages"][1::2]]
        assert not any(reply.startswith(goodbye) for reply in replies[:-1])
        closed += replies[-1].startswith(goodbye)
    assert 0.28 <= closed / len(corpus) <= 0.42


def test_no_user_says_the_same_thing_twice_in_a_conversation(corpus: list[Record]) -> None:
    for record in corpus:
        said = [message["content"].lower() for message in record["messages"][::2]]
        assert len(set(said)) == len(said)


def test_the_corpus_is_varied_and_small(corpus: list[Record]) -> None:
    texts = contents(corpus, "user") + contents(corpus, "assistant")
    words = {word for text in texts for word in re.findall(r"[a-z0-9']+", text.lower())}
    assert len(words) <= 2200
    assert len({record["intent"] for record in corpus}) >= 250
    assert len({record["messages"][0]["content"] for record in corpus}) >= 900
    different = {json.dumps(record["messages"]) for record in corpus}
    assert len(different) >= 0.99 * len(corpus)
    assert sum(len(json.dumps(record)) + 1 for record in corpus) <= 3_000_000


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another() -> None:
    assert make_conversations(50, seed=3) == make_conversations(50, seed=3)
    assert make_conversations(50, seed=3) != make_conversations(50, seed=4)


def test_no_conversations_are_made_when_none_are_asked_for() -> None:
    assert make_conversations(0) == []


@settings(max_examples=10, deadline=None)
@given(st.integers(min_value=0, max_value=40), st.integers(min_value=0, max_value=10**9))
def test_any_count_and_seed_give_that_many_well_formed_records(count: int, seed: int) -> None:
    records = make_conversations(count, seed)
    assert len(records) == count
    for record in records:
        assert record["messages"][-1]["role"] == "assistant"
        assert record["intent"].startswith(INTENT_START)


def test_filling_capitalises_sentences_and_addresses_the_user() -> None:
    values = {"person": {"name": "my mom"}}
    assert fill("{person}. {person}!", values) == "My mom. My mom!"
    assert fill("A gift for {person}.", values, addressed=True) == "A gift for your mom."


def test_typos_come_only_from_the_fixed_list() -> None:
    text = "Thanks, what's the recipe?"
    for seed in range(30):
        written = restyle(text, "typos", Random(seed))
        for word, original in zip(written.split(), text.split(), strict=True):
            bare, right = word.strip(",.?"), original.strip(",.?")
            assert bare == right or bare.lower() == TYPOS[right.lower()]
