"""One dialogue: the user LM opens, the assistant answers, until the user leaves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from userlm_synth.backends import Request, Result
from userlm_synth.records import Message, Record, stable_hash
from userlm_synth.simulate.guardrails import fault, first_token_ids, without_markup
from userlm_synth.user_lm.render import system_text

if TYPE_CHECKING:
    from userlm_synth.recipe import Assistant, Generate


@dataclass(frozen=True)
class Planned:
    """A dialogue before it is held; id and seed come from what it is, not from when it runs."""

    place: int
    id: str
    seed: int
    intent_id: str
    intent: str
    persona: str | None
    metadata: Record


@dataclass
class Talk:
    """A dialogue in progress."""

    plan: Planned
    messages: list[Message] = field(default_factory=list)
    end_probabilities: list[float | None] = field(default_factory=list)
    guardrails: Counter[str] = field(default_factory=Counter)
    usage: dict[str, Counter[str]] = field(
        default_factory=lambda: {"user": Counter(), "assistant": Counter()}
    )

    def spend(self, side: str, result: Result) -> None:
        """Count the tokens of one call."""
        self.usage[side]["prompt_tokens"] += result.prompt_tokens
        self.usage[side]["completion_tokens"] += result.completion_tokens

    def seed(self, side: str, attempt: int = 0) -> int:
        """The seed of one utterance: from the dialogue's seed and its place alone."""
        return int(stable_hash(self.plan.seed, side, len(self.messages), attempt)[:12], 16)


@dataclass
class Simulator:
    """The two sides and their settings; `hold` runs one dialogue."""

    user: Any
    assistant: Any
    settings: Generate
    side: Assistant
    recipe_hash: str

    async def hold(self, plan: Planned) -> Record:
        """A dialogue record, or a rejected one with its reason."""
        talk = Talk(plan)
        reason = None
        stop = "max_turns"
        for _ in range(self.settings.max_turns):
            said = await self._user_turn(talk)
            if said in ("user_ended", "guardrails_exhausted", "context_full"):
                stop = said
                break
            failed = await self._assistant_turn(talk)
            if failed == "context_full":
                stop = failed
                break
            if failed:
                stop, reason = "assistant_failed", f"assistant_failed: {failed}"
                break
        if stop == "guardrails_exhausted":
            reason = stop
        elif not talk.messages:
            reason = reason or "no_turns"
        record = self._record(talk, stop)
        return {**record, "reason": reason} if reason else record

    async def _user_turn(self, talk: Talk) -> str:
        """Add the user's next turn; returns `said` or why there is none."""
        request = self._user_request(talk)
        if request is None:
            return "context_full"
        attempts = self.settings.guardrails.attempts
        for attempt in range(attempts):
            result = await self.user.generate(
                Request(**{**request, "seed": talk.seed("user", attempt)})
            )
            talk.spend("user", result)
            if attempt == 0:
                talk.end_probabilities.append(result.end_probability)
            if result.finish == "end" and self._may_end(talk):
                return "user_ended"
            text = result.text.strip()
            refused = fault(
                text, result.finish, talk.messages, talk.plan.intent, self.settings.guardrails
            )
            if refused is None:
                talk.messages.append({"role": "user", "content": text})
                return "said"
            talk.guardrails[refused] += 1
        return "guardrails_exhausted"

    def _may_end(self, talk: Talk) -> bool:
        return len(talk.messages) // 2 + 1 >= self.settings.guardrails.forbid_end_before

    def _user_request(self, talk: Talk) -> dict[str, Any] | None:
        """The arguments of the user's request, or None when the context is full."""
        system = system_text({"intent": talk.plan.intent, "persona": talk.plan.persona})
        opening: list[Message] = [{"role": "system", "content": system}] if system else []
        common: dict[str, Any] = {
            "messages": [*opening, *talk.messages],
            "temperature": self.settings.temperature,
            "top_p": self.settings.top_p,
            "max_tokens": self.settings.max_tokens,
            "session": talk.plan.id,
        }
        form = getattr(self.user, "form", None)
        if form is None:
            return common
        prompt = [*form.prompt(common["messages"]), *form.lead]
        if len(prompt) + self.settings.max_tokens > self.user.context:
            return None
        filtered = first_token_ids(form.tokenizer, self.settings.guardrails.first_token_filter)
        banned = [] if self._may_end(talk) or form.end_id is None else [form.end_id]
        return {
            **common,
            "prompt_ids": prompt,
            "stop_ids": form.stop_ids,
            "end_id": form.end_id,
            "banned": banned,
            "banned_first": [form.turn_end_id, *filtered],
        }

    async def _assistant_turn(self, talk: Talk) -> str | None:
        """Add the assistant's reply; returns what went wrong, or None."""
        opening: list[Message] = (
            [{"role": "system", "content": self.side.system}] if self.side.system else []
        )
        messages = [*opening, *talk.messages]
        prompt = None
        if form := getattr(self.assistant, "form", None):
            prompt = form.prompt(messages)
            if len(prompt) + self.side.max_tokens > self.assistant.context:
                return "context_full"
        result = await self.assistant.generate(
            Request(
                messages=messages,
                prompt_ids=prompt,
                temperature=self.side.temperature,
                top_p=self.side.top_p,
                max_tokens=self.side.max_tokens,
                seed=talk.seed("assistant"),
                session=talk.plan.id,
            )
        )
        talk.spend("assistant", result)
        if result.finish == "error":
            return result.text or "error"
        text = without_markup(result.text).strip()
        if not text:
            return "empty reply"
        talk.messages.append({"role": "assistant", "content": text})
        return None

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
            "metadata": plan.metadata,
            "intent_id": plan.intent_id,
            "seed": plan.seed,
            "stop_reason": stop,
            "user_model": self.user.name,
            "assistant_model": self.assistant.name,
            "guardrails": dict(sorted(talk.guardrails.items())),
            "end_probabilities": talk.end_probabilities,
            "usage": {
                side: {key: used[key] for key in ("prompt_tokens", "completion_tokens")}
                for side, used in talk.usage.items()
            },
            "recipe_hash": self.recipe_hash,
        }
