"""Facts about preparing conversations: filled fields, splits that keep people together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toys import conversation
from userlm_synth.conversations.prepare import (
    SPLITS,
    group_of,
    prepare,
    read_chats,
    split,
    split_of,
)
from userlm_synth.errors import UserError
from userlm_synth.recipe import Conversations
from userlm_synth.records import read_records

HALVES = {"train": 0.5, "validation": 0.25, "test": 0.25}
Write = Callable[..., Path]


def of_user(user: str | None, number: int, **metadata: Any) -> dict[str, Any]:
    return {**conversation("hi", number=number), "user_id": user, "metadata": metadata}


def placed(records: list[dict[str, Any]], split_by: str, seed: int = 0) -> dict[str, str]:
    """Where each conversation goes, by id."""
    shares = (0.5, 0.25, 0.25)
    return {r["id"]: split_of(group_of(r, split_by), shares, seed) for r in records}


users = st.lists(st.none() | st.text(max_size=3), max_size=30)


@given(users, users, st.integers(0, 5))
def test_adding_data_moves_no_conversation_and_divides_no_user(
    before: list[str | None], added: list[str | None], seed: int
) -> None:
    records = [of_user(user, number) for number, user in enumerate(before + added)]
    former, now = (placed(some, "user", seed) for some in (records[: len(before)], records))
    assert {name: now[name] for name in former} == former
    for user in set(before + added) - {None, ""}:
        assert len({now[r["id"]] for r in records if r["user_id"] == user}) == 1


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_shares_of_the_splits_are_what_was_asked_for(seed: int) -> None:
    where = [split_of(f"user {n}", (0.5, 0.3, 0.2), seed) for n in range(2000)]
    for name, share in zip(SPLITS, (0.5, 0.3, 0.2), strict=True):
        assert abs(where.count(name) / 2000 - share) < 0.06


def test_another_seed_is_another_split() -> None:
    records = [of_user(f"u{n}", n) for n in range(50)]
    assert placed(records, "user", 0) != placed(records, "user", 1)


def test_a_user_named_like_a_conversation_is_not_one() -> None:
    assert group_of(of_user("toy-1", 5), "user") != group_of(of_user(None, 1), "user")


def test_splits_by_conversation_and_by_metadata_keep_those_whole() -> None:
    records = [of_user("same", n, topic=f"t{n % 6}") for n in range(60)]
    one = Conversations(source="quickstart", split_by="conversation", **HALVES)
    parts = split(records, one, 0)
    assert all(parts[name] for name in SPLITS)
    assert sum(map(len, parts.values())) == 60
    by_topic = Conversations(source="quickstart", split_by="metadata.topic", **HALVES)
    topics = [
        {r["metadata"]["topic"] for r in part} for part in split(records, by_topic, 0).values()
    ]
    assert sum(map(len, topics)) == 6
    assert len(set().union(*topics)) == 6


def test_a_split_by_a_field_that_is_not_there_says_what_there_is() -> None:
    by = Conversations(source="quickstart", split_by="metadata.topic", **HALVES)
    with pytest.raises(UserError, match=r"toy-0 has no metadata\.topic; it has: colour, size"):
        split([of_user("u", 0, size=1, colour=2)], by, 0)


def test_an_empty_split_is_one_clear_error(tmp_path: Path, write_jsonl: Write) -> None:
    source = write_jsonl(tmp_path / "c.jsonl", [of_user("only", n) for n in range(9)])
    settings = Conversations(source=str(source))
    with pytest.raises(UserError, match=r"conversations\.\w+: no conversation fell into") as caught:
        prepare(settings, tmp_path / "out", 0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_split_of_share_zero_may_stay_empty(tmp_path: Path, write_jsonl: Write) -> None:
    source = write_jsonl(tmp_path / "c.jsonl", [of_user("only", n) for n in range(9)])
    settings = Conversations(source=str(source), train=1, validation=0, test=0)
    assert prepare(settings, tmp_path / "out", 0)["train"] == 9
    assert (tmp_path / "out" / "test.jsonl").read_bytes() == b""


def test_missing_fields_are_filled_and_unknown_ones_move_to_metadata(
    tmp_path: Path, write_jsonl: Write
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    lines = [
        {"messages": messages, "model": "m-1", "metadata": {"turn": 1}},
        {"messages": messages, "id": 77, "intent": "to greet", "user_id": "u"},
    ]
    one, two = read_chats(write_jsonl(tmp_path / "chats.jsonl", lines))
    assert one["id"] == "chats-0000001"
    assert one["source"] == "chats.jsonl"
    assert one["metadata"] == {"model": "m-1", "turn": 1}
    assert (one["user_id"], one["intent"], one["language"], one["persona"]) == (None,) * 4
    assert (two["id"], two["intent"], two["user_id"]) == ("77", "to greet", "u")


def test_every_faulty_line_is_listed(tmp_path: Path, write_jsonl: Write) -> None:
    good = conversation("hi")
    bad = {**good, "id": "b", "messages": []}
    path = write_jsonl(tmp_path / "c.jsonl", [bad, good, good, {**bad, "id": "c", "intent": ""}])
    with pytest.raises(UserError) as caught:
        list(read_chats(path))
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{path}:1", f"{path}:3", f"{path}:4", f"{path}:4",
    ]  # fmt: skip


def test_the_quickstart_source_is_ready_to_train_on(tmp_path: Path) -> None:
    counts = prepare(Conversations(source="quickstart", count=200), tmp_path, 0)
    parts = {name: read_records(tmp_path / f"{name}.jsonl", "conversation") for name in SPLITS}
    assert {name: len(part) for name, part in parts.items()} == {n: counts[n] for n in SPLITS}
    assert counts["with_intent"] == 200
    people = [{r["user_id"] for r in part} for part in parts.values()]
    assert sum(map(len, people)) == len(set().union(*people)), "no user in two splits"


def test_preparing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare(Conversations(source="quickstart", count=100), tmp_path / name, 1)
    for name in SPLITS:
        one, two = ((tmp_path / folder / f"{name}.jsonl").read_bytes() for folder in "ab")
        assert one == two
        assert len(one) == sum(len(line) + 1 for line in one.splitlines())
        assert all(json.loads(line) for line in one.splitlines())
