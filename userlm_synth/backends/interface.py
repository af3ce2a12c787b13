"""The interface that every backend has, and SPECs.

A request carries either prompt token ids, which we rendered from the checkpoint's own template,
or messages. Length, repetition and role checks live above the backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from userlm_synth.errors import UserError
from userlm_synth.records import Message

if TYPE_CHECKING:
    from userlm_synth.recipe import Server
    from userlm_synth.user_lm import ChatFormat

Finish = Literal["eot", "end", "length", "context_full", "error"]
#: How a filter of the first token is kept: in the sampler, by a request for the first token alone
#: and one that goes on from it, or (only the text is seen) by sampling again.
FirstToken = Literal["native", "two_calls", "regenerate"]


@dataclass(frozen=True)
class Request:
    """One utterance to sample. `seed` alone fixes its randomness where the backend can.

    `banned` tokens have no probability anywhere, `banned_first` none as the first token; with
    `end_id` the end token's probability before any ban is reported. `banned_words` says in words
    what `banned_first` says in ids, and `may_end` whether the user may leave here, for backends
    that know no ids. Both `messages` and `prompt_ids` are there where the ids are known.
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
    banned_words: Sequence[str] = ()
    may_end: bool = True
    end_id: int | None = None
    session: str = ""


@dataclass(frozen=True)
class Result:
    """What came back. `finish`: the turn closed (`eot`), the user left (`end`), the token limit
    (`length`), the prompt is too long for the model (`context_full`), or an `error` (then `text`
    says which). Tokens are all that the call was billed for, also where it took two requests."""

    text: str
    finish: Finish
    token_ids: Sequence[int] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, read from a prefix cache
    end_probability: float | None = None


@dataclass
class Signals:
    """What a backend noticed of its servers; the window of live dialogues follows it."""

    throttled: int = 0  # answers 429 and 503 so far
    retries: int = 0  # requests sent again so far, for any reason


class Backend(Protocol):
    """A model that can be asked for an utterance."""

    name: str  # with its revision or fingerprint: goes into every row
    form: ChatFormat | None  # of a local or known tokenizer; requests then carry prompt_ids
    context: int | None  # tokens of prompt and reply together, where known
    first_token: FirstToken
    signals: Signals

    async def start(self) -> None:
        """Make ready, once, before the first request: look at the server, load what is missing.

        Raises `UserError` for what a person has to mend (no server there, a wrong key, a model
        that the server does not have).
        """

    async def generate(self, request: Request) -> Result:
        """Sample one utterance. What concerns this request alone comes back as `error` or
        `context_full`; what no other request would escape raises `UserError`."""

    async def waiting(self) -> int | None:
        """Requests that the servers have queued and not begun, where they tell."""

    async def close(self) -> None:
        """Release connections and workers."""


@dataclass(frozen=True)
class Spec:
    """A parsed SPEC: `openai:NAME@URL,URL` -> kind, target, urls."""

    kind: str
    target: str
    urls: Sequence[str] = field(default_factory=tuple)


KINDS = ("hf", "openai", "prompted", "scripted", "vllm")


def parse_spec(text: str) -> Spec:
    """A SPEC's parts; `UserError` for a kind that does not exist."""
    kind, colon, rest = text.partition(":")
    if not colon or "/" in kind or kind.startswith("."):
        return Spec("hf", text)
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
    if kind == "prompted" and parse_spec(rest).kind == "prompted":
        raise UserError(f"{text}: a prompted model cannot be prompted again; write {rest}")
    return Spec(kind, rest)


def open_backend(
    spec: str,
    *,
    speaker: str,
    batch: int = 64,
    key_env: str = "OPENAI_API_KEY",
    server: Server | None = None,
    sdk: bool = False,
) -> Any:
    """The backend of a SPEC. `speaker` says whose turns it takes; `sdk` asks for the openai SDK."""
    parsed = parse_spec(spec)
    if parsed.kind == "prompted":
        from userlm_synth.backends.prompted import PromptedBackend

        options: dict[str, Any] = {"batch": batch, "key_env": key_env, "server": server}
        return PromptedBackend(open_backend(parsed.target, speaker="assistant", sdk=sdk, **options))
    if parsed.kind == "scripted":
        from userlm_synth.backends.scripted import ScriptedBackend

        return ScriptedBackend(parsed.target)
    if parsed.kind == "openai":
        if sdk:
            from userlm_synth.backends.openai_api import OpenAIBackend

            return OpenAIBackend(parsed.target, parsed.urls, key_env)
        from userlm_synth.backends.openai_server import OpenAIServer

        return OpenAIServer(parsed.target, parsed.urls, key_env, speaker=speaker, server=server)
    if parsed.kind == "vllm":
        from userlm_synth.backends.vllm_engine import VLLMBackend

        return VLLMBackend(parsed.target, speaker=speaker)
    from userlm_synth.backends.hf import HFBackend

    return HFBackend(parsed.target, speaker=speaker, batch=batch)
