"""`--engine ray`: dialogues held by workers all over a Ray cluster, kept in one store here.

As many workers as fit run on each machine, on machines that join later too. Each is handed
dialogues and asked every moment what came of them; this process writes that to the folder's store,
which is the only one. A machine that is lost takes the last moment with it: what it had is handed
to others, from the last turn that came. The folder is the same as one made without Ray.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userlm_synth._version import __version__
from userlm_synth.errors import UserError
from userlm_synth.locks import locked
from userlm_synth.money import BudgetUsedUp, Forecast, load_prices, usd
from userlm_synth.progress import Progress, say
from userlm_synth.records import Record, make_folder
from userlm_synth.simulate.cluster import Machines, connected, what_happened
from userlm_synth.simulate.generate import exported, summary
from userlm_synth.simulate.holding import GRACE, explained, interruptible
from userlm_synth.simulate.intents_file import IntentsFile
from userlm_synth.simulate.plan import Plan
from userlm_synth.simulate.shards import Begun, Shard, Shards
from userlm_synth.simulate.shares import Till
from userlm_synth.simulate.sides import Job
from userlm_synth.simulate.store import Store, open_store

PAUSE = 0.1  # seconds between two exchanges with a worker: what a lost machine takes with it
EXCHANGES = 200  # a second, with all workers: each takes this process about a millisecond
LOOK = 1.0  # seconds between two looks at the cluster
MANIFEST = 10.0  # seconds between two writes of shards.json
STEP = 500  # dialogues that are looked up in one go
SHIPPED = ("prices", "turns_like")  # settings that name files which workers read


def generate_on_ray(job: Job) -> Record:
    """As `generate`, on a Ray cluster."""
    if job.settings.prices:
        load_prices(Path(job.settings.prices))
    plan = Plan(IntentsFile(job.intents), job.settings, job.seed)
    make_folder(job.out)
    with locked(job.out, f"{job.out}: another run is writing to this folder; wait for it"):
        pass  # before any model is loaded; the store holds it later
    with connected(job.settings.ray):
        return asyncio.run(_generate(job, plan))


async def _generate(job: Job, plan: Plan) -> Record:
    crew = Crew(job, plan)
    with interruptible(crew.interrupt):
        try:
            settings = await crew.first_settings()
            with (
                open_store(job.out, settings) as store,
                closing(Till(job.out / "bill.json", job.budgets)) as till,
                exported(store),
            ):
                await crew.hold(store, till)
                return summary(store, till, job.settings)
        finally:
            await crew.dismiss()


@dataclass(eq=False)
class Member:
    """A worker, as it is seen from here."""

    node: str
    host: str
    actor: Any
    name: str = ""  # once it has started
    live: int = 0  # dialogues under way


class Crew:
    """The workers of one run."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self.job, self.plan = job, plan
        self.total = job.settings.num or plan.cycle
        self.machines = Machines(job.settings.ray)
        self.tasks: dict[asyncio.Task[None], Member] = {}
        self.checks: set[asyncio.Task[None]] = set()
        self.settings: Record | None = None
        self.opened = asyncio.Event()  # the store is
        self.news = asyncio.Event()
        self.failure: BaseException | None = None
        self.stopping = self.interrupted = False
        self.tokens = self.rejected = 0

    def _hire(self) -> None:
        """New workers where there is room."""
        left = self.shards.left if self.opened.is_set() else self.total
        taken = Counter(member.node for member in self.tasks.values())
        for node, host in self.machines.places(taken):
            if len(self.tasks) >= left:
                return
            member = Member(node, host, self.machines.worker(node))
            task = asyncio.create_task(self._serve(member))
            self.tasks[task] = member
            task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        del self.tasks[task]
        self.news.set()

    # ---- one worker --------------------------------------------------------------------------

    async def _serve(self, member: Member) -> None:
        from ray import kill
        from ray.exceptions import RayError, RayTaskError

        try:
            await self._welcome(member)
            await self.opened.wait()
            await self._exchange(member)
        except RayTaskError as error:
            self._stop(error.cause or error)
        except RayError as error:
            self._lost(member, error)
        except Exception as error:
            self._stop(error)
        finally:
            kill(member.actor)

    async def _welcome(self, member: Member) -> None:
        """Let it open its models, and see that they are those of the others."""
        job, settings = self.job, self.job.settings
        files = {name: getattr(settings, name) for name in SHIPPED}
        variables = {settings.api_key_env, job.side.api_key_env} & os.environ.keys()
        said = await member.actor.start.remote(
            job, self.total, str(Path.cwd()),
            {name: Path(path).read_bytes() for name, path in files.items() if path},
            {name: os.environ[name] for name in variables},
        )  # fmt: skip
        if text := said.get("failure"):
            raise UserError(f"{member.host}: {text}")
        if said["version"] != __version__:
            raise UserError(
                f"{member.host}: has userlm-synth {said['version']}, and this machine "
                f"{__version__}; install the same everywhere"
            )
        if self.settings is None:
            self.settings = said["settings"]
            self.news.set()
        elif said["settings"] != self.settings:
            raise UserError(
                f"{member.host}: its models are not those of the other machines; "
                "put the same files there"
            )
        member.name = f"{member.host}-{member.node[:6]}-{said['process']}"

    async def _exchange(self, member: Member) -> None:
        """Give and take until the worker has ended."""
        self.shards.workers[member.name] = {"machine": member.host, "node": member.node, "made": 0}
        todo: list[Begun] = []
        granted: dict[str, float] = {}
        while True:
            given = [(begun.planned, begun.turns) for begun in todo]
            pause = max(PAUSE, len(self.tasks) / EXCHANGES)
            report = await member.actor.exchange.remote(given, granted, self.stopping, pause)
            granted = await self._take(member, report)
            if report["over"]:
                self.till.leave(member.name)
                return
            room = 0 if self.stopping else report["room"]
            todo = self.shards.hand(member.name, room, len(self.tasks)) if room > 0 else []

    async def _take(self, member: Member, report: Record) -> dict[str, float]:
        """Write what a worker made; returns what it may spend now."""
        self.till.book(member.name, report["money"])
        member.live = report["live"]
        over = {record["id"] for _, record in report["finished"]}
        for name, number, turn in report["turns"]:
            if name not in over:
                self.shards.turn(name, number, turn)
                await self.store.turn(name, number, turn)
        for place, record in report["finished"]:
            begun = self.shards.finish(record["id"])
            await self.store.add(place, record, lambda b=begun, r=record: self._kept(member, b, r))  # type: ignore[misc]
        if report["failure"]:
            self._stop(UserError(f"{member.host}: {report['failure']}"))
        try:
            return self.till.grant(member.name, report["money"])
        except BudgetUsedUp as error:
            self._stop(error)
            return {}

    def _kept(self, member: Member, begun: Begun, record: Record) -> None:
        """A dialogue is on the disk, and counts."""
        self.machines.well(member.node)
        self.shards.workers[member.name]["made"] += 1
        self.rejected += "reason" in record
        self.tokens += sum(side["completion_tokens"] for side in record["usage"].values())
        self.progress.step(1, self._note)
        if self.shards.kept(begun):
            check = asyncio.create_task(self._check(begun.shard))
            self.checks.add(check)
            check.add_done_callback(self.checks.discard)
            if not self.shards.left:
                self._end()

    async def _check(self, shard: Shard) -> None:
        """See that the store has all of a shard, a few at a time: others want to be answered."""
        for first in range(shard.places.start, shard.end, STEP):
            if not self.shards.whole(range(first, min(first + STEP, shard.end))):
                self._stop(RuntimeError(f"shard {shard.number}: the store lacks some dialogues"))
                return
            await asyncio.sleep(0)

    # ---- losses and ends ---------------------------------------------------------------------

    def _lost(self, member: Member, error: Exception) -> None:
        """A worker or its machine is gone: others do what it had."""
        reason = what_happened(error)
        if self.machines.crashed(member.node):
            self._stop(UserError(f"{member.host}: its workers die again and again: {reason}"))
        if not member.name or not self.opened.is_set():
            return
        back, amount = self.shards.lost(member.name), self.till.lose(member.name)
        self.shards.workers[member.name]["lost"] = reason
        text = f"  {member.host}: a worker was lost; its {back:,} dialogues go to others"
        if amount:
            text += f" (up to {usd(amount)} may have been billed and counts as spent)"
        self.progress.say(text)

    def _stop(self, error: BaseException) -> None:
        """No turn begins any more; turns under way get some time, for a budget all they need."""
        if self.failure is None:
            self.failure = error
            if not isinstance(error, BudgetUsedUp):
                asyncio.get_running_loop().call_later(GRACE + LOOK, self._abandon)
        self._end()

    def _end(self) -> None:
        """Workers end after the turns under way; those that have not begun need not."""
        self.stopping = True
        for task, member in self.tasks.items():
            if not member.name:
                task.cancel()
        self.news.set()

    def _abandon(self) -> None:
        for task in self.tasks:
            task.cancel()

    def interrupt(self) -> None:
        """After the turns under way; the second time at once."""
        if self.interrupted:
            self._abandon()
        else:
            say("stopping after the turns under way; once more stops at once")
        self.interrupted = True
        self._end()

    # ---- the run -----------------------------------------------------------------------------

    async def first_settings(self) -> Record:
        """What the models are, as the first worker that has opened them says."""
        while self.settings is None and not self.stopping:
            self._hire()
            await self._some_news()
        self._raise()
        assert self.settings is not None
        return self.settings

    async def hold(self, store: Store, till: Till) -> None:
        """Hold what is missing; returns when all is on the disk.

        Raises what stopped the run, once the turns under way are kept.
        """
        settings, done = self.job.settings, store.count()
        self.store, self.till = store, till
        self.shards = Shards(
            self.plan, store, self.total, settings.ray.shards, self.job.out / "shards.json"
        )
        if done and done < self.total:
            say(f"  dialogues: {done:,} of {self.total:,} are done already")
        with Progress("dialogues", self.total, "dialogues", done) as self.progress:
            self.opened.set()
            if not self.shards.left:
                self._end()
            written = 0.0
            while self.tasks or not self.stopping:
                if not self.stopping:
                    self._hire()
                if time.monotonic() - written > MANIFEST:
                    self.shards.write()
                    written = time.monotonic()
                await self._some_news()
            await store.flush()
            await asyncio.gather(*self.checks)
            self.shards.write()
        self._raise()

    async def dismiss(self) -> None:
        """No worker is left."""
        self._abandon()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _some_news(self) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.news.wait(), LOOK)
        self.news.clear()

    def _raise(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        if self.failure and self.opened.is_set():
            raise explained(self.failure, self._forecast()) from self.failure  # type: ignore[arg-type]
        if self.failure:
            raise self.failure

    # ---- what is said ------------------------------------------------------------------------

    def _forecast(self) -> Forecast:
        live = sum(member.live for member in self.tasks.values())
        return Forecast(self.progress.done, self.total, self.till.spent, self.till.tokens, live)

    def _note(self) -> str:
        """What stands behind the counts: tokens a second, money, rejected dialogues, workers."""
        seconds = max(time.monotonic() - self.progress.started, 1e-6)
        parts = [f"{self.tokens / seconds:,.0f} tokens/s"]
        if any(self.till.spent.values()):
            parts.append(self._forecast().line)
        if self.rejected:
            parts.append(f"{self.rejected:,} rejected")
        at_work = [member for member in self.tasks.values() if member.name]
        if machines := len({member.node for member in at_work}):
            parts.append(f"{len(at_work)} workers on {machines} machines")
        return ", ".join(parts)
