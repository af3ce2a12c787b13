"""What the doctor examines: a model in process, a server, or a script, asked in one way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from userlm_synth.backends import Backend, Request, Result, Spec, open_backend
from userlm_synth.errors import UserError
from userlm_synth.records import Message, Record
from userlm_synth.user_lm import ChatFormat, load_tokenizer
from userlm_synth.user_lm.adapters import find_adapter
from userlm_synth.user_lm.loading import find_file

Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class Ask:
    """One utterance to sample. `only` is the one token that may come, by whatever way there is;
    `bias` one that is made all but certain, by `logit_bias` alone."""

    messages: Sequence[Message] = ()
    prompt_ids: Sequence[int] | None = None
    max_tokens: int = 12
    temperature: float = 0.0
    seed: int = 0
    only: int | None = None
    bias: int | None = None


@dataclass(frozen=True)
class Answer:
    """What came back. `finish`: `end` and `eot` by their ids, `stop` where the server does not
    say which, `length`; `refused` (the server says why), `failed` (anything else)."""

    finish: str
    text: str = ""
    ids: Sequence[int] | None = None  # as generated, where the server tells
    prompt_tokens: int = 0
    prompt_ids: Sequence[int] | None = None  # as the server read them, where it tells
    logprobs: bool = False
    end_probability: float | None = None

    @property
    def answered(self) -> bool:
        """Whether the model spoke."""
        return self.finish not in ("refused", "failed")


@dataclass
class Patient:
    """A model and what is known of it before it is asked anything."""

    spec: str
    role: Role
    kind: str  # process, server or script
    form: ChatFormat | None = None
    no_form: str = ""  # why there is none
    context: int | None = None  # tokens, as the server or the backend says
    config: Record = field(default_factory=dict)  # of its config.json
    generation: Record = field(default_factory=dict)  # of its generation_config.json
    vocabulary: int = 0  # rows of the head
    trained_context: int | None = None  # tokens, by config.json
    completions: bool = False  # a server that is asked by token ids
    tokenizer: str | None = None  # where a server's form comes from

    @property
    def section(self) -> str:
        """Of a recipe, with this side's settings."""
        return "generate" if self.role == "user" else "assistant"

    @property
    def by_ids(self) -> bool:
        """Whether the prompt is rendered here."""
        return self.form is not None and (self.kind == "process" or self.completions)

    async def ask(self, ask: Ask) -> Answer:
        """The model's answer, as generation would ask for it."""
        raise NotImplementedError

    async def close(self) -> None:
        """Release what is held."""

    def read(self, checkpoint: str) -> None:
        """Look at a checkpoint's configs; a tokenizer's folder may have none."""
        self.config = _json(checkpoint, "config.json")
        self.generation = _json(checkpoint, "generation_config.json")
        text = self.config.get("text_config") or self.config
        self.vocabulary = text.get("vocab_size") or 0
        self.trained_context = text.get("max_position_embeddings")


class InProcess(Patient):
    """`hf:`, `vllm:` and `scripted:`, through the backend."""

    backend: Backend | None = None

    async def start(self, spec: Spec, tokenizer: str | None) -> None:
        """Load the model; where its template does not fit, only say so."""
        if spec.kind != "scripted":
            self.kind = "process"
            adapter = find_adapter(spec.target)
            checkpoint = adapter.base if adapter else spec.target
            self.read(checkpoint)
            try:
                ChatFormat.probe(load_tokenizer(tokenizer or checkpoint), self.role)
            except UserError as error:
                if "chat template" not in str(error):
                    raise
                self.no_form = str(error)
                return
        self.backend = open_backend(self.spec, speaker=self.role)
        await self.backend.start()
        self.form, self.context = self.backend.form, self.backend.context

    async def ask(self, ask: Ask) -> Answer:
        """Through the backend; all tokens but one are banned where one is wanted."""
        if self.backend is None:
            return Answer("failed", self.no_form)
        form = self.form
        wanted = ask.bias if ask.only is None else ask.only
        banned = [] if wanted is None else [i for i in range(self.vocabulary) if i != wanted]
        prompt = ask.prompt_ids
        if form and prompt is None:
            prompt = [*form.prompt(ask.messages), *form.lead]
        result = await self.backend.generate(
            Request(
                messages=ask.messages, prompt_ids=prompt, temperature=ask.temperature,
                max_tokens=ask.max_tokens, seed=ask.seed, stop_ids=form.stop_ids if form else (),
                banned=banned, end_id=form.end_id if form else None,
            )
        )  # fmt: skip
        return _told(result)

    async def close(self) -> None:
        """Stop the backend."""
        if self.backend:
            await self.backend.close()


def _told(result: Result) -> Answer:
    kinds = {"error": "failed", "context_full": "refused"}
    return Answer(
        finish=kinds.get(result.finish, result.finish),
        text=result.text,
        ids=result.token_ids,
        prompt_tokens=result.prompt_tokens,
        logprobs=result.end_probability is not None,
        end_probability=result.end_probability,
    )


def _json(checkpoint: str, file: str) -> Record:
    path = find_file(checkpoint, file)
    try:
        found = json.loads(path.read_bytes()) if path else {}
    except ValueError:
        raise UserError(f"{path}: is not JSON; mend it or fetch it again") from None
    return found if isinstance(found, dict) else {}
