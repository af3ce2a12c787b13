"""A small real HTTP server whose answers a test writes, and the answers of OpenAI and of vLLM."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from userlm_synth.records import Record

Behave = Callable[[str, Record, int], Any]
#: What a server may do instead of answering.
RESET, HANG, CUT = "reset", "hang", "cut"


def chat(text: str | None, finish: str = "stop", **more: Any) -> Record:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish, "message": message, **more}
    return {"choices": [choice], "usage": USAGE}


def words(text: str, ids: list[int], finish: str = "length", **more: Any) -> Record:
    """A completion with vLLM's token ids."""
    choice = {"index": 0, "finish_reason": finish, "text": text, "token_ids": ids, **more}
    return {"choices": [choice], "usage": {**USAGE, "completion_tokens": len(ids)}}


USAGE = {
    "prompt_tokens": 50,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 32},
}


class Toy:
    """Answers each POST with what `behave(path, body, number of the request)` returns: a body
    (good), (status, headers, body), or RESET, HANG, CUT. `models` is what GET /v1/models says."""

    def __init__(self, behave: Behave, models: Any, metrics: str | None) -> None:
        self.behave, self.models, self.metrics = behave, models, metrics
        self.requests: list[tuple[str, Record]] = []
        self.headers: list[Any] = []
        self.gate = asyncio.Event()
        self.url = ""
        self.looks = 0  # at the figures

    @property
    def bodies(self) -> list[Record]:
        """What was posted."""
        return [body for _, body in self.requests]

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Any route."""
        body = await request.json()
        self.requests.append((request.path, body))
        self.headers.append(request.headers)
        return await self.answer(request, self.behave(request.path, body, len(self.requests) - 1))

    async def answer(self, request: web.Request, told: Any) -> web.StreamResponse:
        """What the test wrote, as HTTP."""
        status, headers, body = told if isinstance(told, tuple) else (200, {}, told)
        if body == HANG:
            await self.gate.wait()
        if body in (RESET, CUT, HANG):
            if body == CUT:
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b'{"choices": [')
            assert request.transport
            request.transport.abort()
            return web.Response()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        return web.Response(status=status, body=data, headers=headers)

    async def get_models(self, request: web.Request) -> web.StreamResponse:
        """The list of models."""
        self.headers.append(request.headers)
        return await self.answer(request, self.models)

    async def get_metrics(self, _: web.Request) -> web.Response:
        """vLLM's page of figures."""
        self.looks += 1
        return web.Response(text=self.metrics, status=404 if self.metrics is None else 200)

    async def begin(self) -> web.AppRunner:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_get("/v1/models", self.get_models)
        app.router.add_get("/metrics", self.get_metrics)
        app.router.add_post("/{path:.*}", self.post)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner


def listing(*names: str, **more: Any) -> Record:
    """A list of models; `more` stands in each entry (vLLM: owned_by, root, max_model_len)."""
    return {"data": [{"id": name, "object": "model", **more} for name in names]}


@contextmanager
def toy(behave: Behave | Any, models: Any = None, metrics: str | None = None) -> Iterator[Toy]:
    """A server in a thread of its own."""
    always = behave if callable(behave) else lambda path, body, number: behave
    server = Toy(always, models or listing("tiny"), metrics)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(task: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(task, loop).result(10)

    runner = run(server.begin())
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(server.gate.set)
        run(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
