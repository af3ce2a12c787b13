"""Facts about splits: people are never divided, shares are as asked for, new data moves nobody."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toys import conversation
from userlm_synth.conversations.splits import SPLITS, group_of, split_of
from userlm_synth.errors import UserError
from userlm_synth.records import Record

PAPER = (0.9, 0.05, 0.05)
users = st.lists(st.none() | st.text(max_size=3), max_size=30)
shares = st.tuples(st.integers(0, 10), st.integers(0, 10), st.integers(0, 10)).filter(any)


def of_user(user: str | None, number: int, **metadata: Any) -> Record:
    return {**conversation("hi", number=number), "user_id": user, "metadata": metadata}


def placed(records: list[Record], split_by: str = "user", seed: int = 0) -> dict[str, str]:
    """Where each conversation goes, by id."""
    return {r["id"]: split_of(group_of(r, split_by), (0.5, 0.25, 0.25), seed) for r in records}


@given(users, users, st.integers(0, 5))
def test_adding_data_moves_no_conversation_and_divides_no_user(
    before: list[str | None], added: list[str | None], seed: int
) -> None:
    records = [of_user(user, number) for number, user in enumerate(before + added)]
    former, now = (placed(some, seed=seed) for some in (records[: len(before)], records))
    assert {name: now[name] for name in former} == former
    for user in set(before + added) - {None, ""}:
        assert len({now[r["id"]] for r in records if r["user_id"] == user}) == 1


@settings(max_examples=30)
@given(shares, st.integers(0, 10**6))
def test_shares_of_the_splits_are_what_was_asked_for(
    parts: tuple[int, int, int], seed: int
) -> None:
    """2,000 users: five standard errors are 0.056 at most; a share of nothing gets nobody."""
    train, validation, test = (part / sum(parts) for part in parts)
    where = [split_of(f"user {n}", (train, validation, test), seed) for n in range(2000)]
    for name, share in zip(SPLITS, (train, validation, test), strict=True):
        assert abs(where.count(name) / 2000 - share) < 0.056
        assert share or name not in where


@pytest.mark.parametrize("country", ["United States", "Hong Kong", "unknown", "Türkiye"])
def test_each_countrys_users_are_divided_in_the_same_shares(country: str) -> None:
    """A user is hashed IP x country; 4,000 of one country, within four standard errors."""
    addresses = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(4000)]
    people = [of_user(f"{address} {country}", n) for n, address in enumerate(addresses)]
    where = [split_of(group_of(one, "user"), PAPER, 0) for one in people]
    for name, share in zip(SPLITS, PAPER, strict=True):
        error = (share * (1 - share) / 4000) ** 0.5
        assert abs(where.count(name) / 4000 - share) < 4 * error


def test_one_address_in_two_countries_is_two_users() -> None:
    one, two = ({of_user(f"ip{n} {c}", n)["user_id"] for n in range(300)} for c in ("US", "RU"))
    where = [
        [split_of(f"user {user}", PAPER, 0) == "train" for user in sorted(people)]
        for people in (one, two)
    ]
    assert where[0] != where[1]


def test_a_conversation_without_a_user_is_its_own_user() -> None:
    alone = [of_user(None, n) for n in range(60)] + [of_user("", n) for n in range(60, 120)]
    assert len({group_of(one, "user") for one in alone}) == 120
    assert set(placed(alone).values()) == set(SPLITS)


def test_another_seed_is_another_split() -> None:
    records = [of_user(f"u{n}", n) for n in range(50)]
    assert placed(records, seed=0) != placed(records, seed=1)


def test_a_split_is_the_same_on_every_machine_and_in_every_version() -> None:
    """What is published was divided so; another hash would leak test users into training."""
    where = [split_of(f"user {n}", PAPER, 0) for n in range(60)]
    held_out = {n: name for n, name in enumerate(where) if name != "train"}
    assert held_out == {1: "validation", 32: "test", 40: "test", 48: "test"}


def test_a_user_named_like_a_conversation_is_not_one() -> None:
    assert group_of(of_user("toy-1", 5), "user") != group_of(of_user(None, 1), "user")


def test_splits_by_conversation_part_the_conversations_of_a_user() -> None:
    records = [of_user("same", n) for n in range(60)]
    assert set(placed(records, "user").values()) < set(SPLITS)
    assert set(placed(records, "conversation").values()) == set(SPLITS)


@given(st.lists(st.integers(0, 5) | st.text(max_size=2), max_size=30))
def test_splits_by_metadata_keep_each_value_whole(topics: list[int | str]) -> None:
    records = [of_user(f"u{n}", n, topic=topic) for n, topic in enumerate(topics)]
    where = placed(records, "metadata.topic")
    for topic in topics:
        assert len({where[r["id"]] for r in records if r["metadata"]["topic"] == topic}) == 1


def test_a_split_by_a_field_that_is_not_there_says_what_there_is() -> None:
    with pytest.raises(UserError, match=r"toy-0.* has no metadata\.topic; it has: colour, size"):
        group_of(of_user("u", 0, size=1, colour=2), "metadata.topic")
