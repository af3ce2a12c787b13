"""N dialogues from a file of intents, with bounded concurrency, resumable at any moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.backends import open_backend
from userlm_synth.errors import Problems, UserError
from userlm_synth.progress import Progress, say
from userlm_synth.records import Record, guess_schema, read_lines, record_problems, stable_hash
from userlm_synth.simulate.dialogue import Planned, Simulator
from userlm_synth.simulate.store import Store, open_store

if TYPE_CHECKING:
    from userlm_synth.recipe import Assistant, Generate


def read_intents(path: Path) -> list[Record]:
    """Records with `id`, `intent` (and persona, metadata): an intents or a conversations file."""
    records, problems = [], []
    seen: dict[str, int] = {}
    for line, record in read_lines(path):
        found = record_problems(record, guess_schema(record))
        if not found and not record.get("intent"):
            found = ["intent: is missing; make it with `userlm-synth intents make`"]
        if not found and record["id"] in seen:
            found = [f"id: {record['id']!r} is on line {seen[record['id']]} too"]
        problems += [f"{path}:{line}: {problem}" for problem in found]
        if not found:
            seen[record["id"]] = line
            records.append(record)
    if problems:
        raise Problems(problems)
    if not records:
        raise UserError(f"{path}: is empty; it needs at least one intent, a JSON object a line")
    return records


def plan_dialogues(intents: list[Record], num: int | None, seed: int) -> list[Planned]:
    """The dialogues to hold: intents in turn, again from the first when they are used up.

    Id and seed derive from (run seed, slice, persona, intent id, repetition), so a larger `num`
    extends a smaller one and nothing depends on concurrency or order.
    """
    planned = []
    for place in range(num or len(intents)):
        repetition, index = divmod(place, len(intents))
        one = intents[index]
        persona = one.get("persona")
        digest = stable_hash(seed, "main", persona, one["id"], repetition)
        planned.append(
            Planned(
                place=place,
                id=f"dlg-{digest[:20]}",
                seed=int(digest[20:35], 16),
                intent_id=str(one["id"]),
                intent=one["intent"],
                persona=persona,
                metadata={"repetition": repetition},
            )
        )
    return planned


def generate(
    settings: Generate,
    side: Assistant,
    *,
    user: str,
    assistant: str,
    intents: Path,
    out: Path,
    seed: int,
    recipe_hash: str,
) -> Record:
    """Hold the dialogues that are not in `out` yet; returns counts by outcome."""
    planned = plan_dialogues(read_intents(intents), settings.num, seed)
    batch = settings.concurrency
    talker = open_backend(user, speaker="user", batch=batch)
    if not hasattr(talker, "form") and not user.startswith("scripted:"):
        raise UserError(f"--user {user}: a user LM runs in process for now; use hf:PATH_OR_ID")
    listener = open_backend(assistant, speaker="assistant", batch=batch, key_env=side.api_key_env)
    simulator = Simulator(talker, listener, settings, side, recipe_hash)
    key = stable_hash(talker.name, listener.name, _fixed(settings, side), seed)
    with open_store(out, key) as store:
        done = store.done()
        todo = [plan for plan in planned if plan.id not in done]
        if done and todo:
            say(f"  dialogues: {len(planned) - len(todo):,} of {len(planned):,} are done already")
        asyncio.run(_hold_all(simulator, todo, store, len(planned)))
        store.export()
        return _summary(store)


def _fixed(settings: Generate, side: Assistant) -> Record:
    """The settings that shape a dialogue; how many and how many at once do not."""
    loose = {"num", "concurrency", "intents", "user"}
    both = {**asdict(settings), "assistant": asdict(side)}
    both["assistant"].pop("train")
    return {name: value for name, value in both.items() if name not in loose}


async def _hold_all(simulator: Simulator, todo: list[Planned], store: Store, total: int) -> None:
    counts: Counter[str] = Counter()
    plans: Iterator[Planned] = iter(todo)
    with Progress("dialogues", total, "dialogues", total - len(todo)) as progress:

        async def work() -> None:
            for plan in plans:
                record = await simulator.hold(plan)
                store.add(plan.place, record)
                counts["rejected" if "reason" in record else "accepted"] += 1
                note = f"{counts['rejected']} rejected" if counts["rejected"] else ""
                progress.step(1, note)

        workers = [
            asyncio.create_task(work())
            for _ in range(min(simulator.settings.concurrency, max(len(todo), 1)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            for worker in workers:
                with suppress(asyncio.CancelledError, Exception):
                    await worker
            await simulator.user.close()
            await simulator.assistant.close()


def _summary(store: Store) -> Record:
    reasons: Counter[str] = Counter()
    stops: Counter[str] = Counter()
    regenerated: Counter[str] = Counter()
    for record in store.records(rejected=True):
        reasons[record["reason"].split(":")[0]] += 1
    for record in store.records(rejected=False):
        stops[record["stop_reason"]] += 1
        regenerated.update(record["guardrails"])
    summary: dict[str, Any] = {
        "accepted": store.count(rejected=False),
        "rejected": dict(reasons),
        "stop_reasons": dict(stops),
        "regenerated": dict(regenerated),
    }
    return summary
