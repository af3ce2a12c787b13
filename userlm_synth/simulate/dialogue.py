"""One dialogue: the user LM opens, the assistant answers, until the user leaves.

A `Talk` is a dialogue in progress; each turn that is added to it can be kept and played back, so
that an interrupted dialogue goes on after its last turn, with the seeds that it would have had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from userlm_synth.backends import Backend, Request, Result
from userlm_synth.records import Message, Record
from userlm_synth.simulate.guardrails import (
    expected_language,
    fault,
    first_token_ids,
    without_markup,
)
from userlm_synth.simulate.plan import MAIN
from userlm_synth.user_lm.render import system_text

if TYPE_CHECKING:
    from userlm_synth.recipe import Assistant, Generate
    from userlm_synth.simulate.plan import Planned
    from userlm_synth.user_lm import ChatFormat

Keep = Callable[[str, int, Record], Awaitable[None]]
Solved = Callable[["Talk"], Awaitable[bool]]
COUNTED = ("prompt_tokens", "completion_tokens", "cached_tokens")


class Paused(Exception):
    """The run stops; the dialogue goes on after its last turn when the command is run again."""


@dataclass
class Talk:
    """A dialogue in progress. `prompts` are its turns as token ids, for each side that has ids."""

    plan: Planned
    messages: list[Message] = field(default_factory=list)
    end_probabilities: list[float | None] = field(default_factory=list)
    guardrails: Counter[str] = field(default_factory=Counter)
    usage: dict[str, list[int]] = field(
        default_factory=lambda: {"user": [0] * len(COUNTED), "assistant": [0] * len(COUNTED)}
    )
    notes: Record = field(default_factory=dict)  # of what watches the dialogue: to its metadata
    prompts: dict[str, Running] = field(default_factory=dict)

    def spend(self, side: str, result: Result) -> None:
        """Count the tokens of one call."""
        counts = self.usage[side]
        for place, name in enumerate(COUNTED):
            counts[place] += getattr(result, name)

    def seed(self, side: str, attempt: int = 0) -> int:
        """The seed of one utterance: from the dialogue's seed and its place alone."""
        place = f"{self.plan.seed} {side} {len(self.messages)} {attempt}"
        return int.from_bytes(blake2b(place.encode(), digest_size=6).digest(), "big")

    @property
    def user_turn(self) -> int:
        """The number of the user's next turn, from 1."""
        return len(self.messages) // 2 + 1

    @property
    def completion_tokens(self) -> int:
        """Tokens that both sides wrote so far, samples that were refused too."""
        return sum(counts[1] for counts in self.usage.values())

    def last_turn(self) -> Record:
        """What the store keeps of the turn just added: its text, and the sums so far."""
        kept: Record = {
            "content": self.messages[-1]["content"],
            "end_probabilities": self.end_probabilities,
            "guardrails": self.guardrails,
            "usage": self.usage,
        }
        return {**kept, "notes": self.notes} if self.notes else kept

    def play(self, turns: list[Record]) -> None:
        """Go on from turns that were kept."""
        for turn in turns:
            role = "assistant" if len(self.messages) % 2 else "user"
            self.messages.append({"role": role, "content": turn["content"]})  # type: ignore[typeddict-item]
        if turns:
            self.end_probabilities = turns[-1]["end_probabilities"]
            self.guardrails = Counter(turns[-1]["guardrails"])
            self.usage = turns[-1]["usage"]
            self.notes = turns[-1].get("notes", {})


@dataclass
class Running:
    """The token ids of the turns so far, extended as they are added: nothing is encoded twice."""

    form: ChatFormat
    ids: list[int] = field(default_factory=list)
    last: str = "start"
    count: int = 0

    def prompt(self, messages: list[Message]) -> list[int]:
        """The ids that ask for the next turn; `messages` extend those of the call before."""
        self.ids, self.last = self.form.extend(self.ids, self.last, messages[self.count :])
        self.count = len(messages)
        return self.ids + self.form.opening[self.last]


@dataclass(frozen=True)
class UserSide:
    """A user model with the sampling of its slice."""

    backend: Backend
    temperature: float
    top_p: float


@dataclass
class Simulator:
    """The two sides and their settings; `hold` runs one dialogue.

    `users` are the user models by slice. Once `stopping` is set, dialogues pause after the turn
    that is under way. `solved` is asked after each of the assistant's turns, before the user's
    next one (so that a dialogue that goes on is asked about too), whether the user has what was
    wanted.
    """

    users: dict[str, UserSide]
    assistant: Backend
    settings: Generate
    side: Assistant
    recipe_hash: str
    stopping: bool = False
    solved: Solved | None = None
    filters: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected_language(self.settings.guardrails, "")  # a wrong code shows before any request

    async def hold(self, talk: Talk, keep: Keep) -> Record:
        """A dialogue record, or a rejected one with its reason; each turn goes to `keep`."""
        stop = reason = None
        while stop is None:
            if self.stopping:
                raise Paused
            before = len(talk.messages)
            if before and before % 2 == 0 and self.solved:
                if await self.solved(talk):
                    stop = "solved"
                    break
                if self.stopping:  # by now
                    raise Paused
            if before % 2:
                stop, reason = await self._assistant_turn(talk)
            else:
                stop, reason = await self._user_turn(talk)
            if len(talk.messages) > before and stop is None:
                await keep(talk.plan.id, before, talk.last_turn())
        if not talk.messages:
            reason = reason or "no_turns"
        record = self._record(talk, stop)
        return {**record, "reason": reason} if reason else record

    # ---- the user's turn ---------------------------------------------------------------------

    async def _user_turn(self, talk: Talk) -> tuple[str | None, str | None]:
        """Add the user's next turn; returns why the dialogue stops and why it is refused."""
        most = self.settings.max_dialogue_tokens
        if most is not None and talk.completion_tokens >= most:
            return "max_tokens", None
        if talk.user_turn > self.settings.max_turns:
            return "max_turns", None
        side = self.users[talk.plan.slice or MAIN]
        request = self._user_request(talk, side)
        if request is None:
            return "context_full", None
        rules = self.settings.guardrails
        beyond = talk.plan.turns is not None and talk.user_turn > talk.plan.turns
        for attempt in range(1 if beyond else rules.attempts):
            result = await side.backend.generate(
                Request(**request, seed=talk.seed("user", attempt))
            )
            talk.spend("user", result)
            if result.finish == "error":
                return "user_failed", f"user_failed: {result.text or 'error'}"
            if result.finish == "context_full":
                return "context_full", None
            if attempt == 0:
                talk.end_probabilities.append(result.end_probability)
            if result.finish == "end" and request["may_end"]:
                return "user_ended", None
            if beyond:  # asked only whether it leaves
                return "max_turns", None
            text = result.text.strip()
            refused = fault(
                text, result.finish, talk.messages, talk.plan.intent, rules,
                language=expected_language(rules, talk.plan.intent),
            )  # fmt: skip
            if refused is None:
                talk.messages.append({"role": "user", "content": text})
                return None, None
            talk.guardrails[refused] += 1
        return "guardrails_exhausted", "guardrails_exhausted"

    def _may_end(self, talk: Talk) -> bool:
        rules = self.settings.guardrails
        if rules.forbid_end or talk.user_turn < rules.forbid_end_before:
            return False
        return talk.plan.turns is None or talk.user_turn > talk.plan.turns

    def _user_request(self, talk: Talk, side: UserSide) -> dict[str, Any] | None:
        """The arguments of the user's request but the seed; None when the context is full."""
        system = system_text({"intent": talk.plan.intent, "persona": talk.plan.persona})
        opening: list[Message] = [{"role": "system", "content": system}] if system else []
        messages = [*opening, *talk.messages]
        may_end = self._may_end(talk)
        common: dict[str, Any] = {
            "messages": messages,
            "temperature": side.temperature,
            "top_p": side.top_p,
            "max_tokens": self.settings.max_tokens,
            "session": talk.plan.id,
            "may_end": may_end,
            "banned_words": self.settings.guardrails.first_token_filter,
        }
        form = side.backend.form
        if form is None:
            return common
        running = talk.prompts.setdefault("user", Running(form))
        prompt = running.prompt(messages) + form.lead
        context = side.backend.context
        if context is not None and len(prompt) + self.settings.max_tokens > context:
            return None
        return {
            **common,
            "prompt_ids": prompt,
            "stop_ids": form.stop_ids,
            "end_id": form.end_id,
            "banned": [] if may_end or form.end_id is None else [form.end_id],
            "banned_first": [form.turn_end_id, *self._filtered(form)],
        }

    def _filtered(self, form: ChatFormat) -> list[int]:
        if id(form) not in self.filters:
            words = self.settings.guardrails.first_token_filter
            self.filters[id(form)] = first_token_ids(form.tokenizer, words)
        return self.filters[id(form)]

    # ---- the assistant's turn ----------------------------------------------------------------

    async def _assistant_turn(self, talk: Talk) -> tuple[str | None, str | None]:
        """Add the assistant's reply; returns why the dialogue stops and why it is refused."""
        request = self._assistant_request(talk)
        if request is None:
            return "context_full", None
        result = await self.assistant.generate(request)
        talk.spend("assistant", result)
        if result.finish == "context_full":
            return "context_full", None
        failed = (result.text or "error") if result.finish == "error" else None
        text = without_markup(result.text).strip()
        if failed or not text:
            return "assistant_failed", f"assistant_failed: {failed or 'empty reply'}"
        talk.messages.append({"role": "assistant", "content": text})
        return None, None

    def _assistant_request(self, talk: Talk) -> Request | None:
        side = self.side
        opening: list[Message] = [{"role": "system", "content": side.system}] if side.system else []
        messages = [*opening, *talk.messages]
        prompt = None
        if form := self.assistant.form:
            prompt = talk.prompts.setdefault("assistant", Running(form)).prompt(messages)
            context = self.assistant.context
            if context is not None and len(prompt) + side.max_tokens > context:
                return None
        return Request(
            messages=messages,
            prompt_ids=prompt,
            temperature=side.temperature,
            top_p=side.top_p,
            max_tokens=side.max_tokens,
            seed=talk.seed("assistant"),
            session=talk.plan.id,
        )

    def _record(self, talk: Talk, stop: str) -> Record:
        plan = talk.plan
        return {
            "id": plan.id,
            "source": "userlm_synth",
            "user_id": None,
            "language": None,
            "intent": plan.intent,
            "persona": plan.persona,
            "messages": talk.messages,
            "metadata": {**plan.metadata, **talk.notes},
            "intent_id": plan.intent_id,
            "seed": plan.seed,
            "stop_reason": stop,
            "user_model": self.users[plan.slice or MAIN].backend.name,
            "assistant_model": self.assistant.name,
            "guardrails": dict(sorted(talk.guardrails.items())),
            "end_probabilities": talk.end_probabilities,
            "usage": {
                side: dict(zip(COUNTED, counts, strict=True)) for side, counts in talk.usage.items()
            },
            "recipe_hash": self.recipe_hash,
        }
