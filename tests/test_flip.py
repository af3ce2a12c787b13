"""Facts about the K+1 samples of a conversation."""

from __future__ import annotations

from pathlib import Path

from toys import INTENT, conversation
from userlm_synth.flip import flip, flip_file
from userlm_synth.records import END_TOKEN, read_records, record_problems, write_records

TALK = conversation("one", "two", "three", "four")


def test_k_user_turns_become_k_plus_1_samples() -> None:
    samples = flip(TALK)
    assert [s["completion"][0]["content"] for s in samples] == ["one", "three", END_TOKEN]
    assert [s["end"] for s in samples] == [False, False, True]
    assert [s["turn"] for s in samples] == [1, 2, 3]
    assert [s["id"] for s in samples] == ["toy-0#1", "toy-0#2", "toy-0#3"]
    assert {s["conversation_id"] for s in samples} == {"toy-0"}


def test_a_prompt_is_the_intent_and_all_turns_before() -> None:
    system = {"role": "system", "content": INTENT}
    prompts = [s["prompt"] for s in flip(TALK)]
    assert prompts == [[system], [system, *TALK["messages"][:2]], [system, *TALK["messages"]]]


def test_a_completion_is_always_the_users() -> None:
    assert {s["completion"][0]["role"] for s in flip(TALK)} == {"user"}


def test_a_conversation_that_closes_on_a_user_turn_has_no_end_sample() -> None:
    samples = flip(conversation("one", "two", "three"))
    assert [s["completion"][0]["content"] for s in samples] == ["one", "three"]
    assert not any(s["end"] for s in samples)


def test_the_persona_stands_after_the_intent_and_a_blank_line() -> None:
    with_both = {**TALK, "persona": "A nurse."}
    assert flip(with_both)[0]["prompt"][0]["content"] == f"{INTENT}\n\nA nurse."
    persona_only = {**with_both, "intent": None}
    assert flip(persona_only)[0]["prompt"][0]["content"] == "A nurse."


def test_without_intent_and_persona_there_is_no_system_message() -> None:
    assert flip({**TALK, "intent": None})[0]["prompt"] == []


def test_the_samples_file_is_valid(tmp_path: Path) -> None:
    chats = [conversation("a", "b", number=1), conversation("c", number=2)]
    write_records(tmp_path / "c.jsonl", chats, "conversation")
    assert flip_file(tmp_path / "c.jsonl", tmp_path / "s.jsonl") == 3
    samples = read_records(tmp_path / "s.jsonl", "sample")
    assert [s["id"] for s in samples] == ["toy-1#1", "toy-1#2", "toy-2#1"]


def test_an_end_sample_with_other_words_is_invalid() -> None:
    end = flip(TALK)[-1]
    assert record_problems(end, "sample") == []
    end["completion"] = [{"role": "user", "content": "bye"}]
    problems = record_problems(end, "sample")
    assert problems == ["completion[0].content: an end sample's content is <|endconversation|>"]
