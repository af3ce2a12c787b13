"""N dialogues from a file of intents: many at once, on one loop, resumable at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.errors import UserError
from userlm_synth.money import Bill
from userlm_synth.progress import say
from userlm_synth.records import Record
from userlm_synth.simulate.holding import Holding
from userlm_synth.simulate.intents_file import IntentsFile
from userlm_synth.simulate.plan import Plan, Planned
from userlm_synth.simulate.sides import Job, open_sides
from userlm_synth.simulate.store import Store, open_store
from userlm_synth.simulate.turns import compare_turns, read_turn_counts, turns_table

if TYPE_CHECKING:
    from userlm_synth.recipe import Generate

AT_ONCE = 1000  # dialogues that are looked up in the store together

Ask = Callable[[str], bool]


def generate(job: Job, estimate: int | None = None, ask: Ask = lambda _: False) -> Record:
    """Hold the dialogues that are not in `job.out` yet; returns counts by outcome.

    With `estimate`, that many come first; then `ask` is told what the rest will cost, and decides.
    Raises `UserError` for what a person has to mend and where a budget is used up, and
    `KeyboardInterrupt` after Ctrl-C; what is done by then is kept.
    """
    plan = Plan(IntentsFile(job.intents), job.settings, job.seed)
    return asyncio.run(_generate(job, plan, estimate, ask))


async def _generate(job: Job, plan: Plan, estimate: int | None, ask: Ask) -> Record:
    total = job.settings.num or plan.cycle
    async with opened(job) as holding:
        store = holding.store
        with exported(store):
            if estimate and store.count() < total:
                first = min(max(estimate, store.count()), total)
                await holding.hold(missing(plan, store, first), first)
                if first < total and not ask(holding.estimate(total)):
                    return summary(store, holding.bill, job.settings)
            await holding.hold(missing(plan, store, total), total)
            return summary(store, holding.bill, job.settings)


@asynccontextmanager
async def opened(job: Job, out: Path | None = None) -> AsyncIterator[Holding]:
    """The models, the store and the bill of a job, in its folder or another one."""
    folder = out or job.out
    sides = open_sides(job)
    try:
        await sides.start()
        with (
            open_store(folder, sides.fixed_settings()) as store,
            Bill(folder / "bill.json", job.budgets) as bill,
        ):
            yield Holding(sides, store, bill)
    finally:
        await sides.close()


@contextmanager
def exported(store: Store) -> Iterator[None]:
    """Write the files of what is done, also where an error stops the run; not on Ctrl-C, which is
    to be quick."""
    try:
        yield
    except UserError:
        with suppress(UserError):
            store.export()
        raise
    store.export()


def missing(plan: Plan, store: Store, total: int) -> Iterator[Planned]:
    """The dialogues to hold, in the plan's order, until the store has `total` in all."""
    left, place = total - store.count(), 0
    while left > 0:
        some = [plan.at(place + step) for step in range(min(AT_ONCE, left))]
        place += len(some)
        known = store.known(one.id for one in some)
        new = [one for one in some if one.id not in known]
        yield from new
        left -= len(new)


def at_places(plan: Plan, store: Store, places: Iterable[int]) -> Iterator[Planned]:
    """The dialogues of some places of the plan that the store does not have."""
    for place in places:
        planned = plan.at(place)
        if not store.known([planned.id]):
            yield planned


def summary(store: Store, bill: Bill, settings: Generate) -> Record:
    """Counts by outcome, what was sampled again, tokens, cost, and turns beside people's."""
    made: Record = {
        "accepted": store.count(rejected=False),
        "rejected": store.tally("substr(reason, 1, instr(reason || ':', ':') - 1)", rejected=True),
        "stop_reasons": store.tally("json_extract(record, '$.stop_reason')", rejected=False),
        "regenerated": store.regenerated(),
        "tokens": bill.tokens,
        "usd": bill.spent,
    }
    reference = settings.reference or settings.turns_like
    if reference and made["accepted"]:
        turns = store.tally("(json_array_length(record, '$.messages') + 1) / 2", rejected=False)
        counts = {int(number): count for number, count in turns.items()}
        human = read_turn_counts(Path(reference))
        made["user_turns"] = compare_turns(counts, human)
        say(turns_table(counts, human))
    return made
