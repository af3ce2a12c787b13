"""Questions to a model, many at once: behind `intents`, and wherever a model judges.

An answer that will not do is asked for again with another seed and temperature. A server that is
overloaded or away is waited for (the openai SDK has by then retried by itself, and waited as long
as the server said); what no wait would mend stops the run, and no answer is lost by that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from userlm_synth.asking.cache import Cache
from userlm_synth.errors import UserError
from userlm_synth.money import BudgetUsedUp, Price, Purse, most_tokens
from userlm_synth.records import Record, stable_hash

if TYPE_CHECKING:
    from userlm_synth.backends import Backend, Result

ATTEMPTS = 3
CUT_OFF = "the reply was cut off"
PATIENCE = 5  # waits for a server that is overloaded or away, before the run stops
FIRST_WAIT, LONGEST_WAIT = 5.0, 60.0  # seconds; doubled each time, with jitter
BACKOFF = 1.0  # seconds after an error that concerns one request; doubled each time

#: A server's errors (the openai SDK's classes) which no other question would escape.
HOPELESS = ("AuthenticationError", "NotFoundError", "PermissionDeniedError")
PASSING = ("APIConnectionError", "RateLimitError")
#: After these, nothing is billed. After a timeout, for one, nobody knows.
UNBILLED = (*HOPELESS, *PASSING, "BadRequestError", "InternalServerError", "UnprocessableEntity")
#: The run also stops when this many questions got no good answer and none ever did.
HOPELESS_COUNT = 20


class Settings(Protocol):
    """What of a recipe's section says who is asked."""

    @property
    def model(self) -> str:
        """A SPEC."""

    @property
    def concurrency(self) -> int:
        """Questions at once."""

    @property
    def api_key_env(self) -> str:
        """The environment variable of the key."""


@dataclass(frozen=True)
class Question:
    """One prompt, what it is about, and how its reply is judged.

    `judge(reply, cut off or not)` gives (answer, "") or ("", why it will not do).
    """

    key: str
    name: str
    text: str
    judge: Callable[[str, bool], tuple[str, str]]
    max_tokens: int
    temperature: float = 0.0  # of the first attempt


@dataclass
class Failure:
    """A question without an answer."""

    reason: str
    attempts: int
    reply: str = ""


@dataclass
class Asker:
    """A model, the answers so far and the bill. Use `async with`."""

    settings: Settings
    cache: Cache
    purse: Purse
    price: Price | None
    ask_again: bool = False  # what got no good answer in an earlier run
    stopped: str = ""  # why no more questions are asked
    failures: dict[str, Failure] = field(default_factory=dict)  # by key, of this run
    answered: int = 0  # replies, good or not, in this run

    async def __aenter__(self) -> Asker:
        from userlm_synth.backends import open_backend

        self.backend: Backend = open_backend(
            self.settings.model,
            speaker="assistant",
            batch=self.settings.concurrency,
            key_env=self.settings.api_key_env,
            sdk=True,
        )
        self.slots = asyncio.Semaphore(self.settings.concurrency)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.backend.close()

    @property
    def bill(self) -> str:
        """What is spent, for the progress line; "" without a price."""
        return f"${self.purse.spent:,.4f} spent" if self.price else ""

    def stop(self, done: int, total: int, unit: str, hint: str = "") -> UserError:
        """One line: why the run stopped, how far it is, what it cost, how to go on."""
        text = f"{self.stopped}. {done:,} of {total:,} {unit} are done, {total - done:,} are left"
        if self.price:
            text += f"; ${self.purse.spent:,.4f} spent"
            if done:
                text += f", about ${self.purse.spent / done * total:,.4f} for all"
        if done:
            text += f". The answers so far are kept in {self.cache.path}"
        return UserError(f"{text}; mend that and run the same command again{hint}")

    async def ask(self, question: Question) -> str | None:
        """The answer, from the cache or the model; None: see `failures`, or `stopped`."""
        if question.key in self.cache.answers:
            return self.cache.answers[question.key]
        tried = self.cache.faulty[question.key]
        if tried >= ATTEMPTS and not self.ask_again:
            reason, reply = self.cache.faults[question.key]
            self.failures[question.key] = Failure(reason, tried, reply)
            return None
        async with self.slots:
            reason, attempts = "", tried % ATTEMPTS  # a killed run goes on where it was
            while attempts < ATTEMPTS:
                result = await self._reply(question)
                if result is None:
                    return None
                attempts += 1
                if result.finish == "error":
                    reason = result.text
                    if attempts < ATTEMPTS:
                        await _pause(BACKOFF * 2**attempts)
                    continue
                answer, reason = question.judge(result.text, result.finish == "length")
                bill = self._bill(question, result)
                if not reason:
                    self.cache.keep(question.key, question.name, answer, bill)
                    return answer
                self.cache.keep_fault(question.key, question.name, reason, result.text, bill)
        _, reply = self.cache.faults.get(question.key, ("", ""))
        self.failures[question.key] = Failure(reason, attempts, reply)
        if len(self.failures) >= HOPELESS_COUNT and not self.cache.answers:
            what = f"{len(self.failures)} questions asked, none answered well"
            self.stopped = f"{self.settings.model}: {reason} ({what})"
        return None

    async def _reply(self, question: Question) -> Result | None:
        """One reply, paid; None when the run stops."""
        for wait in range(PATIENCE + 1):
            if self.stopped:
                return None
            try:
                result = await self._pay(question)
            except BudgetUsedUp:
                self.stopped = (
                    f"the budget of ${self.purse.budget:g} has no room for another request "
                    "(raise it)"
                )
                return None
            if result.finish != "error":
                self.answered += 1
                return result
            passing = result.text.startswith(PASSING) and "insufficient_quota" not in result.text
            if result.text.startswith(HOPELESS + PASSING) and not (
                # A server that never answered is not overloaded: its address or the key is wrong.
                passing and self.answered and wait < PATIENCE
            ):
                self.stopped = f"{self.settings.model}: {result.text}"
                return None
            if not passing:
                return result
            await _pause(min(LONGEST_WAIT, FIRST_WAIT * 2**wait))
        return None

    async def _pay(self, question: Question) -> Result:
        from userlm_synth.backends import Request

        tried = self.cache.faulty[question.key]
        request = Request(
            messages=[{"role": "user", "content": question.text}],
            temperature=max(0.7, question.temperature) if tried else question.temperature,
            max_tokens=self._room(question),
            seed=int(stable_hash(question.key, tried)[:8], 16),
            session=question.name,
        )
        if self.price is None:
            return await self.backend.generate(request)
        most = self._most(question)
        await self.purse.reserve(most)
        cost = most
        try:
            self.cache.begin(question.key, question.name, most)
            result = await self.backend.generate(request)
            bill = self._bill(question, result)
            cost = bill["usd"]
            if result.finish == "error":
                self.cache.keep_error(question.key, question.name, result.text, bill)
            return result
        finally:
            self.purse.settle(most, cost)

    def _most(self, question: Question) -> float:
        assert self.price
        return self.price.usd(most_tokens(question.text), self._room(question))

    def _room(self, question: Question) -> int:
        """Tokens for the reply: more when a model that talks or thinks was cut off before."""
        reason, _ = self.cache.faults.get(question.key, ("", ""))
        return question.max_tokens * (4 if reason == CUT_OFF else 1)

    def _bill(self, question: Question, result: Result) -> Record:
        """Tokens, and USD where there is a price; what a backend does not count is the most."""
        read, written = result.prompt_tokens, result.completion_tokens
        if self.price is None:
            return {"tokens": [read, written]}
        if result.finish == "error" and result.text.startswith(UNBILLED):
            return {"tokens": [0, 0], "usd": 0.0}
        read = read or most_tokens(question.text)
        written = written or self._room(question)
        return {"tokens": [read, written], "usd": self.price.usd(read, written)}


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
