"""All blocks of a source through the shard makers: one process reads, the others work.

Blocks that have a shard already are passed over, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from multiprocessing import connection, get_context, parent_process
from typing import Protocol

from userlm_synth.conversations.making import Job, ShardMaker
from userlm_synth.conversations.shards import Shard, Summary
from userlm_synth.conversations.sources import Block, rows
from userlm_synth.conversations.sources.files import Numbered
from userlm_synth.errors import Problems, UserError
from userlm_synth.progress import Progress

SHOWN = 20  # faults; after as many of them reading stops
SMALL = 16 << 20  # bytes that are not worth another process


class Readable(Protocol):
    """What this module needs of a source."""

    @property
    def total_bytes(self) -> int | None: ...

    def blocks(self, start: int = 0) -> Iterator[Block]: ...


def make_shards(job: Job, source: Readable) -> tuple[list[Shard], Summary]:
    """The shards of a whole source, in order, and their counts together.

    With `on_error: stop`, faults raise `Problems`, each with its file and line.
    """
    shards, total = [], Summary()
    maker = ShardMaker(job)  # a fault of the settings shows here, not in every process
    start = next(number for number in count() if Shard(job.folder, number).summary() is None)
    if job.settings.limit:  # counted from the first row on
        start = 0
    for number in range(start):
        shards.append(Shard(job.folder, number))
        total.add(shards[-1].summary() or Summary())
    size = source.total_bytes
    workers = job.settings.workers or os.cpu_count() or 1
    if size is not None and size <= SMALL:
        workers = 1
    mb = None if size is None else max(1, size >> 20)
    with Progress("reading", mb, "MB") as progress, _pool(maker, workers) as submit:
        waiting: deque[tuple[Block, Future[Summary] | Summary]] = deque()

        def take() -> None:
            block, result = waiting.popleft()
            total.add(result.result() if isinstance(result, Future) else result)
            shards.append(Shard(job.folder, block.number))
            if job.settings.on_error == "stop" and len(total.rejected) >= SHOWN:
                raise stopped(total.rejected)
            progress.reach(block.size >> 20, f"{total.kept:,} conversations")

        for block in _first_rows(source.blocks(start), job.settings.limit):
            made = Shard(job.folder, block.number).summary()
            light = replace(block, payload=Numbered([]))
            waiting.append((light, made or submit(block)))
            while len(waiting) > 2 * workers:
                take()
        while waiting:
            take()
    if job.settings.on_error == "stop" and total.rejected:
        raise stopped(total.rejected)
    return shards, total


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


# ---- processes -------------------------------------------------------------------------------

_maker: ShardMaker | None = None


def _begin(job: Job) -> None:
    """In a new process: its own shard maker, and an end when the parent is gone."""
    global _maker
    gc.set_threshold(1_000_000)  # rows make many objects and no cycles; looking for them costs 20 %
    parent = parent_process()
    if parent:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()
    _maker = ShardMaker(job)


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _make(block: Block) -> Summary:
    assert _maker
    return _maker.make(block)


@contextmanager
def _pool(
    maker: ShardMaker, workers: int
) -> Iterator[Callable[[Block], Future[Summary] | Summary]]:
    """How to have a block made: in this process when there is one worker, else in others."""
    if workers == 1:
        yield maker.make
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (maker.job,))

    def submit(block: Block) -> Future[Summary]:
        # May start a process, which inherits the mask: Ctrl-C is for this process alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return pool.submit(_make, block)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    try:
        yield submit
    except BrokenProcessPool:
        # Before Python 3.11.5 the pool would wait for ever to hand the dead their work (gh-94777).
        if sys.version_info < (3, 11, 5) and (queue := getattr(pool, "_call_queue", None)):
            queue._reader.close()
        raise UserError(
            "a worker process died (out of memory?); run the same command again to continue, "
            "with fewer at once: conversations.workers=1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
