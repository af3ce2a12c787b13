"""New intents at scale, from a taxonomy or from seed intents, crossed with personas.

Each request asks for several intents of one cell (topic x persona). Cells are visited in turn, in
an order that the seed fixes, and their replies are taken in that order whatever the concurrency:
the same answers give the same file, and a larger number extends a smaller one.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.asking import Asker, Cache, Question
from userlm_synth.errors import UserError
from userlm_synth.intents.cells import (
    Cell,
    Persona,
    Topic,
    default_taxonomy,
    plan_cells,
    read_personas,
    read_seeds,
    read_taxonomy,
)
from userlm_synth.intents.near import NearIndex
from userlm_synth.intents.prompts import PER_REQUEST, model_name, synthesis_prompt
from userlm_synth.intents.replies import list_fault, parse_intents
from userlm_synth.money import Purse, price_of
from userlm_synth.progress import Progress, say
from userlm_synth.records import INTENT_OPENING, Record, stable_hash, write_json, write_records

if TYPE_CHECKING:
    from userlm_synth.recipe import Intents

MAX_TOKENS = 1024  # in a reply
SHOWN = 20  # goals of the cell that are there already, in a request
BARREN = 3  # requests in a row without anything new, after which a cell is exhausted
AHEAD = 4  # replies that may wait for a slower one before them, for each request at once


def synthesize_intents(
    out: Path,
    num: int,
    settings: Intents,
    *,
    taxonomy: Path | None = None,
    seeds: Path | None = None,
    personas: Path | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> Record:
    """Write `num` new intents to `out`, fewer where the cells are exhausted before.

    Returns what goes to OUT.coverage.json: wanted, kept, and by domain and topic the requests,
    intents kept, duplicates and faulty ones. Raises `UserError` when the run stopped; nothing is
    written then, and running again asks only for what is missing.
    """
    if taxonomy and seeds:
        raise UserError("intents synthesize: name a --taxonomy or --seeds, not both")
    topics = read_seeds(seeds) if seeds else read_taxonomy(taxonomy or default_taxonomy())
    people = read_personas(personas) if personas else []
    price = price_of(settings.budget, settings.price_in, settings.price_out)
    with Cache(cache or out.with_name(out.name + ".cache.jsonl"), price) as answers:
        asker = Asker(settings, answers, Purse(settings.budget, answers.spent), price)
        run = _Run(num, topics, people, seed, asker)
        asyncio.run(run.go())
        if asker.stopped:
            hint = f" (or with --num {len(run.kept)} for those that are there)" if run.kept else ""
            raise asker.stop(len(run.kept), num, "intents", hint)
        if not run.kept:
            failure = next(iter(asker.failures.values()), None)
            why = failure.reason if failure else "every intent was faulty"
            raise UserError(f"{settings.model}: gave no intent: {why}")
        write_records(out, run.kept, "intent")
        coverage = run.coverage()
        write_json(out.with_name(out.name + ".coverage.json"), coverage)
    if len(run.kept) < num:
        say(
            f"{out}: {len(run.kept):,} of {num:,}: {BARREN} requests in a row brought nothing new "
            "to any cell; a wider taxonomy or more personas would"
        )
    return coverage


@dataclass
class _Tally:
    """What came of the requests about one topic."""

    requests: int = 0
    kept: int = 0
    duplicates: int = 0
    faulty: int = 0


@dataclass
class _Visits:
    """A cell's history: its goals so far, and requests in a row without anything new."""

    count: int = 0
    barren: int = 0
    goals: list[str] = field(default_factory=list)


class _Run:
    """The plan, and what was kept of the replies."""

    def __init__(
        self, num: int, topics: list[Topic], personas: list[Persona], seed: int, asker: Asker
    ) -> None:
        self.num, self.seed, self.asker = num, seed, asker
        self.fresh: Iterator[Cell] = plan_cells(topics, personas, seed)
        self.again: deque[Cell] = deque()  # visited, not exhausted
        self.visits: dict[int, _Visits] = {}
        self.tallies: dict[Topic, _Tally] = {topic: _Tally() for topic in topics}
        self.kept: list[Record] = []
        self.near = NearIndex()
        for topic in topics:
            for goal in topic.seeds:
                self.near.add(goal)

    async def go(self) -> None:
        """Until enough are kept or no cell is left: ask ahead, take replies in order."""
        waiting: deque[tuple[Cell, Question, asyncio.Task[str | None]]] = deque()
        at_once = AHEAD * self.asker.settings.concurrency
        async with self.asker:
            with Progress("intents", self.num, "intents") as progress:
                while not self.asker.stopped:
                    while len(waiting) < at_once and self._wants_more(len(waiting)):
                        cell = self._next_cell()
                        if cell is None:
                            break
                        question = self._question(cell)
                        task = asyncio.create_task(self.asker.ask(question))
                        waiting.append((cell, question, task))
                    if not waiting:
                        break
                    cell, question, task = waiting.popleft()
                    reply = await task
                    if reply is not None or question.key in self.asker.failures:
                        progress.step(self._take(cell, reply), note=self.asker.bill)
                # What is asked for is paid for: it goes to the cache, also when the run stops.
                await asyncio.gather(*(task for _, _, task in waiting))

    def _wants_more(self, waiting: int) -> bool:
        """Never a request that may not be needed: a reply counts PER_REQUEST at most."""
        return len(self.kept) + waiting * PER_REQUEST < self.num

    def _next_cell(self) -> Cell | None:
        cell = next(self.fresh, None)
        if cell is None and self.again:
            cell = self.again.popleft()
        return cell

    def _question(self, cell: Cell) -> Question:
        """The next request for a cell; it depends on the cell's own former replies alone."""
        visits = self.visits.setdefault(cell.number, _Visits())
        actions = cell.topic.actions
        angle = actions[(cell.number + visits.count) % len(actions)]
        text = synthesis_prompt(
            cell.topic.subject,
            angle,
            cell.persona.text if cell.persona else None,
            cell.topic.seeds,
            visits.goals[-SHOWN:],
        )
        model = model_name(self.asker.settings.model)
        key = stable_hash("synthesize", text, visits.count, self.seed, model)
        return Question(key, f"cell-{cell.number}", text, _judge, MAX_TOKENS, temperature=1.0)

    def _take(self, cell: Cell, reply: str | None) -> int:
        """Keep what is new and good of a reply; how many that were."""
        visits, tally = self.visits[cell.number], self.tallies[cell.topic]
        visits.count += 1
        tally.requests += 1
        before = tally.kept
        found = parse_intents(reply) if reply is not None else [""]
        for intent in found:
            goal = intent.removeprefix(INTENT_OPENING).strip()
            if len(self.kept) == self.num:
                break
            if list_fault(intent):
                tally.faulty += 1
            elif not self.near.add(goal):
                tally.duplicates += 1
            else:
                tally.kept += 1
                visits.goals.append(goal)
                self.kept.append(self._record(cell, intent))
        new = tally.kept - before
        visits.barren = 0 if new else visits.barren + 1
        if visits.barren < BARREN:
            self.again.append(cell)
        return new

    def _record(self, cell: Cell, intent: str) -> Record:
        person = cell.persona
        metadata = {"domain": cell.topic.domain, "topic": cell.topic.name}
        if person:
            metadata["persona_id"] = person.id
        return {
            "id": f"int-{stable_hash(intent, person.text if person else None)[:20]}",
            "intent": intent,
            **({"persona": person.text} if person else {}),
            "metadata": {**metadata, "model": self.asker.backend.name},
        }

    def coverage(self) -> Record:
        """Counts in all, by domain and by topic, of the replies that were needed."""
        domains: dict[str, Record] = {}
        for topic, tally in self.tallies.items():
            domain = domains.setdefault(topic.domain, {**vars(_Tally()), "topics": {}})
            for name, count in vars(tally).items():
                domain[name] += count
            domain["topics"][topic.name] = dict(vars(tally))
        people = Counter(one["metadata"].get("persona_id") for one in self.kept)
        people.pop(None, None)
        found: Record = {"wanted": self.num, "kept": len(self.kept)}
        if people:
            found["personas"] = len(people)
        return {**found, "domains": domains}


def _judge(reply: str, cut: bool) -> tuple[str, str]:
    """A reply with any good intent in it is an answer; its items are counted when it is taken."""
    found = parse_intents(reply, cut)[:PER_REQUEST]
    faults = [list_fault(intent) for intent in found]
    if not all(faults):
        return json.dumps(found, ensure_ascii=False), ""
    return "", faults[0] if faults else "the reply lists no intents"


def coverage_table(coverage: Record) -> str:
    """One line a domain: requests made, intents kept, duplicates and faulty ones."""
    columns = ("requests", "kept", "duplicates", "faulty")
    domains = coverage["domains"]
    total = {name: sum(one[name] for one in domains.values()) for name in columns}
    width = max(len("domain"), *(len(name) for name in domains))
    lines = [f"{'domain':{width}}" + "".join(f"{name:>12}" for name in columns)]
    for name, counts in {**domains, "all": total}.items():
        lines.append(f"{name:{width}}" + "".join(f"{counts[column]:>12,}" for column in columns))
    return "\n".join(lines)
