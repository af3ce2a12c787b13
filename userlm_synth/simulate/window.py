"""How many dialogues are live at once: as many as the servers answer at full speed, no more.

vLLM queues what it cannot run and answers late in place of refusing, so the window follows what it
tells (`/metrics`: requests that wait), refusals (429, 503), and, where a server tells nothing, what
more dialogues brought: a window that grew and got no more answers a second goes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from userlm_synth.backends import Backend

FIRST = 64  # live dialogues to begin with, where more are allowed
EVERY = 1.0  # seconds between two looks at the servers
FEWER = 0.7  # of the live ones, after refusals
REFUSED = 0.2  # refusals an answer that are too many; some servers refuse a few of any number
WORTH = 0.25  # of a growth's share that the rate has to grow by
PATIENCE = 30  # looks before a growth that brought nothing is tried again


class Window:
    """A bounded number of live dialogues: `enter` waits for room, `leave` makes some."""

    def __init__(self, most: int, backends: Sequence[Backend], adapt: bool = True) -> None:
        self.most, self.backends, self.adapt = most, backends, adapt
        self.limit = min(most, FIRST) if adapt else most
        self.live = self.answers = 0
        self.room = asyncio.Event()
        self.throttled = self.queued = 0
        self.tried: tuple[int, float] | None = None  # the limit and the rate before it grew
        self.rest = 0  # looks until it may grow again
        self.careful = False  # it was too large once: it grows by an eighth, no longer doubles
        self.follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Window:
        if self.adapt:
            self.follower = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.follower:
            self.follower.cancel()
            with suppress(asyncio.CancelledError):
                await self.follower

    async def enter(self) -> None:
        """Wait until one more dialogue may live."""
        while self.live >= self.limit:
            self.room.clear()
            await self.room.wait()
        self.live += 1

    def leave(self) -> None:
        """One dialogue is over."""
        self.live -= 1
        self.room.set()

    async def _follow(self) -> None:
        then, answers = time.monotonic(), self.answers
        while True:
            await asyncio.sleep(EVERY)
            now = time.monotonic()
            rate, then = (self.answers - answers) / (now - then), now
            answers = self.answers
            told = [await backend.waiting() for backend in self.backends]
            waiting = sum(one for one in told if one is not None)
            throttled = sum(backend.signals.throttled for backend in self.backends)
            self.look(rate, waiting, throttled)

    def look(self, rate: float, waiting: int, throttled: int) -> None:
        """Adjust to answers a second, requests that wait, and refusals so far."""
        refused = throttled - self.throttled > REFUSED * rate * EVERY
        self.throttled = throttled
        self.queued = self.queued + 1 if waiting else 0
        self.rest = max(self.rest - 1, 0)
        full = self.live >= self.limit
        self.careful = self.careful or refused or self.queued >= 2
        if refused:
            self._set(int(min(self.limit, self.live) * FEWER), rest=5)
        elif self.queued >= 2:  # once may be chance
            self._set(min(self.limit, self.live) - waiting, rest=5)
        elif self.tried and full:
            former, before = self.tried
            self.tried = None
            if rate < before * (1 + WORTH * (self.limit / former - 1)):
                self._set(former, rest=PATIENCE)
        elif full and not self.rest and rate and self.limit < self.most:
            self.tried = self.limit, rate
            self._set(self.limit + max(self.limit // 8, 1) if self.careful else self.limit * 2)

    def _set(self, limit: int, rest: int = 0) -> None:
        self.limit = max(1, min(limit, self.most))
        if rest:
            self.rest, self.tried = rest, None
        self.room.set()
