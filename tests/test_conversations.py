"""Facts about prepared conversations: filled fields, splits that keep people together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toys import conversation
from userlm_synth.conversations import prepare
from userlm_synth.conversations.splits import SPLITS
from userlm_synth.errors import UserError
from userlm_synth.recipe import Conversations
from userlm_synth.records import Record, read_records

HALVES = {"train": 0.5, "validation": 0.25, "test": 0.25}
ALL = {"train": 1.0, "validation": 0.0, "test": 0.0}
AS_IT_IS: dict[str, Any] = {"clean": None, "dedup": None}
Write = Callable[..., Path]


def of_user(user: str | None, number: int, **metadata: Any) -> Record:
    return {**conversation(f"hi {number}", number=number), "user_id": user, "metadata": metadata}


def prepared(source: Path | str, out: Path, seed: int = 0, **options: Any) -> dict[str, Any]:
    """The conversations of each split."""
    prepare(Conversations(source=str(source), **options), out, seed)
    return {
        name: [json.loads(line) for line in (out / f"{name}.jsonl").read_bytes().splitlines()]
        for name in SPLITS
    }


def test_splits_by_conversation_and_by_metadata_keep_those_whole(
    tmp_path: Path, write_jsonl: Write
) -> None:
    source = write_jsonl(
        tmp_path / "c.jsonl", [of_user("same", n, topic=f"t{n % 12}") for n in range(60)]
    )
    parts = prepared(source, tmp_path / "one", split_by="conversation", **HALVES)
    assert all(parts[name] for name in SPLITS)
    assert sum(map(len, parts.values())) == 60
    parts = prepared(source, tmp_path / "two", split_by="metadata.topic", **HALVES)
    topics = [{one["metadata"]["topic"] for one in part} for part in parts.values()]
    assert sum(map(len, topics)) == len(set().union(*topics)) == 12


def test_a_split_by_a_field_that_is_not_there_is_a_fault_of_its_line(
    tmp_path: Path, write_jsonl: Write
) -> None:
    chats = [of_user("u", n, topic="sea", size=1) for n in range(9)]
    del chats[4]["metadata"]["topic"]
    source = write_jsonl(tmp_path / "c.jsonl", chats)
    by_topic: dict[str, Any] = {"split_by": "metadata.topic", **ALL}
    with pytest.raises(UserError, match=rf"{source}:5: .*toy-4.* has no metadata\.topic; .* size"):
        prepared(source, tmp_path / "out", **by_topic)
    parts = prepared(source, tmp_path / "out", on_error="reject", **by_topic)
    assert len(parts["train"]) == 8


def test_an_empty_split_is_one_clear_error(tmp_path: Path, write_jsonl: Write) -> None:
    source = write_jsonl(tmp_path / "c.jsonl", [of_user("only", n) for n in range(9)])
    settings = Conversations(source=str(source))
    with pytest.raises(UserError, match=r"conversations\.\w+: no conversation fell into") as caught:
        prepare(settings, tmp_path / "out", 0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_split_of_share_zero_may_stay_empty(tmp_path: Path, write_jsonl: Write) -> None:
    source = write_jsonl(tmp_path / "c.jsonl", [of_user("only", n) for n in range(9)])
    counts = prepare(Conversations(source=str(source), **ALL), tmp_path / "out", 0)
    assert counts == {"train": 9, "validation": 0, "test": 0, "with_intent": 9}
    assert (tmp_path / "out" / "test.jsonl").read_bytes() == b""


def test_missing_fields_are_filled_and_unknown_ones_move_to_metadata(
    tmp_path: Path, write_jsonl: Write
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    lines = [
        {"messages": messages, "model": "m-1", "metadata": {"turn": 1}},
        {"messages": messages, "id": 77, "intent": "to greet", "user_id": "u"},
    ]
    source = write_jsonl(tmp_path / "chats.jsonl", lines)
    for cleaned in ({}, {"clean": None}):
        parts = prepared(source, tmp_path / "out", dedup=None, **cleaned, **ALL)
        one, two = parts["train"]
        assert one["id"] == "chats-0000001"
        assert one["source"] == "chats.jsonl"
        assert one["metadata"] == {"model": "m-1", "turn": 1}
        assert (one["user_id"], one["intent"], one["language"], one["persona"]) == (None,) * 4
        assert (two["id"], two["intent"], two["user_id"]) == ("77", "to greet", "u")


def test_every_faulty_line_is_listed(tmp_path: Path, write_jsonl: Write) -> None:
    good = conversation("hi")
    bad = {**good, "id": "b", "messages": []}
    path = write_jsonl(tmp_path / "c.jsonl", [bad, good, 5, {**bad, "id": "c", "intent": ""}])
    with pytest.raises(UserError) as caught:
        prepare(Conversations(source=str(path), **AS_IT_IS), tmp_path / "out", 0)
    *faults, advice = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in faults] == [f"{path}:{n}" for n in (1, 3, 4)]
    assert "conversations.on_error=reject" in advice


def test_without_cleaning_and_deduplication_everything_comes_out_as_it_went_in(
    tmp_path: Path, write_jsonl: Write
) -> None:
    text = "  the same \r\n text again and again, with the odd \u00a0 character   "
    chats = [conversation(text, "?", text, number=n) for n in range(50)]
    chats[0]["metadata"] = {"nested": {"list": [1, None, 2.5, "x"]}, "toxic": True}
    source = write_jsonl(tmp_path / "c.jsonl", chats)
    parts = prepared(source, tmp_path / "out", **AS_IT_IS, **ALL)
    assert parts["train"] == chats


def test_the_quickstart_source_is_ready_to_train_on(tmp_path: Path) -> None:
    counts = prepare(Conversations(source="quickstart", count=200, **AS_IT_IS), tmp_path, 0)
    parts = {name: read_records(tmp_path / f"{name}.jsonl", "conversation") for name in SPLITS}
    assert {name: len(part) for name, part in parts.items()} == {n: counts[n] for n in SPLITS}
    assert counts["with_intent"] == sum(map(len, parts.values())) == 200
    people = [{r["user_id"] for r in part} for part in parts.values()]
    assert sum(map(len, people)) == len(set().union(*people)), "no user in two splits"


def test_preparing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare(Conversations(source="quickstart", count=100), tmp_path / name, 1)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert {"card.json", "index.html", *(f"{name}.jsonl" for name in SPLITS)} <= set(files)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name in SPLITS:
        data = (tmp_path / "a" / f"{name}.jsonl").read_bytes()
        assert data.endswith(b"\n")
        assert all(json.loads(line) for line in data.splitlines())
