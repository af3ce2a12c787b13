"""Work on the blocks of a large file in several processes: one reads, the others work.

Ctrl-C is for the first process alone; the others end with it, however it ends.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from userlm_synth.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW = 2  # items that are not worth another process
CYCLES = 1_000_000  # rows make many objects and no cycles; looking for them costs 20 %


def workers_for(size: int | None, small: int, wanted: int | None = None) -> int:
    """How many processes: `wanted`, or one a core; one for a file of at most `small` bytes."""
    if size is not None and size <= small:
        return 1
    return wanted or os.cpu_count() or 1


def each_in_order(
    begin: Callable[[], Callable[[Item], Result]],
    items: Iterable[Item],
    workers: int,
    died: str,
) -> Generator[Result, None, None]:
    """What `begin()` makes of each item, in their order; twice as many as processes are under way.

    `begin` is called once in each process, and has to be picklable; with one worker, or a few
    items, everything happens here. Close the iterator (`contextlib.closing`) where it may not be
    read to its end.
    Raises what the work raises, and `UserError(died)` where a process was killed.
    """
    work = begin()  # a fault of the settings shows here, not in every process
    found = iter(items)
    first = list(islice(found, FEW + 1))
    if workers == 1 or len(first) <= FEW:
        yield from map(work, chain(first, found))
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (begin,))
    try:
        waiting: deque[Future[bytes]] = deque()
        for item in chain(first, found):
            waiting.append(_submitted(pool, item))
            if len(waiting) > 2 * workers:
                yield pickle.loads(waiting.popleft().result())
        while waiting:
            yield pickle.loads(waiting.popleft().result())
    except BrokenProcessPool:
        # Before Python 3.11.5 the pool would wait for ever to hand the dead their work (gh-94777).
        if sys.version_info < (3, 11, 5) and (queue := getattr(pool, "_call_queue", None)):
            queue._reader.close()
        raise UserError(died) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, item: Any) -> Future[bytes]:
    # May start a process, which inherits the mask: Ctrl-C is for this process alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_worked, item)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


# ---- in the other processes --------------------------------------------------------------------

_work: Callable[[Any], Any] | None = None


def _begin(begin: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    gc.set_threshold(CYCLES)
    parent = parent_process()
    if parent:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()
    _work = begin()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _worked(item: Any) -> bytes:
    assert _work
    # Pickled here: the pool's own thread would hold its lock meanwhile, and a fault hang it.
    return pickle.dumps(_work(item), pickle.HIGHEST_PROTOCOL)
