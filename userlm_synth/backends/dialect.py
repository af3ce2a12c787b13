"""What an OpenAI-compatible server takes, and what its refusals mean.

Servers differ: newer models of OpenAI take no temperature, other providers no seed. What a server
refuses is learnt from its own words, once for all requests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.progress import say

LONGEST = 300  # characters of a server's complaint that people are shown
#: A prompt that is too long, in the words of OpenAI, vLLM, SGLang, llama.cpp, Anthropic, TGI.
CONTEXT_FULL = re.compile(
    r"context_length_exceeded|maximum context length|maximum model length|exceeds? the "
    r"(available )?context|exceed_context|exceeds? context|prompt is too long|"
    r"`inputs` tokens \+ `max_new_tokens` must be",
    re.IGNORECASE,
)
#: Settings that a server may refuse and the rest does without.
SPARE = {
    "seed": ("seed",),
    "logprobs": ("logprobs", "top_logprobs", "logprob_token_ids", "return_tokens_as_token_ids"),
}
UNKNOWN = (
    r"(unsupported|unrecognized|unknown|unexpected|extra|greater than max|"
    r"not (support|permit|allow|enabl))"
)


class Dialect:
    """The settings of a request in the words of one server."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.limit = "max_tokens"  # what the server calls the most tokens of a reply
        self.refused: frozenset[str] = frozenset()

    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings (changed in place) as this server takes them."""
        if self.limit != "max_tokens" and "max_tokens" in settings:
            settings[self.limit] = settings.pop("max_tokens")
        for name in self.refused:
            settings.pop(name, None)
        return settings

    def learn(self, text: str, sent: Mapping[str, Any]) -> bool:
        """Whether another try makes sense after the server refused `sent` with this text.

        What was learnt holds from now on; requests already under way learn it too.
        """
        if "max_tokens" in sent and re.search("not supported.*max_completion_tokens", text):
            self.limit = "max_completion_tokens"
            return True
        if "temperature" in sent and re.search(
            r"unsupported.{0,40}'(temperature|top_p)'", text, re.IGNORECASE
        ):
            if "temperature" not in self.refused:
                say(f"  {self.name}: takes no temperature or top_p; its own are used")
            self.refused |= {"temperature", "top_p"}
            return True
        for name, settings in SPARE.items():
            words = rf"{UNKNOWN}.{{0,80}}\b{name}\b|\b{name}\b.{{0,80}}{UNKNOWN}"
            if name in sent and re.search(words, text, re.IGNORECASE):
                self.refused |= set(settings)
                return True
        return False


def is_context_full(text: str) -> bool:
    """Whether a refusal says that the prompt, or the prompt and the reply, are too long."""
    return CONTEXT_FULL.search(text) is not None


def read_key(model: str, urls: Sequence[str], key_env: str) -> str | None:
    """The key from the environment variable `key_env`; OpenAI itself is not asked without one."""
    key = os.environ.get(key_env, "").strip()
    if not key and any("api.openai.com" in url for url in urls):
        raise UserError(f"openai:{model}: set {key_env} to your API key")
    return key or None


def one_line(text: str, key: str | None = None) -> str:
    """A complaint for people: short, and never with the key, which a server may echo."""
    text = hidden(text, key)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."  # a proxy's HTML page


def hidden(text: str, key: str | None) -> str:
    """The text in one line, without the key."""
    text = " ".join(text.split())
    return text.replace(key, "(key)") if key else text


def complaint(answer: Any) -> str:
    """What a server's error body says: OpenAI's form, vLLM's older one, FastAPI's; "" if none."""
    if not isinstance(answer, dict):
        return ""
    error = answer.get("error") or answer
    if not isinstance(error, dict):
        return str(error)
    text = error.get("message") or error.get("detail") or ""
    code = error.get("code")
    named = isinstance(code, str) and code not in str(text)
    return f"{text} ({code})" if named else str(text)
