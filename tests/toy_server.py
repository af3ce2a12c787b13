"""An OpenAI-compatible server of a real toy model, with vLLM's extra fields and faults to plant.

    with toy_server(folder, "no_seed") as url: ...

A request is computed token by token on the loop's thread; `pause` stands for the time that a large
model would take, and is waited for by all requests at once.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from userlm_synth.records import Record
from userlm_synth.user_lm import load_tokenizer
from userlm_synth.user_lm.loading import load_model

FAULTS = (
    "assistant_template",  # the chat endpoint opens an assistant turn
    "other_template",  # a turn's end is written otherwise
    "stripped",  # no token ids, no stop reason, and the end token is no text
    "no_stops",  # stop ids are ignored, the model's own too
    "no_eos",  # stops at the ids of a request alone
    "no_bias",  # logit_bias is ignored
    "no_seed",
    "no_logprobs",
    "short_context",  # less than it says
    "cut_context",  # a prompt that is too long loses its beginning
    "one_at_a_time",
    "busy",  # 429 for all but two at once
    "plain",  # OpenAI's fields alone; others are refused
    "no_completions",  # the chat endpoint alone
    "no_chat",  # token ids alone
    "no_root",  # does not say where its model's files are
    "no_models",  # has no list of models
    "down",  # 500 for every request
)
SHORT = 256  # tokens, of `short_context`
EXTRA = {
    "allowed_token_ids", "logprob_token_ids", "min_p", "repetition_penalty", "return_token_ids",
    "return_tokens_as_token_ids", "skip_special_tokens", "stop_token_ids", "top_k",
}  # fmt: skip

#: logits by the model's folder, whose files stay as they are, and the tokens before
KNOWN: dict[tuple[Path, tuple[int, ...]], Any] = {}


class ToyServer:
    """One model behind /v1; `requests` are the bodies that came."""

    def __init__(self, folder: Path, faults: tuple[str, ...], pause: float) -> None:
        assert set(faults) <= set(FAULTS), faults
        self.folder, self.faults, self.pause = folder, set(faults), pause
        self.tokenizer, self.model = load_tokenizer(str(folder)), load_model(str(folder)).eval()
        self.context: int = self.model.config.max_position_embeddings
        self.lock = asyncio.Lock()
        self.open = 0
        self.requests: list[Record] = []

    def application(self) -> web.Application:
        """The routes."""
        routes = [web.get("/v1/models", self.models)] * ("no_models" not in self.faults)
        if "no_completions" not in self.faults:
            routes.append(web.post("/v1/completions", self.completions))
        if "no_chat" not in self.faults:
            routes.append(web.post("/v1/chat/completions", self.chat))
        app = web.Application(client_max_size=2**24)
        app.add_routes(routes)
        return app

    async def models(self, _: web.Request) -> web.Response:
        """The one model."""
        entry: Record = {"id": "toy", "object": "model"}
        if not self.faults & {"no_root", "plain"}:
            entry |= {"root": str(self.folder), "max_model_len": self.context, "owned_by": "vllm"}
        return web.json_response({"object": "list", "data": [entry]})

    async def completions(self, request: web.Request) -> web.Response:
        """From token ids or a text."""
        body = await request.json()
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt)
        return await self.answer(body, prompt, lambda text, _: {"text": text})

    async def chat(self, request: web.Request) -> web.Response:
        """From messages, by the template."""
        body = await request.json()
        options: Record = {"add_generation_prompt": True, "tokenize": False}
        if "assistant_template" in self.faults:
            options["generate_role"] = "assistant"
        text = self.tokenizer.apply_chat_template(body["messages"], **options)
        if "other_template" in self.faults:
            text = text.replace("<|eot_id|>", "<|eot_id|>\n\n")
        self.tokenizer.backend_tokenizer.encode_special_tokens = False
        prompt = self.tokenizer.encode(text, add_special_tokens=False)
        return await self.answer(
            body, prompt, lambda text, _: {"message": {"role": "assistant", "content": text}}
        )

    async def answer(self, body: Record, prompt: list[int], say: Any) -> web.Response:
        """Sample, slowly, and tell in OpenAI's and vLLM's fields."""
        self.requests.append(body)
        if refusal := self.refuse(body, prompt):
            return refusal
        if "cut_context" in self.faults:
            prompt = prompt[-self.context + body["max_tokens"] :]
        self.open += 1
        try:
            if "one_at_a_time" in self.faults:
                async with self.lock:
                    await asyncio.sleep(self.pause)
            else:
                await asyncio.sleep(self.pause)
            ids, finish, first = self.sample(body, prompt)
        finally:
            self.open -= 1
        return web.json_response(self.told(body, prompt, ids, finish, first, say))

    def refuse(self, body: Record, prompt: list[int]) -> web.Response | None:
        """A refusal, where there is a reason for one."""
        limit = SHORT if "short_context" in self.faults else self.context
        text, status = "", 400
        if "down" in self.faults:
            text, status = "out of memory", 500
        elif "busy" in self.faults and self.open >= 2:
            text, status = "too many requests", 429
        elif "plain" in self.faults and EXTRA & set(body):
            text = f"Unrecognized request argument supplied: {min(EXTRA & set(body))}"
        elif len(prompt) + body["max_tokens"] > limit and "cut_context" not in self.faults:
            text = f"This model's maximum context length is {limit} tokens, not {len(prompt)}."
        return web.json_response({"error": {"message": text}}, status=status) if text else None

    def sample(self, body: Record, prompt: list[int]) -> tuple[list[int], str, Any]:
        """Token ids, finish reason, and the first token's log-probabilities."""
        import torch

        draw = random.Random(None if "no_seed" in self.faults else body.get("seed"))
        bias = {} if "no_bias" in self.faults else body.get("logit_bias") or {}
        stops = set() if "no_stops" in self.faults else set(body.get("stop_token_ids") or ())
        if not self.faults & {"no_stops", "no_eos"}:
            stops |= set(self.model.config.eos_token_id)
        allowed = body.get("allowed_token_ids") if "no_bias" not in self.faults else None
        ids: list[int] = []
        first = None
        while len(ids) < body["max_tokens"]:
            logits = self.logits(tuple(prompt + ids)).clone()
            first = logits.log_softmax(-1) if first is None else first  # before any bias
            for token, value in bias.items():
                logits[int(token)] += value
            if allowed:
                logits[[i for i in range(len(logits)) if i not in allowed]] = -torch.inf
            heat = body.get("temperature", 1.0)
            if heat == 0:
                token = int(logits.argmax())
            else:
                token = draw.choices(range(len(logits)), (logits / heat).softmax(-1).tolist())[0]
            ids.append(token)
            if token in stops:
                return ids, "stop", first
        return ids, "length", first

    def logits(self, ids: tuple[int, ...]) -> Any:
        """Of the token after `ids`; the doctor asks every server the same."""
        import torch

        if (self.folder, ids) not in KNOWN:
            with torch.inference_mode():
                KNOWN[self.folder, ids] = self.model(torch.tensor([ids])).logits[0, -1]
        return KNOWN[self.folder, ids]

    def told(
        self, body: Record, prompt: list[int], ids: list[int], finish: str, first: Any, say: Any
    ) -> Record:
        """The answer."""
        stopped = finish == "stop"
        hide = body.get("skip_special_tokens", True)
        text = self.tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=hide)
        choice: Record = {"index": 0, "finish_reason": finish, **say(text, ids)}
        if first is not None and "no_logprobs" not in self.faults:
            choice["logprobs"] = self.logprobs(body, first)
        told: Record = {
            "object": "completion",
            "choices": [choice],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(ids)},
        }
        if body.get("return_token_ids") and "stripped" not in self.faults:
            choice |= {"token_ids": ids, "stop_reason": ids[-1] if stopped else None}
            (choice if "text" in choice else told)["prompt_token_ids"] = prompt
        return told

    def logprobs(self, body: Record, first: Any) -> Record | None:
        """Of the first token alone, in the form of the endpoint."""
        count = body.get("top_logprobs") if "messages" in body else body.get("logprobs")
        if not count:
            return None
        tokens = body.get("logprob_token_ids") or first.topk(count).indices.tolist()
        by_id = body.get("return_tokens_as_token_ids")
        names = [f"token_id:{t}" if by_id else self.tokenizer.decode([t]) for t in tokens]
        top = {name: float(first[token]) for name, token in zip(names, tokens, strict=True)}
        if "messages" not in body:
            return {"top_logprobs": [top]}
        listed = [{"token": name, "logprob": value} for name, value in top.items()]
        return {"content": [{**listed[0], "top_logprobs": listed}]}


@contextmanager
def toy_server(folder: Path, *faults: str, pause: float = 0.0) -> Iterator[tuple[str, ToyServer]]:
    """A server in a thread of its own: (SPEC, the server)."""
    server = ToyServer(folder, faults, pause)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.application())

    async def begin() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
    try:
        yield f"openai:toy@http://127.0.0.1:{port}/v1", server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
