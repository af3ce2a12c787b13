"""A worker of `--engine ray`: a process somewhere in the cluster, with open models of its own.

It is called and never calls: each `exchange` brings dialogues to hold and money to spend, and
takes away the turns and dialogues that came of it, which the caller writes to the store.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from userlm_synth._version import __version__
from userlm_synth.errors import UserError
from userlm_synth.money import BudgetUsedUp
from userlm_synth.records import Record
from userlm_synth.simulate.holding import Holding
from userlm_synth.simulate.plan import Planned
from userlm_synth.simulate.shares import Share
from userlm_synth.simulate.sides import Job, open_sides
from userlm_synth.simulate.store import WAITING, Store


class Outbox:
    """Takes the store's place: what is added waits to be fetched."""

    def __init__(self) -> None:
        self.turns: list[tuple[str, int, Record]] = []
        self.finished: list[tuple[int, Record]] = []
        self.begun: dict[str, list[Record]] = {}
        self.room = asyncio.Event()

    async def turn(self, dialogue: str, number: int, turn: Record) -> None:
        """A turn, as it is now: its sums go on."""
        import orjson

        self.turns.append((dialogue, number, orjson.loads(orjson.dumps(turn))))
        await self._room()

    async def add(self, place: int, record: Record, kept: Callable[[], None]) -> None:
        """A finished dialogue."""
        self.finished.append((place, record))
        kept()
        await self._room()

    async def _room(self) -> None:
        while len(self.turns) + len(self.finished) > WAITING:
            self.room.clear()
            await self.room.wait()

    async def flush(self) -> None:
        """Nothing to wait for: the last exchange takes all."""

    def count(self) -> int:
        """None is done that this worker knows of."""
        return 0

    def in_progress(self) -> dict[str, list[Record]]:
        """Turns by dialogue; it fills as dialogues are brought."""
        return self.begun

    def empty(self) -> tuple[list[tuple[str, int, Record]], list[tuple[int, Record]]]:
        """All turns and all finished dialogues that came since the last time."""
        taken = self.turns, self.finished
        self.turns, self.finished = [], []
        self.room.set()
        return taken


class Worker:
    """The Ray actor."""

    def __init__(self) -> None:
        self.outbox, self.share = Outbox(), Share()
        self.queue: asyncio.Queue[Planned | None] = asyncio.Queue()
        self.stopping = self.closed = False

    async def start(
        self, job: Job, total: int, folder: str, files: dict[str, bytes], keys: dict[str, str]
    ) -> Record:
        """Open the models; returns what identifies them with their settings, or a `failure`.

        `folder` is where the command was run: relative paths mean the same here, where it is.
        `files` are contents of files that settings name, `keys` go to the environment.
        """
        os.environ.update(keys)
        with suppress(OSError):
            os.chdir(folder)
        try:
            self.sides = open_sides(_with_files(job, files))
            await self.sides.start()
            settings = self.sides.fixed_settings()
        except UserError as error:
            return {"failure": str(error)}
        self.holding = Holding(self.sides, cast(Store, self.outbox), self.share)
        self.task = asyncio.create_task(self.holding.hold(self._todo(), total))
        return {"settings": settings, "version": __version__, "process": os.getpid()}

    async def _todo(self) -> AsyncIterator[Planned]:
        while planned := await self.queue.get():
            yield planned

    async def exchange(
        self,
        todo: list[tuple[Planned, list[Record]]],
        granted: dict[str, float],
        stop: bool,
        pause: float,
    ) -> Record:
        """Take dialogues (with the turns they have) and money (USD by side); after a pause
        (seconds), give what came of all so far.

        With `stop`, the turns under way are the last ones. Once `over`, all has been given.
        """
        for planned, turns in todo:
            if turns:
                self.outbox.begun[planned.id] = turns
            self.queue.put_nowait(planned)
        self.share.grant(granted)
        if stop and not self.stopping:
            self._stop()
        await asyncio.wait({self.task}, timeout=pause)
        ended = self.task.done()  # before the outbox is emptied: nothing can come after
        turns_made, finished = self.outbox.empty()
        over = ended and not turns_made and not finished
        if over:
            await self._close()
        return {
            "turns": turns_made,
            "finished": finished,
            "money": self.share.report(),
            "room": 0 if self.stopping else self.holding.settings.concurrency - self.queue.qsize(),
            "live": len(self.holding.tasks),
            "failure": self._failure(),
            "over": over,
        }

    def _stop(self) -> None:
        self.stopping = self.holding.simulator.stopping = True
        self.queue.put_nowait(None)
        self.share.close()

    async def _close(self) -> None:
        """Release the models, once; raises what is a bug."""
        if not self.closed:
            self.closed = True
            await self.sides.close()
        error = self.holding.failure or self.task.exception()
        if error and not isinstance(error, (UserError, BudgetUsedUp)):
            raise error

    def _failure(self) -> str | None:
        """What a person has to mend; a bug says its name, and is raised in the end."""
        error = self.holding.failure
        if error is None or isinstance(error, BudgetUsedUp):
            return None
        return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _with_files(job: Job, files: dict[str, bytes]) -> Job:
    """The job with copies of the files that its settings name."""
    if not files:
        return job
    folder = Path(tempfile.mkdtemp(prefix="userlm-synth-"))
    named: dict[str, Any] = {}
    for setting, content in files.items():
        path = folder / Path(getattr(job.settings, setting)).name
        path.write_bytes(content)
        named[setting] = str(path)
    return replace(job, settings=replace(job.settings, **named))
