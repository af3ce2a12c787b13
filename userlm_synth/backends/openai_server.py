"""Any OpenAI-compatible server, for the user and the assistant: `openai:MODEL@URL[,URL...]`.

A user LM is asked by /completions with the token ids of our own rendering where its tokenizer is
known, else by /chat/completions with the server's template, which has to open a user turn. On a
server with the checkpoint's own template both lead to the same prompt. Assistants are asked by
/chat/completions.

On vLLM every sampling field is sent, as it applies the model's generation_config.json to those
that are not; the end token is seen by its id; and its probability is asked for by its id, in user
turns alone. Over one call that costs about a quarter of a tiny model's tokens/s on CPU (17 % are
known from others), and user turns are the short ones; a second request for the first token alone
costs a third of all user turns. Nothing is asked for where a request names no `end_id`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.backends.dialect import Dialect, complaint, is_context_full
from userlm_synth.backends.first_token import FIELD, PROBE
from userlm_synth.backends.http_api import Client, Failed, Refused, model_entries
from userlm_synth.backends.interface import FirstToken, Request, Result
from userlm_synth.backends.replies import Reader
from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.recipe import Server
from userlm_synth.records import END_TOKEN
from userlm_synth.user_lm import ChatFormat, fingerprint, load_tokenizer
from userlm_synth.user_lm.loading import adapter_base

if TYPE_CHECKING:
    from userlm_synth.backends.replicas import Replica

CHAT, COMPLETIONS = "/chat/completions", "/completions"
#: What vLLM would take from a model's generation_config.json otherwise.
PLAIN_SAMPLING = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
MOST_LOGPROBS = 20  # of a token, in OpenAI's chat API and in vLLM
OLD_LOGPROBS = 5  # in OpenAI's completions
NO_SUCH_PLACE = {400, 404, 405, 422, 501}
QUEUED = re.compile(rb"^vllm:num_requests_waiting(?:{[^}]*})? (\S+)", re.MULTILINE)


class OpenAIServer:
    """One model on one or more servers. `start` learns what they are."""

    first_token: FirstToken

    def __init__(
        self, model: str, urls: Sequence[str], key_env: str, *, speaker: str, server: Server | None
    ) -> None:
        self.model, self.server = model, server or Server()
        self.user = speaker == "user"
        self.client = Client(model, urls, key_env, self.server)
        self.signals = self.client.signals
        self.name = f"openai:{model}"
        self.dialect = Dialect(self.name)
        self.form: ChatFormat | None = None
        self.context: int | None = self.server.context
        self.first_token = "regenerate"
        self.end_id: int | None = None
        self.vllm = False
        self._settle(CHAT)

    def _settle(self, path: str) -> None:
        self.path = path
        self.read = Reader(self.user, path == CHAT, self.form, self.end_id)
        self.fixed: dict[str, Any] = {"model": self.model}
        if self.vllm:
            self.fixed |= PLAIN_SAMPLING
        if self.vllm and self.user:
            self.fixed |= {"return_token_ids": True, "skip_special_tokens": False}
        if self.vllm and path == CHAT:
            self.fixed |= {"add_generation_prompt": True}

    # ---- the server --------------------------------------------------------------------------

    async def start(self) -> None:
        """Look at each server: is it there, has it the model, and what can it do."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        found: list[tuple[Replica, dict[str, Any] | None]] = []
        absent: list[UserError] = []
        for look in asyncio.as_completed([self._look(one) for one in self.client.replicas.all]):
            try:
                found.append(await look)
            except UserError as error:
                absent.append(error)
        if absent and (self.client.stopped or not found):
            raise self.client.stopped or absent[0]
        for one in absent:
            say(f"  {one}; the others go on")
        entries = [entry for _, entry in found if entry is not None]
        self.vllm = len(entries) == len(found) and all(map(_is_vllm, entries))
        sizes = [entry.get("max_model_len") for entry in entries]
        if self.context is None:
            self.context = min((size for size in sizes if isinstance(size, int)), default=None)
        await asyncio.to_thread(self._identify, entries)
        await self._choose([replica for replica, _ in found])

    async def _look(self, replica: Replica) -> tuple[Replica, dict[str, Any] | None]:
        """The model in a server's list; None where it has no such list, or takes other names."""
        answer = await self.client.look(replica)
        entries = model_entries(answer)
        named = next((entry for entry in entries if entry["id"] == self.model), None)
        if entries and named is None:
            if not any(map(_is_vllm, entries)) and await self._answers(replica):
                return replica, None
            raise self.client.no_model(replica, entries)
        return replica, named

    async def _answers(self, replica: Replica) -> bool:
        """Whether a server takes a model that it does not list, as an alias."""
        messages = [{"role": "user", "content": "Hi"}]
        body = self.dialect.settings({**self.fixed, "messages": messages, "max_tokens": 1})
        status, answer = await self.client.probe(replica, CHAT, body)
        named = "model" in complaint(answer).lower()
        return not (status == 404 or (status in (400, 422) and named))

    def _identify(self, entries: Sequence[dict[str, Any]]) -> None:
        """Name the model by its content where its folder is here, and load a user LM's format."""
        roots = dict.fromkeys(str(entry.get("root") or "") for entry in entries)
        local = [root for root in roots if root and _is_checkpoint(Path(root))]
        prints = {fingerprint(root).rpartition("#")[2] for root in local}
        if len(prints) > 1:
            raise UserError(f"{self.name}: its servers have different models: {', '.join(local)}")
        if prints:
            self.name += f"#{prints.pop()}"
        if not self.user:
            return
        tokenizer = self.server.tokenizer or next((adapter_base(r) or r for r in local), None)
        if tokenizer is None:
            return
        try:
            self.form = ChatFormat.probe(load_tokenizer(tokenizer), "user")
        except UserError as error:
            if self.server.tokenizer or self.server.api != "chat":
                raise UserError(
                    f"{self.name}: {error}; a server with a template of its own is asked with "
                    "api: chat"
                ) from None

    async def _choose(self, replicas: Sequence[Replica]) -> None:
        """Chat or completions, and how the first token is filtered."""
        if self.user and self.form is None:
            if self.server.api == "completions":
                raise UserError(
                    f"{self.name}: api: completions needs the user LM's tokenizer; name its folder "
                    "or Hub id as `tokenizer` beside it"
                )
            self.end_id = await self.client.token_id(replicas[0], END_TOKEN) if self.vllm else None
        elif self.form is not None:
            self.end_id = self.form.end_id
        self._settle(CHAT)
        if self.form is None:
            return
        if self.server.api != "chat" and (
            self.vllm or self.server.api == "completions" or await self._completes(replicas)
        ):
            self._settle(COMPLETIONS)
            self.first_token = "two_calls" if self.vllm else "regenerate"
        in_chat = self.path == CHAT and self.form.lead  # which the server takes for the first token
        if self.vllm and not in_chat and all([await self._filters(one) for one in replicas]):
            self.first_token = "native"

    async def _completes(self, replicas: Sequence[Replica]) -> bool:
        """Whether every server has completions and takes token ids there."""
        body = {"model": self.model, "prompt": self._any_prompt(), "max_tokens": 1}
        statuses = [(await self.client.probe(one, COMPLETIONS, body))[0] for one in replicas]
        return not NO_SUCH_PLACE & set(statuses)

    async def _filters(self, replica: Replica) -> bool:
        """Whether a vLLM has our logits processor, which refuses what is no list of ids."""
        body = {**self.fixed, "prompt": self._any_prompt(), "max_tokens": 1, "vllm_xargs": PROBE}
        status, answer = await self.client.probe(replica, COMPLETIONS, body)
        return status == 400 and FIELD in complaint(answer)

    def _any_prompt(self) -> list[int]:
        assert self.form
        return self.form.prompt([{"role": "system", "content": "Hi"}])

    async def waiting(self) -> int | None:
        """Requests that vLLM has queued and not begun, over all replicas."""
        asked = [one for one in self.client.replicas.all if one.queue]
        counts = [await self._queue(one) for one in asked]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    async def _queue(self, replica: Replica) -> int | None:
        page = await self.client.metrics(replica)
        if page is None:
            return None
        counts = QUEUED.findall(page)
        replica.queue = bool(counts)  # a server of another kind is not asked again
        return round(sum(map(float, counts))) if counts else None

    async def close(self) -> None:
        """Close the connections; nothing is answered any more."""
        await self.client.close()

    # ---- requests ----------------------------------------------------------------------------

    async def generate(self, request: Request) -> Result:
        """One utterance; two requests where the first token is filtered and the server cannot."""
        if self.path == COMPLETIONS and request.prompt_ids is None:
            assert self.form
            prompt = [*self.form.prompt(request.messages), *self.form.lead]
            request = replace(request, prompt_ids=prompt)
        if self.first_token != "two_calls" or not self._filtered(request):
            return await self._ask(request, self._body(request))
        first = await self._ask(
            request, self._body(replace(request, max_tokens=1), banned_first=True)
        )
        if first.finish != "length" or request.max_tokens == 1 or not first.token_ids:
            return first
        rest = replace(
            request,
            prompt_ids=[*(request.prompt_ids or ()), *first.token_ids],
            max_tokens=request.max_tokens - 1,
            seed=request.seed + 1,  # the same seed would draw the same number twice
        )
        second = await self._ask(rest, self._body(replace(rest, end_id=None)))
        return self._joined(first, second)

    def _filtered(self, request: Request) -> bool:
        """Whether words are banned; where it is the turn's end alone, an empty turn is cheaper
        sampled again, above."""
        assert self.form
        stops = self.form.stop_ids
        return any(token not in stops for token in request.banned_first)

    async def _ask(self, request: Request, body: dict[str, Any]) -> Result:
        read = partial(self.read, request)
        while True:
            try:
                return await self.client.post(self.path, body, request.session, read)
            except Failed as failure:
                return Result(str(failure), "error")
            except Refused as refusal:
                text = str(refusal)
                if is_context_full(text):
                    return Result("", "context_full")
                if not self.dialect.learn(text, body):
                    return Result(self.client.show(text), "error")
                body = self.dialect.settings(body)

    def _joined(self, first: Result, second: Result) -> Result:
        """What both calls said; the text is decoded whole, as a character may span two tokens."""
        if second.finish in ("error", "context_full"):
            return replace(
                second,
                prompt_tokens=first.prompt_tokens,
                completion_tokens=first.completion_tokens,
                cached_tokens=first.cached_tokens,
            )
        assert self.form
        ids = [*first.token_ids, *second.token_ids]
        return Result(
            text=self.form.tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            ),
            finish=second.finish,
            token_ids=ids,
            prompt_tokens=first.prompt_tokens + second.prompt_tokens,
            completion_tokens=first.completion_tokens + second.completion_tokens,
            cached_tokens=first.cached_tokens + second.cached_tokens,
            end_probability=first.end_probability,
        )

    def _body(self, request: Request, banned_first: bool = False) -> dict[str, Any]:
        """A request in the server's words."""
        body: dict[str, Any] = {
            **self.fixed,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % (2**63 if self.vllm else 2**31),
        }
        if self.path == CHAT:
            body["messages"] = request.messages
        else:
            body["prompt"] = request.prompt_ids
        if self.user:
            self._steer(body, request, banned_first)
        return self.dialect.settings(body)

    def _steer(self, body: dict[str, Any], request: Request, banned_first: bool) -> None:
        """What a user LM needs besides: what it may not say, where it stops, if it leaves."""
        banned = request.banned
        if banned_first:
            banned = [*banned, *request.banned_first]
        elif self.first_token == "native" and request.banned_first:
            body["vllm_xargs"] = {FIELD: request.banned_first}
        if self.form is None and self.end_id is not None and not request.may_end:
            banned = [self.end_id]
        if banned:
            body["logit_bias"] = _bias(tuple(banned))
        if self.vllm and self.end_id is not None:
            body["stop_token_ids"] = self.form.stop_ids if self.form else [self.end_id]
        if request.end_id is None and self.form is not None:
            return
        chat = self.path == CHAT
        if chat:
            body |= {"logprobs": True, "top_logprobs": MOST_LOGPROBS}
        else:
            body["logprobs"] = MOST_LOGPROBS if self.vllm else OLD_LOGPROBS
        if self.vllm and self.end_id is not None:  # instead of the most likely ones
            body["logprob_token_ids"] = [self.end_id]
            body["return_tokens_as_token_ids"] = self.form is not None


@lru_cache(maxsize=64)
def _bias(banned: tuple[int, ...]) -> dict[str, float]:
    return {str(token): -100.0 for token in banned}


def _is_checkpoint(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))


def _is_vllm(entry: dict[str, Any]) -> bool:
    return entry.get("owned_by") == "vllm"
