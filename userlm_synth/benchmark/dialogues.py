"""The dialogues of a benchmark: each task some times, until a reply of the assistant solves it.

They are held as `generate` holds them: resumable at any moment, with the same bill. A reply's
verdict stands in its dialogue's metadata (`checks`), so that none is looked at twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.benchmark.solutions import Checker, check_reference
from userlm_synth.errors import Problems, UserError
from userlm_synth.pages import printable
from userlm_synth.progress import Progress
from userlm_synth.records import INTENT_OPENING, Record, read_records, write_records
from userlm_synth.simulate import Job
from userlm_synth.simulate.generate import at_places, exported, opened
from userlm_synth.simulate.plan import Plan

if TYPE_CHECKING:
    from userlm_synth.simulate.dialogue import Talk
    from userlm_synth.simulate.store import Store

#: What the intent of a benchmark is: the fully specified task (App. D.3).
TASK_OPENING = f"{INTENT_OPENING} complete the following:"


@dataclass(frozen=True)
class Dialogues:
    """What came of the tasks: accepted and rejected dialogues, and the bill of both sides."""

    accepted: list[Record]
    rejected: list[Record]
    user: str  # the models' own names, with fingerprints
    assistant: str
    tokens: Mapping[str, Mapping[str, int]]  # by side, of all that the folder has seen
    usd: Mapping[str, float | None]  # the same; None without a price


def intent_of(task: Record) -> Record:
    """A task as the intent of a dialogue."""
    return {"id": task["id"], "intent": f"{TASK_OPENING} {task['instruction']}"}


def checks_at_once() -> int:
    """How many programs are run together: as many as there are processors for us."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


class Watch:
    """Looks at each reply of the assistant, in threads; `Simulator.solved` of a benchmark."""

    def __init__(
        self, tasks: Mapping[str, Record], checker: Checker, pool: ThreadPoolExecutor
    ) -> None:
        self.tasks, self.checker, self.pool = tasks, checker, pool

    async def __call__(self, talk: Talk) -> bool:
        """Whether the last reply solves the dialogue's task; the verdict goes to its notes."""
        task, reply = self.tasks[talk.plan.intent_id], talk.messages[-1]["content"]
        loop = asyncio.get_running_loop()
        verdict = await loop.run_in_executor(self.pool, self.checker.check, task, reply)
        seen = {
            "turn": len(talk.messages) // 2,
            "passed": verdict.passed,
            "attempted": verdict.attempted,
            # a reason may quote what a program made: no record holds NUL or broken text
            "reason": printable(verdict.reason).strip(),
        }
        talk.notes = {"checks": [*talk.notes.get("checks", ()), seen]}
        return verdict.passed


# ---- tasks -----------------------------------------------------------------------------------


def keep_tasks(tasks: Sequence[Record], path: Path, checker: Checker) -> None:
    """Check the reference solutions of tasks that are not in `path` yet, and add them there.

    Raises `Problems` where one fails its own tests, and for a task that is there with other words:
    its former dialogues would be counted for it.
    """
    kept = {one["id"]: one for one in read_records(path, "task")} if path.is_file() else {}
    changed = [one["id"] for one in tasks if one["id"] in kept and kept[one["id"]] != one]
    if changed:
        raise Problems(
            f"{path}: task {name} was another one when its dialogues were held; choose another "
            "--out" for name in changed
        )  # fmt: skip
    new = [one for one in tasks if one["id"] not in kept]
    if new:
        _check_references([one for one in new if "solution" in one["check"]], checker)
        write_records(path, [*kept.values(), *new], "task")


def _check_references(tasks: Sequence[Record], checker: Checker) -> None:
    """Each reference solution against its own tests; raises `Problems` with all that fail."""
    faults: list[str] = []

    def look(task: Record) -> None:
        try:
            check_reference(task, checker)
        except UserError as error:
            faults.append(str(error))

    with (
        Progress("reference solutions", len(tasks), "tasks") as progress,
        ThreadPoolExecutor(checks_at_once()) as pool,
    ):
        for _ in pool.map(look, tasks):
            progress.step()
    if faults:
        raise Problems(sorted(faults))


# ---- dialogues -------------------------------------------------------------------------------


def hold_dialogues(job: Job, tasks: Mapping[str, Record], runs: int, checker: Checker) -> Dialogues:
    """`runs` dialogues of each task; those in `job.out` are not held again.

    Raises what `generate` raises; what is done by then is kept.
    """
    plan = Plan([intent_of(task) for task in tasks.values()], job.settings, job.seed)
    with ThreadPoolExecutor(checks_at_once()) as pool:
        try:
            return asyncio.run(_hold(job, plan, runs, Watch(tasks, checker, pool)))
        finally:
            pool.shutdown(cancel_futures=True)


async def _hold(job: Job, plan: Plan, runs: int, watch: Watch) -> Dialogues:
    async with opened(job) as holding:
        store, sides = holding.store, holding.sides
        holding.simulator.solved = watch
        with exported(store):
            todo = list(at_places(plan, store, range(runs * plan.cycle)))
            await holding.hold(todo, store.count() + len(todo))
        sets = {
            rejected: _of_these(store, watch.tasks, runs, rejected) for rejected in (False, True)
        }
        (user,) = sides.users.values()
        priced = {"user": sides.prices[job.user], "assistant": sides.prices[job.assistant]}
        return Dialogues(
            sets[False], sets[True], user.name, sides.assistant.name, holding.bill.tokens,
            {
                side: holding.bill.spent[side] if price else None
                for side, price in priced.items()
            },
        )  # fmt: skip


def _of_these(store: Store, tasks: Mapping[str, Record], runs: int, rejected: bool) -> list[Record]:
    """Dialogues of some tasks, the first `runs` of each: a folder may hold more."""
    return [
        one
        for one in store.records(rejected=rejected)
        if one["intent_id"] in tasks and one["metadata"]["repetition"] < runs
    ]
