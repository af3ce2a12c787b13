"""The interface that every backend has, and SPECs.

A request carries either prompt token ids, which we rendered from the checkpoint's own template,
or messages. Length, repetition and role checks live above the backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from userlm_synth.errors import UserError
from userlm_synth.records import Message

Finish = Literal["eot", "end", "length", "error"]


@dataclass(frozen=True)
class Request:
    """One utterance to sample. `seed` alone fixes its randomness where the backend can.

    `banned` tokens have no probability anywhere, `banned_first` none as the first token; with
    `end_id` the end token's probability before any ban is reported.
    """

    messages: Sequence[Message] = ()
    prompt_ids: Sequence[int] | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    stop_ids: Sequence[int] = ()
    banned: Sequence[int] = ()
    banned_first: Sequence[int] = ()
    end_id: int | None = None
    session: str = ""


@dataclass(frozen=True)
class Result:
    """What came back. `finish`: the turn closed (`eot`), the user left (`end`), the token limit
    (`length`), or an `error` (then `text` says which)."""

    text: str
    finish: Finish
    token_ids: Sequence[int] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    end_probability: float | None = None


class Backend(Protocol):
    """A model that can be asked for an utterance."""

    name: str  # with its revision or fingerprint: goes into every row

    async def generate(self, request: Request) -> Result:
        """Sample one utterance; errors of the model's side come back as `finish="error"`."""

    async def close(self) -> None:
        """Release connections and workers."""


@dataclass(frozen=True)
class Spec:
    """A parsed SPEC: `openai:NAME@URL,URL` -> kind, target, urls."""

    kind: str
    target: str
    urls: Sequence[str] = field(default_factory=tuple)


KINDS = ("hf", "openai", "scripted")


def parse_spec(text: str) -> Spec:
    """A SPEC's parts; `UserError` for a kind that does not exist."""
    kind, colon, rest = text.partition(":")
    if not colon or "/" in kind or kind.startswith("."):
        return Spec("hf", text)
    if kind in ("vllm", "prompted"):
        raise UserError(
            f"{text}: {kind}: models are not supported by this version; use hf: or openai:"
        )
    if kind not in KINDS:
        raise UserError(f"{text}: unknown kind of model {kind!r}; known: {', '.join(KINDS)}")
    if not rest:
        raise UserError(f"{text}: names no model; write {kind}:MODEL")
    if kind == "openai":
        model, at, urls = rest.rpartition("@http")
        if not at or not model:
            raise UserError(
                f"{text}: write openai:MODEL@URL, as in openai:my-model@http://localhost:8000/v1"
            )
        return Spec(kind, model, tuple(f"http{urls}".split(",")))
    return Spec(kind, rest)


def open_backend(
    spec: str, *, speaker: str, batch: int = 64, key_env: str = "OPENAI_API_KEY"
) -> Any:
    """The backend of a SPEC. `speaker` says whose turns a local model's template opens."""
    parsed = parse_spec(spec)
    if parsed.kind == "scripted":
        from userlm_synth.backends.scripted import ScriptedBackend

        return ScriptedBackend(parsed.target)
    if parsed.kind == "openai":
        from userlm_synth.backends.openai_api import OpenAIBackend

        return OpenAIBackend(parsed.target, parsed.urls, key_env)
    from userlm_synth.backends.hf import HFBackend

    return HFBackend(parsed.target, speaker=speaker, batch=batch)
