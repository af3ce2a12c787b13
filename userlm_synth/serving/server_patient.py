"""A server that the doctor examines, spoken to in plain HTTP.

Not through the backend that generation uses: what a backend mends or hides is what the doctor wants
to see. The client below it is the same, with its keys, proxies and certificates.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.backends import Spec
from userlm_synth.backends.dialect import complaint
from userlm_synth.errors import UserError
from userlm_synth.recipe import Server
from userlm_synth.records import END_TOKEN, Message, Record
from userlm_synth.serving.patients import Answer, Ask, Patient
from userlm_synth.user_lm import ChatFormat, load_tokenizer
from userlm_synth.user_lm.loading import adapter_base

if TYPE_CHECKING:
    from userlm_synth.backends.http_api import Client
    from userlm_synth.backends.replicas import Replica

PATIENCE = 60.0  # seconds for one answer


class AtServer(Patient):
    """`openai:`. A user LM is asked by token ids where its tokenizer is known, else by messages."""

    extras = True  # whether fields beyond OpenAI's are taken, as by vLLM
    end_id: int | None = None
    client: Client
    replica: Replica

    async def start(self, spec: Spec, tokenizer: str | None, key_env: str) -> None:
        """Find the server, its model and, for token ids, the tokenizer."""
        from userlm_synth.backends.http_api import Client

        self.client = Client(spec.target, spec.urls[:1], key_env, Server(timeout=PATIENCE))
        self.replica = self.client.replicas.all[0]
        found = self._entry(await self.client.look(self.replica))
        self.context = found.get("max_model_len")
        self._read_tokenizer(tokenizer, found.get("root"))
        await self._find_end()
        await self._try()

    async def _find_end(self) -> None:
        """The end token's id: the tokenizer's, or what vLLM says its own is."""
        if self.form:
            self.end_id = self.form.end_id
        elif self.role == "user":
            with suppress(*self.client.errors):
                self.end_id = await self.client.token_id(self.replica, END_TOKEN)

    async def _try(self) -> None:
        """By token ids or by messages; `UserError` where neither is answered."""
        asked: list[Message] = [{"role": "user", "content": "hello"}]
        answer = Answer("failed")
        if self.form and self.role == "user":
            hello = self.form.tokenizer.encode("hello", add_special_tokens=False)
            answer = await self.complete(Ask(prompt_ids=hello, max_tokens=1))
            self.completions = answer.answered
        if not self.completions:
            answer = await self.chat(Ask(asked, max_tokens=1))
        if not answer.answered:
            raise UserError(f"{self.spec}: the server answers no request ({answer.text})")

    def _read_tokenizer(self, given: str | None, root: Any) -> None:
        """The one given, or that of the folder from which the server says it serves."""
        self.tokenizer = given or _fitting(root)
        if self.tokenizer is None:
            self.no_form = "the server does not say where its tokenizer is"
            return
        self.read(self.tokenizer)
        try:
            self.form = ChatFormat.probe(load_tokenizer(self.tokenizer), self.role)
        except UserError as error:
            if given and "chat template" not in str(error):
                raise
            self.no_form = str(error)

    def _entry(self, models: Any) -> Record:
        """The server's entry of the model; `UserError` where it has others only."""
        from userlm_synth.backends.http_api import model_entries

        entries = model_entries(models)
        found = next((one for one in entries if one["id"] == self.client.model), None)
        if entries and found is None:
            raise self.client.no_model(self.replica, entries)
        return found or {}

    async def ask(self, ask: Ask) -> Answer:
        """The way that generation would take."""
        return await (self.complete(ask) if self.completions else self.chat(ask))

    async def complete(self, ask: Ask) -> Answer:
        """`/completions` with token ids that we rendered."""
        form = self.form
        prompt = ask.prompt_ids
        if form and prompt is None:
            prompt = [*form.prompt(ask.messages), *form.lead]
        sent = {"prompt": list(prompt or [])}
        return await self._post("/completions", sent, ask, {"logprobs": 5})

    async def chat(self, ask: Ask) -> Answer:
        """`/chat/completions`: the server renders."""
        sent = {"messages": list(ask.messages)}
        return await self._post(
            "/chat/completions", sent, ask, {"logprobs": True, "top_logprobs": 5}
        )

    async def _post(self, path: str, what: Record, ask: Ask, logprobs: Record) -> Answer:
        """One request, again without extras and then without logprobs where those are refused."""
        standard = {
            "model": self.client.model, **what, "max_tokens": ask.max_tokens, "seed": ask.seed,
            "temperature": ask.temperature, "top_p": 1.0,
        }  # fmt: skip
        wanted = ask.bias if ask.only is None else ask.only
        if wanted is not None:
            standard["logit_bias"] = {str(wanted): 100}
        tries = [{**logprobs, **self._extras(ask)}] if self.extras else []
        status, body = 0, None
        for added in [*tries, logprobs, {}]:
            status, body = await self._http(path, {**standard, **added})
            if status not in (400, 422):
                self.extras = self.extras and added not in (logprobs, {})
                break
        return self._answer(status, body)

    async def _http(self, path: str, body: Record) -> tuple[int, Any]:
        """(status, JSON); (0, why) where no answer came."""
        try:
            return await self.client.ask(self.replica, path, body)
        except self.client.errors as error:
            return 0, str(error) or f"no answer within {PATIENCE:.0f} s"

    def _extras(self, ask: Ask) -> Record:
        """What vLLM takes beyond OpenAI's fields; others ignore or refuse it."""
        sent: Record = {"return_token_ids": True, "return_tokens_as_token_ids": True}
        sent |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}  # not the model's own
        if self.form:
            sent["stop_token_ids"] = self.form.stop_ids
        elif self.end_id is not None:
            sent["stop_token_ids"] = [self.end_id]
        if self.end_id is not None:
            sent["logprob_token_ids"] = [self.end_id]
        if ask.only is not None:
            sent["allowed_token_ids"] = [ask.only]
        return sent

    def _answer(self, status: int, body: Any) -> Answer:
        if status != 200:
            kind = "refused" if 400 <= status < 500 and status not in (401, 404, 429) else "failed"
            text = complaint(body) or (body if isinstance(body, str) else "")
            return Answer(kind, self.client.show(f"{status or 'no answer'}: {text}"))
        try:
            return self._read(body)
        except (KeyError, IndexError, TypeError, AttributeError):
            return Answer("failed", "the answer is not as OpenAI's: no choices with a text")

    def _read(self, body: Any) -> Answer:
        choice = body["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"].get("content")
        ids = choice.get("token_ids")
        finish = {"length": "length"}.get(choice.get("finish_reason"), "stop")
        if finish == "stop":
            last = ids[-1] if ids else choice.get("stop_reason")
            closed = self.form.turn_end_id if self.form else None
            finish = {self.end_id: "end", closed: "eot", None: "stop"}.get(last, "stop")
        first = _first_logprobs(choice.get("logprobs"))
        return Answer(
            finish=finish,
            text=text or "",
            ids=ids,
            prompt_tokens=(body.get("usage") or {}).get("prompt_tokens") or 0,
            prompt_ids=choice.get("prompt_token_ids") or body.get("prompt_token_ids"),
            logprobs=bool(first),
            end_probability=self._end_probability(first),
        )

    def _end_probability(self, first: dict[str, float]) -> float | None:
        """That of the end token, where it is among the likeliest first tokens."""
        for name in (END_TOKEN, f"token_id:{self.end_id}"):
            if name in first:
                return math.exp(first[name])
        return None

    async def close(self) -> None:
        """Close the connections."""
        if hasattr(self, "client"):
            await self.client.close()


def _first_logprobs(logprobs: Any) -> dict[str, float]:
    """The likeliest first tokens, by the server's name of each, in either endpoint's form."""
    if not isinstance(logprobs, dict):
        return {}
    if content := logprobs.get("content"):
        return {one["token"]: one["logprob"] for one in content[0].get("top_logprobs") or []}
    top = logprobs.get("top_logprobs")
    return dict(top[0]) if top and isinstance(top[0], dict) else {}


def _fitting(root: Any) -> str | None:
    """The folder from which the server says it serves, if it is here; an adapter's base."""
    if not isinstance(root, str) or not Path(root).is_dir():
        return None
    return adapter_base(root) or root
