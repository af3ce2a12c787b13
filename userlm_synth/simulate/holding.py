"""Many dialogues at once: the loop over a bounded window, and how it stops."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager

from userlm_synth.errors import UserError
from userlm_synth.money import Bill, BudgetUsedUp, Forecast, estimate
from userlm_synth.progress import Progress, say
from userlm_synth.records import Record
from userlm_synth.simulate.dialogue import Paused, Talk
from userlm_synth.simulate.plan import Planned
from userlm_synth.simulate.sides import Sides
from userlm_synth.simulate.store import Store
from userlm_synth.simulate.window import Window

GRACE = 10.0  # seconds that turns under way get after an error that stops the run

Todo = Iterable[Planned] | AsyncIterable[Planned]


class Holding:
    """One run over one folder. `hold` may be called several times."""

    def __init__(self, sides: Sides, store: Store, bill: Bill) -> None:
        self.sides, self.store, self.bill = sides, store, bill
        self.simulator = sides.simulator(bill)
        self.settings = sides.job.settings
        self.failure: Exception | None = None
        self.interrupted = False
        self.rejected = self.tokens = self.held = 0
        self.seconds = 0.0

    async def hold(self, todo: Todo, total: int) -> None:
        """Hold some dialogues; returns when all are on the disk.

        Raises what stopped the run, once the turns under way are kept.
        """
        done, begun = self.store.count(), self.store.in_progress()
        if done and done < total:
            say(f"  dialogues: {done:,} of {total:,} are done already")
        started = time.monotonic()
        size, adapt = self.settings.concurrency, self.settings.adapt
        with (
            Progress("dialogues", total, "dialogues", done) as self.progress,
            interruptible(self._interrupt),
        ):
            async with Window(size, self.sides.backends, adapt) as self.window:
                await self._all(todo, begun)
            await self.store.flush()
        self.seconds += time.monotonic() - started
        if self.interrupted:
            raise KeyboardInterrupt
        if self.failure:
            raise explained(self.failure, self._forecast(total)) from self.failure

    async def _all(self, todo: Todo, begun: dict[str, list[Record]]) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        async for planned in _each(todo):
            await self.window.enter()
            if self.simulator.stopping:
                self.window.leave()
                break
            talk = Talk(planned)
            talk.play(begun.pop(planned.id, []))
            task = asyncio.create_task(self._one(talk))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        while self.tasks:
            await asyncio.wait(self.tasks)

    async def _one(self, talk: Talk) -> None:
        try:
            record = await self.simulator.hold(talk, self._keep)
            await self.store.add(talk.plan.place, record, lambda: self._count(record))
        except Paused:
            pass
        except Exception as error:
            self._stop(error)
        finally:
            self.window.leave()

    async def _keep(self, dialogue: str, number: int, turn: Record) -> None:
        self.window.answers += 1
        await self.store.turn(dialogue, number, turn)

    def _count(self, record: Record) -> None:
        self.held += 1
        self.rejected += "reason" in record
        self.tokens += sum(side["completion_tokens"] for side in record["usage"].values())
        self.progress.step(1, self._note)

    def _note(self) -> str:
        """What stands behind the counts: tokens a second, money, rejected dialogues."""
        seconds = max(time.monotonic() - self.progress.started, 1e-6)
        parts = [f"{self.tokens / seconds:,.0f} tokens/s"]
        if any(self.bill.spent.values()):
            parts.append(self._forecast(self.progress.total or 0).line)
        if self.rejected:
            parts.append(f"{self.rejected:,} rejected")
        return ", ".join(parts)

    # ---- stopping ----------------------------------------------------------------------------

    def _stop(self, error: Exception) -> None:
        """No turn begins any more. Turns under way are paid for: they get some time, and where it
        is a budget that is used up, all they need."""
        if self.failure is None:
            self.failure = error
            if not isinstance(error, BudgetUsedUp):
                asyncio.get_running_loop().call_later(GRACE, self._abandon)
        self.simulator.stopping = True

    def _abandon(self) -> None:
        for task in self.tasks:
            task.cancel()

    def _interrupt(self) -> None:
        """After the turns under way; the second time at once."""
        if self.interrupted:
            self._abandon()
        self.interrupted = self.simulator.stopping = True
        self.progress.say("stopping after the turns under way; once more stops at once")

    # ---- money -------------------------------------------------------------------------------

    def _forecast(self, total: int) -> Forecast:
        done, live = self.progress.done, self.window.live
        return Forecast(done, total, self.bill.spent, self.bill.tokens, live)

    def estimate(self, total: int) -> str:
        """What the dialogues that are left will cost and take, in one line."""
        job, prices = self.sides.job, self.sides.prices
        users = [prices[spec] for spec in self.sides.users]
        known = [price for price in users if price is not None]
        # of several user models the dearest, so that the bill is no surprise
        user = max(known, key=lambda price: price.read) if len(known) == len(users) else None
        usages = self.store.usages()
        return estimate(
            usages, {"user": user, "assistant": prices[job.assistant]}, total - len(usages),
            self.seconds * len(usages) / self.held if self.held else None,
            job.settings.concurrency,
        ).line  # fmt: skip


async def _each(todo: Todo) -> AsyncIterator[Planned]:
    if isinstance(todo, AsyncIterable):
        async for planned in todo:
            yield planned
        return
    for planned in todo:
        yield planned


@contextmanager
def interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `interrupt`, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in former:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def explained(error: Exception, forecast: Forecast) -> Exception:
    """What stopped the run, how far it is, and how to go on, in one line."""
    if not isinstance(error, (BudgetUsedUp, UserError)):
        return error
    text = f"{error} ({forecast.done:,} of {forecast.total:,} dialogues are done and kept"
    if any(forecast.spent.values()):
        text += f"; {forecast.line}"
    return UserError(f"{text}; the same command goes on from there)")
