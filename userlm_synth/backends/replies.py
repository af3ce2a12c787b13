"""Answers of OpenAI-compatible servers as results: what was said, and whether the user left.

The end token is recognised by its id where a server returns ids (vLLM), by its text where a server
leaves it in, and, where one strips it, by an empty reply that the model itself finished.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from userlm_synth.backends.dialect import complaint
from userlm_synth.backends.http_api import Malformed
from userlm_synth.backends.interface import Finish, Request, Result
from userlm_synth.records import END_TOKEN

if TYPE_CHECKING:
    from userlm_synth.user_lm import ChatFormat


@dataclass(frozen=True)
class Reader:
    """Reads the answers to a speaker's requests, by chat or by completions."""

    user: bool
    chat: bool
    form: ChatFormat | None
    end_id: int | None

    def __call__(self, request: Request, answer: Any) -> Result:
        """The result of one request; `Malformed` for an answer that is none."""
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] if self.chat else choice["text"]
            reason, ids = choice.get("finish_reason"), choice.get("token_ids")
        except (TypeError, LookupError, AttributeError):
            said = complaint(answer)
            raise Malformed(f"the answer holds no reply{f' ({said})' if said else ''}") from None
        ids = ids if isinstance(ids, list) else []
        if not (isinstance(text, str) or (text is None and self.chat)):
            raise Malformed("the answer holds no text")
        if reason in ("abort", "error"):  # vLLM, when it shuts down
            raise Malformed(f"the server broke the reply off ({reason})")
        text, finish = self._finish(request, text or "", reason, choice, ids)
        counts = answer.get("usage")
        counts = counts if isinstance(counts, dict) else {}
        kept = ids[:-1] if ids and finish != "length" and self._stops(ids[-1]) else ids
        return Result(
            text=text,
            finish=finish,
            token_ids=kept,
            prompt_tokens=_count(counts, "prompt_tokens") or len(request.prompt_ids or ()),
            completion_tokens=_count(counts, "completion_tokens") or len(ids),
            cached_tokens=_count(counts.get("prompt_tokens_details"), "cached_tokens"),
            end_probability=self._end_probability(choice),
        )

    def _stops(self, token: int) -> bool:
        return token == self.end_id or (self.form is not None and token == self.form.turn_end_id)

    def _finish(
        self, request: Request, text: str, reason: Any, choice: Any, ids: Sequence[int]
    ) -> tuple[str, Finish]:
        """The text and how it ended."""
        if reason == "content_filter":
            return "the server's filter withheld the reply (content_filter)", "error"
        if not self.user:
            return text, "length" if reason == "length" else "eot"
        if self.chat and (self.form is None or self.form.lead):
            text = text.lstrip()  # what the template writes before the words, the model writes here
        end = self.end_id
        if ids and end is not None:
            left = ids[-1] == end or choice.get("stop_reason") == end
            return text, "end" if left else "length" if reason == "length" else "eot"
        before, mark, _ = text.partition(END_TOKEN)
        if mark:
            return before, "end"
        if reason == "length":
            return text, "length"
        forbidden = not request.may_end or (end is not None and end in request.banned)
        left = not text.strip() and reason == "stop" and not forbidden
        return text, "end" if left else "eot"

    def _end_probability(self, choice: Any) -> float | None:
        """Of the end token as the first word; None where it is not among those that came back."""
        logprobs = choice.get("logprobs")
        if not logprobs or not self.user:
            return None
        try:
            if self.chat:
                tops = logprobs["content"][self._first_place(logprobs["content"])]["top_logprobs"]
                found = {one["token"]: one["logprob"] for one in tops}
            else:
                found = logprobs["top_logprobs"][0]
            value = found.get(f"token_id:{self.end_id}", found.get(END_TOKEN))
            return None if value is None else math.exp(min(value, 0.0))
        except (TypeError, LookupError, AttributeError, StopIteration):
            return None

    def _first_place(self, tokens: Sequence[Any]) -> int:
        """Where the words begin: after what a template writes between the opening and them."""
        if self.form:
            return len(self.form.lead)
        return next(place for place, one in enumerate(tokens) if one["token"].strip())


def _count(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) else 0
