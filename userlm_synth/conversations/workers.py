"""All blocks of a source through the shard makers, in several processes.

Blocks that have a shard already are passed over, so an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import Protocol

from userlm_synth.conversations.making import Job, ShardMaker
from userlm_synth.conversations.shards import Shard, Summary
from userlm_synth.conversations.sources import Block, rows
from userlm_synth.conversations.sources.files import Numbered
from userlm_synth.errors import Problems
from userlm_synth.processes import each_in_order, workers_for
from userlm_synth.progress import Progress

SHOWN = 20  # faults; after as many of them reading stops
SMALL = 16 << 20  # bytes that are not worth another process
DIED = (
    "a worker process died (out of memory?); run the same command again to continue, "
    "with fewer at once: conversations.workers=1"
)


class Readable(Protocol):
    """What this module needs of a source."""

    @property
    def total_bytes(self) -> int | None: ...

    def blocks(self, start: int = 0) -> Iterator[Block]: ...


@dataclass(frozen=True)
class _Made:
    """One block that has become a shard."""

    number: int
    size: int
    summary: Summary


def make_shards(job: Job, source: Readable) -> tuple[list[Shard], Summary]:
    """The shards of a whole source, in order, and their counts together.

    With `on_error: stop`, faults raise `Problems`, each with its file and line.
    """
    shards, total = [], Summary()
    start = next(number for number in count() if Shard(job.folder, number).summary() is None)
    if job.settings.limit:  # counted from the first row on
        start = 0
    for number in range(start):
        shards.append(Shard(job.folder, number))
        total.add(shards[-1].summary() or Summary())
    size = source.total_bytes
    workers = workers_for(size, SMALL, job.settings.workers)
    blocks = _first_rows(source.blocks(start), job.settings.limit)
    mb = None if size is None else max(1, size >> 20)
    with (
        Progress("reading", mb, "MB") as progress,
        closing(each_in_order(partial(_maker, job), blocks, workers, DIED)) as making,
    ):
        for made in making:
            total.add(made.summary)
            shards.append(Shard(job.folder, made.number))
            if job.settings.on_error == "stop" and len(total.rejected) >= SHOWN:
                raise stopped(total.rejected)
            progress.reach(made.size >> 20, f"{total.kept:,} conversations")
    if job.settings.on_error == "stop" and total.rejected:
        raise stopped(total.rejected)
    return shards, total


def _maker(job: Job) -> Callable[[Block], _Made]:
    """In each process: its own shard maker."""
    maker = ShardMaker(job)

    def make(block: Block) -> _Made:
        summary = Shard(job.folder, block.number).summary() or maker.make(block)
        return _Made(block.number, block.size, summary)

    return make


def _first_rows(blocks: Iterator[Block], limit: int | None) -> Iterator[Block]:
    """Blocks up to row number `limit`; the last one cut."""
    if limit is None:
        yield from blocks
        return
    for block in blocks:
        found = list(islice(rows(block), limit))
        yield replace(block, payload=Numbered(found))
        limit -= len(found)
        if not limit:
            return


def stopped(faults: list[str]) -> Problems:
    """The faults that stop a run, and how to go on without them."""
    advice = "or count what is faulty and go on: conversations.on_error=reject (--on-error reject)"
    if len(faults) == 1:
        return Problems([f"{faults[0]}; {advice}"])
    return Problems([*faults[:SHOWN], advice], limit=SHOWN + 1)
