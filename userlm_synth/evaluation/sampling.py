"""The user's turns as a simulator would say them, at places that all simulators are shown alike.

A turn is sampled as in a dialogue, but without guardrails: its text is what the model wrote, with
the spaces around it taken off and nothing else. Where the user may not leave, the end token has no
probability; a backend that cannot ban it is asked again, as it is for a turn without words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from userlm_synth.backends import Request, Result
from userlm_synth.backends.metered import Metered
from userlm_synth.errors import UserError
from userlm_synth.evaluation.kept import KeptTurns, Turn
from userlm_synth.evaluation.simulators import SampledModel
from userlm_synth.money import Bill, BudgetUsedUp
from userlm_synth.progress import Progress, say
from userlm_synth.records import Message, stable_hash

ATTEMPTS = 5  # for a turn with words in it
SHORTEST = 200  # characters of a turn in a history that does not fit; it loses no more
CONTEXT_FULL = Result("", "context_full")


@dataclass(frozen=True)
class Place:
    """Where a user speaks: what the system message says of it (intent and persona), and the turns
    so far. `greedy`: the most likely turn instead of a sampled one."""

    id: str
    system: str | None
    history: Sequence[Message] = ()
    may_end: bool = False
    greedy: bool = False


def sample(
    model: SampledModel, places: Iterable[Place], kept: Path, *, seed: int = 0
) -> dict[str, Turn]:
    """A turn for each place, by the place's id; what `kept` holds already is not asked for again.

    The bill stands beside `kept`, in bill.json. Raises `UserError` where the server or the budget
    gives out; what was answered until then is kept.
    """
    return sample_groups(model, {"turns": places}, kept, seed=seed)["turns"]


def sample_groups(
    model: SampledModel, groups: Mapping[str, Iterable[Place]], kept: Path, *, seed: int = 0
) -> dict[str, dict[str, Turn]]:
    """`sample` for several groups of places, between which the model stays open."""
    distinct: dict[str, dict[str, Place]] = {}
    for name, places in groups.items():
        own = distinct.setdefault(name, {})
        for place in places:
            if own.setdefault(place.id, place) != place:
                raise ValueError(f"two places are called {place.id!r}")
    return asyncio.run(_sample(model, distinct, kept, seed))


async def _sample(
    model: SampledModel, groups: Mapping[str, Mapping[str, Place]], kept: Path, seed: int
) -> dict[str, dict[str, Turn]]:
    try:
        await model.open().start()
        with (
            KeptTurns(kept) as turns,
            Bill(kept.with_name("bill.json"), {"all": model.settings.budget}) as bill,
        ):
            sampling = _Sampling(model, turns, bill, seed)
            return {
                name: await sampling.all(name, list(places.values()))
                for name, places in groups.items()
            }
    finally:
        await model.close()


class _Sampling:
    """One run over the places that are missing."""

    def __init__(self, model: SampledModel, turns: KeptTurns, bill: Bill, seed: int) -> None:
        self.model, self.turns, self.bill, self.seed = model, turns, bill, seed
        self.backend = Metered(model.open(), model.speaker, model.price, bill)
        self.model_key = model.key
        self.failure: Exception | None = None
        self.tokens = 0

    async def all(self, name: str, places: Sequence[Place]) -> dict[str, Turn]:
        """Sample what is missing, many at once, and return everything."""
        keys = {place.id: self._key(place) for place in places}
        todo = [place for place in places if keys[place.id] not in self.turns.found]
        # Places of a like length are one batch with little padding; the longest show first whether
        # there is memory for them.
        todo.sort(key=_length, reverse=True)
        left = iter(todo)
        label, total = f"{self.model.label}: {name}", len(places)
        with Progress(label, total, "turns", total - len(todo)) as self.progress:
            workers = min(self.model.settings.concurrency, len(todo))
            await asyncio.gather(*(self._work(left, keys) for _ in range(workers)))
        if self.failure:
            raise self._explained(self.failure) from self.failure
        self._remark([(place, self.turns.found[keys[place.id]]) for place in places])
        return {place.id: self.turns.found[keys[place.id]] for place in places}

    def _key(self, place: Place) -> str:
        greedy, system = place.greedy, self.model.system_text(place.system)
        sampling = (0.0, 1.0) if greedy else (self.model.temperature, self.model.top_p)
        history = [[turn["role"], turn["content"]] for turn in place.history]
        return stable_hash(
            self.model_key, *sampling, system, history, place.may_end, self._seed(place)
        )

    def _seed(self, place: Place, attempt: int = 0) -> int:
        return int(stable_hash(self.seed, place.id, attempt)[:12], 16)

    async def _work(self, left: Iterator[Place], keys: Mapping[str, str]) -> None:
        """The next place, until none is left or something stops the run; what others have under
        way is paid for and is waited for."""
        for place in left:
            if self.failure:
                return
            try:
                turn = await self._turn(place)
            except Exception as error:
                self.failure = self.failure or error
                return
            self.turns.keep(keys[place.id], place.id, self.backend.name, turn)
            self.progress.step(1, self._note)

    async def _turn(self, place: Place) -> Turn:
        """What the simulator says; asked again while it says nothing or leaves where it may not."""
        attempts = 1 if place.greedy or not self.model.temperature else ATTEMPTS
        chances: list[float | None] = []  # of leaving: every attempt has the same, before any ban
        for attempt in range(attempts):
            result, history = await self._result(place, attempt)
            text = result.text.strip().encode(errors="replace").decode()  # no lone surrogates
            chances.append(result.end_probability)
            left = result.finish == "end"
            if (left and place.may_end) or (text and not left):
                break
        return Turn("" if left else text, result.finish, chances[0], history is not place.history)

    async def _result(self, place: Place, attempt: int) -> tuple[Result, Sequence[Message]]:
        """An answer, and as much of the history as the model has room for."""
        history = place.history
        while True:
            request = self._request(place, history, self._seed(place, attempt))
            result = await self.backend.generate(request) if request else CONTEXT_FULL
            self.tokens += result.completion_tokens
            if result.finish == "error":
                raise UserError(f"{self.model.label} ({self.model.spec}): {result.text or 'error'}")
            if result.finish != "context_full":
                return result, history
            shorter = shortened(history)
            if shorter is None:
                raise UserError(
                    f"{self.model.label} ({self.model.spec}): {place.id}: what the user wants and "
                    f"a turn of {self.model.settings.max_tokens} tokens do not fit into the "
                    "model's context; lower evaluate.max_tokens, or leave the conversation out"
                )
            history = shorter

    def _request(self, place: Place, history: Sequence[Message], seed: int) -> Request | None:
        """None where the prompt is known to be too long for the model."""
        system = self.model.system_text(place.system)
        opening: list[Message] = [{"role": "system", "content": system}] if system else []
        settings = self.model.settings
        request = Request(
            messages=[*opening, *history],
            temperature=0.0 if place.greedy else self.model.temperature,
            top_p=1.0 if place.greedy else self.model.top_p,
            max_tokens=settings.max_tokens,
            seed=seed,
            may_end=place.may_end,
        )
        form, context = self.backend.form, self.backend.context
        if form is None:
            return request
        prompt = [*form.prompt(request.messages), *form.lead]
        if context is not None and len(prompt) + settings.max_tokens > context:
            return None
        return replace(
            request,
            prompt_ids=prompt,
            stop_ids=form.stop_ids,
            end_id=form.end_id,
            banned=[] if place.may_end or form.end_id is None else [form.end_id],
            banned_first=[form.turn_end_id],
        )

    def _note(self) -> str:
        seconds = max(time.monotonic() - self.progress.started, 1e-6)
        note = f"{self.tokens / seconds:,.0f} tokens/s"
        return f"{note}, ${self.bill.total:,.4f} spent" if self.bill.total else note

    def _explained(self, error: Exception) -> Exception:
        """What stopped the run, how far it is, and how to go on, in one line."""
        if isinstance(error, BudgetUsedUp):
            budget = self.model.settings.budget
            text = f"evaluate.budget: ${budget:g} has no room for another request (raise it)"
        elif isinstance(error, UserError):
            text = str(error)
        else:
            return error
        done, total = self.progress.done, self.progress.total
        text += f". {done:,} of {total:,} turns of {self.model.label} are kept in {self.turns.path}"
        if self.bill.total:
            text += f", ${self.bill.total:,.4f} spent"
        return UserError(f"{text}; the same command goes on from there")

    def _remark(self, turns: Sequence[tuple[Place, Turn]]) -> None:
        """What a reader of the figures should know of these turns."""
        empty = sum(not turn.text and not (place.may_end and turn.left) for place, turn in turns)
        lost = sum(turn.shortened for _, turn in turns)
        if empty:
            say(f"  {self.model.label}: {empty:,} turns have no words, after {ATTEMPTS} attempts")
        if lost:
            say(f"  {self.model.label}: {lost:,} histories were too long and lost their beginning")


def _length(place: Place) -> int:
    return sum(len(turn["content"]) for turn in place.history)


def shortened(history: Sequence[Message]) -> list[Message] | None:
    """A history without its oldest exchange or, where it is the last one, without the first half
    of its longer turn; None where that would leave next to nothing."""
    if len(history) > 2:
        return list(history[2:])
    lengths = [len(turn["content"]) for turn in history]
    if max(lengths, default=0) <= SHORTEST:
        return None
    cut, turns = lengths.index(max(lengths)), list(history)
    half = turns[cut]["content"][lengths[cut] // 2 :]
    turns[cut] = {"role": turns[cut]["role"], "content": half}
    return turns
