"""One pass over a whole dataset, in several processes: what is counted of every record.

A tally is fed the records of one block, and merged with the tallies of the blocks before it, in
their order; so the result is the same however many processes there are. Memory holds a few blocks
and the tallies, however large the dataset is.
"""

from __future__ import annotations

import hashlib
import heapq
import pickle
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Protocol

from userlm_synth.conversations.reading import Opened, records_in
from userlm_synth.processes import each_in_order, workers_for
from userlm_synth.progress import Progress
from userlm_synth.records import Record

SMALL = 8 << 20  # bytes that are not worth another process
FAULTS = 10  # rows without a conversation that are named
NO_USER = "has no turn of a user"
DIED = (
    "a process that read the dialogues died (out of memory?); free some memory and run "
    "the same command again"
)


class Tally(Protocol):
    """What is counted of every record; small, and picklable."""

    def add(self, place: int, record: Record) -> None:
        """One more record; `place` is its row number from 0 in the whole set."""

    def merge(self, later: Any) -> None:
        """What the same kind of tally counted of later records."""

    def result(self) -> Record:
        """The JSON-able part of `report.json`."""


Factory = Callable[[], Any]  # picklable: makes an empty tally
Tallies = dict[str, Any]


class Faults:
    """Rows that hold no conversation with a user in it: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[dict[str, Any]] = []

    def add(self, place: int, why: str) -> None:
        """One more row."""
        self.count += 1
        if len(self.first) < FAULTS:
            self.first.append({"row": place + 1, "why": why[:300]})

    def merge(self, later: Faults) -> None:
        """What later blocks had."""
        self.count += later.count
        self.first = [*self.first, *later.first][:FAULTS]

    def result(self) -> Record:
        """`{count, first: [{row, why}]}`."""
        return {"count": self.count, "first": self.first}


class Sample:
    """`size` records at random: those with the smallest hash of seed and place (bottom-k sample).

    `records` gives them in the order of the hash, so any first n of them are a random sample too.
    """

    def __init__(self, size: int, seed: str) -> None:
        self.size, self.seed = size, seed
        self.kept: list[tuple[int, int, bytes]] = []  # a heap of (-hash, place, record)

    def add(self, place: int, record: Record) -> None:
        """One more record."""
        digest = hashlib.blake2b(f"{self.seed} {place}".encode(), digest_size=8).digest()
        key = -int.from_bytes(digest, "little")
        if len(self.kept) < self.size or key > self.kept[0][0]:
            self._keep((key, place, pickle.dumps(record, pickle.HIGHEST_PROTOCOL)))

    def merge(self, later: Sample) -> None:
        """Those of later blocks that are among the smallest of all."""
        for one in later.kept:
            if len(self.kept) < self.size or one > self.kept[0]:
                self._keep(one)

    def _keep(self, one: tuple[int, int, bytes]) -> None:
        if len(self.kept) < self.size:
            heapq.heappush(self.kept, one)
        else:
            heapq.heappushpop(self.kept, one)

    def records(self) -> list[Record]:
        """The records, in a random order."""
        return [pickle.loads(one) for *_, one in sorted(self.kept, reverse=True)]

    def result(self) -> Record:
        """How many there are."""
        return {"size": len(self.kept)}


def collect(
    opened: Opened, factories: Mapping[str, Factory], workers: int | None = None
) -> Tallies:
    """The tallies of all records of a dataset, by the factories' names, and `faults`: `Faults`.

    `workers`: processes; None: one a core. Raises `UserError` where reading fails as a whole.
    """
    workers = workers_for(opened.total_bytes, SMALL, workers)
    total: Tallies = {name: make() for name, make in factories.items()}
    total["faults"], count = Faults(), 0
    begin = partial(_counter, dict(factories))
    with (
        Progress(f"reading {opened.name}", None, "rows") as progress,
        closing(each_in_order(begin, opened.blocks(), workers, DIED)) as counted,
    ):
        for found, rows in counted:
            for name, tally in total.items():
                tally.merge(found[name])
            count += rows
            progress.reach(count)
    return total


def _counter(factories: Mapping[str, Factory]) -> Callable[[Any], tuple[Tallies, int]]:
    """In each process: what counts a block."""
    return partial(count_block, factories=factories)


def count_block(block: Any, factories: Mapping[str, Factory]) -> tuple[Tallies, int]:
    """The tallies of one block, and how many rows it has."""
    tallies: Tallies = {name: make() for name, make in factories.items()}
    adders = [tally.add for tally in tallies.values()]
    tallies["faults"], rows = (faults := Faults()), 0
    for place, record in records_in(block):
        rows += 1
        if isinstance(record, str):
            faults.add(place, record)
        elif not any(message["role"] == "user" for message in record["messages"]):
            faults.add(place, NO_USER)
        else:
            for add in adders:
                add(place, record)
    return tallies, rows
