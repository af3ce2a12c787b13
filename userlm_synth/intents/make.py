"""Conversations -> conversations with a high-level intent each, written by any model.

The file is read three times and never held: once to check it and see what is missing, once to ask,
once to write. Answers are kept in a cache as they come, which stays: conversations that are added
later cost only themselves.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.asking import Asker, Cache, Question
from userlm_synth.errors import Problems, UserError
from userlm_synth.intents.prompts import intent_prompt, model_name, prompt_version, seen
from userlm_synth.intents.replies import judge
from userlm_synth.money import Purse, price_of
from userlm_synth.progress import Progress
from userlm_synth.records import (
    Record,
    read_lines,
    record_problems,
    stable_hash,
    to_line,
    write_bytes,
    write_records,
)

if TYPE_CHECKING:
    from userlm_synth.recipe import Intents

MAX_TOKENS = 512  # in a reply; room for a model that talks before it answers


def check_intents(records: Iterable[Record]) -> int:
    """How many conversations have no intent."""
    return sum(record["intent"] is None for record in records)


def make_intents(
    source: Path,
    out: Path,
    settings: Intents | None,
    *,
    cache: Path | None = None,
    rejected: Path | None = None,
) -> Record:
    """Write the conversations of `source` to `out`, each with an intent; given ones are kept.

    `cache` (default: OUT.cache.jsonl) holds the answers; `rejected` (default: OUT.rejected.jsonl)
    gets those without one, with `on_error: reject`. Returns counts: `kept` had an intent, `missing`
    had none, `made` got one, `rejected` by reason, and `spent` in USD where a price is known.
    Raises `UserError` when the run stopped or, with `on_error: stop`, when any conversation got
    no intent; nothing is written to `out` then, and running again asks only for what is missing.
    """
    rejected = rejected or out.with_name(out.name + ".rejected.jsonl")
    keys = _Keys(settings) if settings else None
    total, lacking = _survey(source, keys)
    summary: Record = {"kept": total - len(lacking), "missing": len(lacking)}
    if not lacking:
        write_records(out, _records(source), "conversation")
        rejected.unlink(missing_ok=True)
        return {**summary, "made": 0, "rejected": {}}
    if settings is None or keys is None:
        raise UserError(
            f"{source}: {len(lacking):,} of {total:,} conversations have no intent (the "
            f"first is {lacking[0]}); name a model that writes them: --model SPEC"
        )
    if settings.on_error == "reject" and out.exists() and out.samefile(source):
        raise UserError(
            f"{out}: would lose the rejected conversations; name another file with --out"
        )
    price = price_of(settings.budget, settings.price_in, settings.price_out)
    with Cache(cache or out.with_name(out.name + ".cache.jsonl"), price) as answers:
        purse = Purse(settings.budget, answers.spent)
        again = settings.on_error == "stop"
        asker = Asker(settings, answers, purse, price, ask_again=again)
        run = _Run(source, keys, Counter(lacking), asker, settings.on_error)
        asyncio.run(run.ask_all())
        run.raise_if_unfinished(summary["kept"])
        write_records(out, run.filled(), "conversation")
        if run.rejected:
            write_bytes(rejected, (to_line(one).encode() for one in run.rejected))
        else:
            rejected.unlink(missing_ok=True)
    reasons = Counter(one["reason"].partition(":")[0] for one in run.rejected)
    summary |= {"made": len(lacking) - len(run.rejected), "rejected": dict(reasons.most_common())}
    return {**summary, "spent": round(purse.spent, 6)} if price else summary


class _Keys:
    """Keys of conversations: what an answer depends on, hashed."""

    def __init__(self, settings: Intents) -> None:
        self.mode = settings.mode
        self.rest = (settings.mode, prompt_version(settings.mode), model_name(settings.model))

    def __call__(self, record: Record) -> str:
        return stable_hash(list(seen(record["messages"], self.mode)), *self.rest)


def _survey(source: Path, keys: _Keys | None) -> tuple[int, list[str]]:
    """(conversations, the keys of those without an intent, or their ids where there are no keys).

    Every problem is raised at once, as far as the file can be read.
    """
    total = 0
    lacking: list[str] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    try:
        for number, record in read_lines(source):
            total += 1
            faults = record_problems(record, "conversation")
            if not faults and record["id"] in lines:
                faults = [f"id: {record['id']!r} is on line {lines[record['id']]} too"]
            problems += [f"{source}:{number}: {fault}" for fault in faults]
            if not faults:
                lines[record["id"]] = number
                if record["intent"] is None:
                    lacking.append(keys(record) if keys else record["id"])
    except UserError as error:  # a line that is not JSON, a broken gzip file
        problems.append(str(error))
    if problems:
        raise Problems(problems)
    if not total:
        raise UserError(
            f"{source}: is empty; it needs at least one conversation, a JSON object a line"
        )
    return total, lacking


def _records(source: Path) -> Iterator[Record]:
    return (record for _, record in read_lines(source))


class _Run:
    """One run over the conversations that lack an intent; `counts` says how many have each key."""

    def __init__(
        self, source: Path, keys: _Keys, counts: Counter[str], asker: Asker, on_error: str
    ) -> None:
        self.source, self.keys, self.counts, self.asker = source, keys, counts, asker
        self.answers = asker.cache.answers
        self.on_error = on_error
        self.total = counts.total()
        self.rejected: list[Record] = []

    def _done(self) -> int:
        return sum(count for key, count in self.counts.items() if key in self.answers)

    async def ask_all(self) -> None:
        """Ask for what is missing, many at once."""
        todo = {key for key in self.counts if key not in self.answers}
        left = self._questions(todo)  # shared: a worker takes the next one
        workers = min(self.asker.settings.concurrency, len(todo))
        if not workers:
            return
        with Progress("intents", self.total, "conversations", done=self._done()) as progress:
            async with self.asker:
                await asyncio.gather(*(self._work(left, progress) for _ in range(workers)))

    def _questions(self, todo: set[str]) -> Iterator[Question]:
        for record in _records(self.source):
            if record["intent"] is None and (key := self.keys(record)) in todo:
                todo.remove(key)  # equal conversations are asked about once
                shown = seen(record["messages"], self.keys.mode)
                text = intent_prompt(shown, self.keys.mode)
                yield Question(key, record["id"], text, partial(judge, messages=shown), MAX_TOKENS)

    async def _work(self, left: Iterator[Question], progress: Progress) -> None:
        for question in left:
            await self.asker.ask(question)
            if self.asker.stopped:
                return
            failed = len(self.asker.failures)
            notes = [self.asker.bill, f"{failed:,} failed" if failed else ""]
            progress.step(self.counts[question.key], note=", ".join(filter(None, notes)))

    def raise_if_unfinished(self, kept: int) -> None:
        """One line when the run stopped, or when conversations without an intent are too many."""
        done, failures = self._done(), self.asker.failures
        if self.asker.stopped:
            raise self.asker.stop(done, self.total, "conversations")
        if not failures or (self.on_error == "reject" and (kept or done)):
            return
        lacking = (record for record in _records(self.source) if record["intent"] is None)
        first = next(record for record in lacking if self.keys(record) in failures)
        failure = failures[self.keys(first)]
        text = (
            f"{sum(self.counts[key] for key in failures):,} of {self.total:,} conversations got no "
            f"intent; the first is {first['id']}: {failure.reason} ({failure.attempts} attempts). "
        )
        if done:
            text += (
                f"The answers so far ({done:,}) are kept in {self.asker.cache.path}; run the same "
                "command again to ask only for the rest, or with --on-error reject to leave it out"
            )
        else:
            text += "Mend that and run the same command again"
        raise UserError(text)

    def filled(self) -> Iterator[Record]:
        """The conversations with their intents; those that got none go to `rejected`."""
        for record in _records(self.source):
            if record["intent"] is not None:
                yield record
                continue
            key = self.keys(record)
            if key in self.answers:
                yield {**record, "intent": self.answers[key]}
            elif key in self.asker.failures:
                failure = self.asker.failures[key]
                self.rejected.append(
                    {
                        "id": record["id"],
                        "reason": failure.reason,
                        "attempts": failure.attempts,
                        "last_reply": failure.reply,
                    }
                )
            else:
                raise UserError(
                    f"{self.source}: changed while intents were made; run the same command again"
                )
