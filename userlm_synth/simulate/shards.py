"""The shards of a run on many machines: ranges of the plan's places, who holds them, what is done.

A shard is idempotent: of its dialogues, those that the store does not have are held. Workers are
handed a few dialogues at a time, each from a shard of its own while there are any; at the end
they help each other. What a lost worker had is handed out again, with the turns that were kept.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userlm_synth.records import Record, parse_json, write_json
from userlm_synth.simulate.generate import at_places, missing
from userlm_synth.simulate.plan import Plan, Planned
from userlm_synth.simulate.store import Store


@dataclass(eq=False)
class Shard:
    """A range of places. `left` dialogues are not kept yet, `unhanded` of them with no worker.

    `losses`: how often a worker was lost that was at it. `makers`: dialogues by worker.
    """

    number: int
    places: range
    left: int
    unhanded: int
    rest: Iterator[Planned]
    again: list[Begun] = field(default_factory=list)
    end: int = 0  # the last place that was handed out, and one
    losses: int = 0
    started: float | None = None
    seconds: float = 0.0
    makers: Counter[str] = field(default_factory=Counter)

    def next(self) -> Begun | None:
        """A dialogue that no worker has."""
        if not self.unhanded:
            return None
        self.unhanded -= 1
        if self.again:
            return self.again.pop()
        planned = next(self.rest)
        self.end = planned.place + 1
        return Begun(planned, self)


@dataclass(eq=False)
class Begun:
    """A dialogue that a worker has, or had, and its turns that have come."""

    planned: Planned
    shard: Shard
    turns: list[Record] = field(default_factory=list)
    worker: str = ""


class Shards:
    """All shards of a run over a folder; what they are is `OUT/shards.json`."""

    def __init__(self, plan: Plan, store: Store, total: int, number: int, path: Path) -> None:
        self.plan, self.store, self.total, self.path = plan, store, total, path
        self.turns = store.in_progress()  # of dialogues that an earlier run began
        self.all = self._cut(number)
        self.live: dict[str, Begun] = {}  # by id
        self.fresh = deque(shard for shard in self.all if shard.left)
        self.at: dict[str, Shard] = {}  # the shard that a worker is at
        self.workers: dict[str, Record] = {}
        self._go_on()

    def _cut(self, number: int) -> list[Shard]:
        size = max(-(-self.total // number), 1)
        ranges = [
            range(first, min(first + size, self.total)) for first in range(0, self.total, size)
        ]
        lefts = [len(places) for places in ranges]
        if self.store.count():
            lefts = [0] * len(ranges)
            for planned in missing(self.plan, self.store, self.total):
                lefts[planned.place // size] += 1
        return [
            Shard(number, places, left, left, at_places(self.plan, self.store, places))
            for number, (places, left) in enumerate(zip(ranges, lefts, strict=True))
        ]

    @property
    def left(self) -> int:
        """Dialogues that are not kept yet."""
        return sum(shard.left for shard in self.all)

    # ---- handing out -------------------------------------------------------------------------

    def hand(self, worker: str, most: int, workers: int) -> list[Begun]:
        """Dialogues for one of several workers, fewer towards the end, so that all end together."""
        unhanded = sum(shard.unhanded for shard in self.all)
        handed: list[Begun] = []
        while len(handed) < min(most, -(-unhanded // (2 * workers))):
            begun = self._next(worker)
            if begun is None:
                break
            name = begun.planned.id
            begun.worker, begun.turns = worker, self.turns.pop(name, begun.turns)
            self.live[name] = begun
            handed.append(begun)
        return handed

    def _next(self, worker: str) -> Begun | None:
        while True:
            shard = self.at.get(worker)
            if shard and (begun := shard.next()):
                return begun
            shard = self.fresh.popleft() if self.fresh else self._another()
            if shard is None:
                return None
            shard.started = shard.started or time.monotonic()
            shard.makers[worker] += 0
            self.at[worker] = shard

    def _another(self) -> Shard | None:
        """The shard of another worker that is most behind."""
        behind = [shard for shard in self.at.values() if shard.unhanded]
        return max(behind, key=lambda shard: shard.unhanded, default=None)

    # ---- what comes back ---------------------------------------------------------------------

    def turn(self, name: str, number: int, turn: Record) -> None:
        """A turn came, and is being written."""
        self.live[name].turns[number:] = [turn]

    def finish(self, name: str) -> Begun:
        """A dialogue came, and is being written."""
        return self.live.pop(name)

    def kept(self, begun: Begun) -> bool:
        """A dialogue is on the disk; returns whether it was its shard's last one."""
        shard = begun.shard
        shard.left -= 1
        shard.makers[begun.worker] += 1
        if not shard.left and shard.started:
            shard.seconds += time.monotonic() - shard.started
        return not shard.left

    def lost(self, worker: str) -> int:
        """What a worker had is for others, from its last turn that came; returns how much."""
        back = [begun for begun in self.live.values() if begun.worker == worker]
        for begun in back:
            del self.live[begun.planned.id]
            begun.shard.again.append(begun)
            begun.shard.unhanded += 1
        shards = {begun.shard for begun in back}
        if worker in self.at:
            shards.add(self.at.pop(worker))
        others = {*self.at.values(), *self.fresh}
        for shard in shards:
            shard.losses += 1
            if shard.unhanded and shard not in others:
                self.fresh.appendleft(shard)
        return len(back)

    def whole(self, places: range) -> bool:
        """Whether the store has every dialogue of some places."""
        return next(at_places(self.plan, self.store, places), None) is None

    # ---- the manifest ------------------------------------------------------------------------

    def write(self) -> None:
        """Write `shards.json`."""
        write_json(self.path, {
            "dialogues": self.total,
            "kept": self.store.count(),
            "workers": self.workers,
            "shards": [_said(shard) for shard in self.all],
        })  # fmt: skip

    def _go_on(self) -> None:
        """Take over who made what from the file of an earlier run, where it was cut as now."""
        try:
            former: Any = parse_json(self.path.read_bytes())
            self.workers.update(former["workers"])
            for shard, was in zip(self.all, former["shards"], strict=True):
                if (was["first"], was["last"]) == (shard.places.start, shard.places.stop - 1):
                    shard.losses, shard.seconds = was["losses"], was["seconds"]
                    shard.makers.update(was["workers"])
        except (OSError, ValueError, KeyError, TypeError):
            return


def _said(shard: Shard) -> Record:
    return {
        "shard": shard.number,
        "first": shard.places.start,
        "last": shard.places.stop - 1,
        "left": shard.left,
        "losses": shard.losses,
        "seconds": round(shard.seconds, 1),
        "workers": dict(shard.makers),
    }
