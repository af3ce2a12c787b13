"""A mock of an OpenAI-compatible server, in a process of its own: so fast, so late, so faulty.

    python benchmarks/generation_server.py --latency 0.05
    python benchmarks/generation_server.py --faults 0.05 --seed 7 --log

Prints its port, and serves `/v1/models` and `/v1/chat/completions` on 127.0.0.1 until its standard
input closes. After `--latency` seconds it answers with a few plausible words: which ones follows
from the request's bytes alone, and no two turns of a conversation are the same. A request with an
even number of turns is the user's side (3 to 25 words), the others the assistant's (20 to 40).

With `--faults P` each fault of `FAULTS` meets a share P of the requests, drawn with `--seed`.
`/stats` tells what was asked and when; with `--log`, `/log` tells it for every request.

HTTP is spoken by aiohttp, or with `--light` by hand on an `asyncio.Protocol`: a third of the time a
request, so that the cores are for the client that is measured. Faults and the log need `--light`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import socket
import struct
import sys
import time
import zlib
from argparse import Namespace
from typing import Any

import orjson

FAULTS = ("429", "500", "reset", "hang", "truncated", "wrong_schema", "no_choices")
MODELS = ("mock-user", "mock-assistant")

# What people and assistants say. An opening is used at one place of a conversation only (eight
# places, four openings each), so that no turn repeats an earlier one.
USER_OPENINGS = [
    f"{start} {rest}"
    for start in ("hey so i need", "ok and what about", "hm and then", "right but can we do",
                  "fine, next is", "what happens with", "and how much is", "last thing is")
    for rest in ("the trip", "the budget", "the garden", "the laptop")
]  # fmt: skip
USER_DETAILS = [
    f"for {who} {when}"
    for who in ("my sister", "the two of us", "a small team", "our neighbours", "the kids",
                "my new job", "an old friend", "the whole class")
    for when in ("next weekend", "before it rains again", "if nothing else works", "in early june",
                 "without spending a lot", "when the others are back", "by tomorrow evening",
                 "because the last plan fell through")
]  # fmt: skip
ASSISTANT_OPENINGS = [
    f"{start} {rest}"
    for start in ("Here is a plan to begin with:", "That changes a few things:",
                  "Two options come to mind:", "The safest way is this:",
                  "In that case keep it short:", "The usual answer is simple:",
                  "Prices differ, so compare first:", "To wrap it up, remember this:")
    for rest in ("write down what you have and what is missing,",
                 "begin with the part that takes the longest,",
                 "ask everybody once and then decide on your own,",
                 "leave a third of the time free for surprises,")
]  # fmt: skip
ASSISTANT_DETAILS = [
    f"then {what}, and {last}."
    for what in ("sort the list by cost", "book the first two steps", "check the reviews again",
                 "call them in the morning", "measure everything twice", "copy the papers",
                 "set a limit for each part", "pick the nearest of the three places")
    for last in ("it will be ready well before the date", "keep the receipts in one folder",
                 "tell the others on the same day", "do not pay before you have seen it",
                 "you can still change the colour later", "half an hour should be enough",
                 "put the rest off until the week after", "ask for the discount that groups get")
]  # fmt: skip

HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
BODY = (
    b'{"id":"mock-%08x","object":"chat.completion","created":0,"model":"%s","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}'
)


def spoken(turns: int, draw: int) -> str:
    """What is said after that many turns, chosen by 32 bits; ASCII without quotes.

    The user's words hold all 32, so that no two conversations are the same.
    """
    opening = turns // 2 % 8 * 4 + draw % 4
    detail = draw // 4 % len(USER_DETAILS)
    if turns % 2:
        return f"{ASSISTANT_OPENINGS[opening]} {ASSISTANT_DETAILS[detail]}"
    return f"{USER_OPENINGS[opening]} {USER_DETAILS[detail]}, case {draw:08x}"


def completion(asked: dict[str, Any], body: bytes) -> bytes:
    """The answer to a request, from what was asked and its bytes."""
    draw = zlib.crc32(body)
    messages = asked["messages"]
    text = spoken(len(messages) - (messages[0]["role"] == "system"), draw).encode()
    prompt, said = len(body) // 5, len(text) // 5
    return BODY % (draw, asked["model"].encode(), text, prompt, said, prompt + said)


def listed() -> dict[str, Any]:
    """What `/v1/models` says."""
    models = [{"id": name, "object": "model", "created": 0} for name in MODELS]
    return {"object": "list", "data": models}


def identity(model: str, messages: list[dict[str, str]]) -> str:
    """Names what is asked for, whatever the sampling: who is to speak, after which messages."""
    said = "\0".join([model, *(f"{one['role']}\1{one['content']}" for one in messages)])
    return hashlib.blake2b(said.encode(), digest_size=10).hexdigest()


class State:
    """What all connections share."""

    def __init__(self, options: Namespace) -> None:
        self.latency, self.share, self.hang = options.latency, options.faults, options.hang
        self.draw = random.Random(options.seed)
        self.log: list[list[Any]] | None = [] if options.log else None
        self.requests = self.answered = self.at_once = self.most_at_once = 0
        self.first = self.last = 0.0
        self.faults = dict.fromkeys(FAULTS, 0)

    def fault(self) -> str | None:
        """Which fault this request meets, if any."""
        place = self.draw.random() / self.share if self.share else len(FAULTS)
        if place >= len(FAULTS):
            return None
        name = FAULTS[int(place)]
        self.faults[name] += 1
        return name

    def began(self) -> None:
        """A request is there."""
        self.requests += 1
        self.first = self.first or time.time()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)

    def ended(self, good: bool) -> None:
        """It is answered, or was given up."""
        self.at_once -= 1
        if good:
            self.answered += 1
            self.last = time.time()

    def stats(self) -> dict[str, Any]:
        """Counts so far; `first` request and `last` answer in seconds of `time.time`."""
        names = ("requests", "answered", "most_at_once", "first", "last", "faults")
        return {name: getattr(self, name) for name in names}


class Connection(asyncio.Protocol):
    """One client's connection, one request at a time."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.received = b""
        self.transport: Any = None
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.received) < end + 4 + length:
                return
            body = self.received[end + 4 : end + 4 + length]
            self.received = self.received[end + 4 + length :]
            self.handle(head, body)

    def handle(self, head: bytes, body: bytes) -> None:
        """Answer a request: now what is about the server itself, a completion after its time."""
        close = b"\r\nconnection: close" in head
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/chat/completions"):
            self.complete(body, close)
        elif path.endswith(b"/models"):
            self.send(b"200 OK", orjson.dumps(listed()), close)
        elif path == b"/stats":
            self.send(b"200 OK", orjson.dumps(self.state.stats()), close)
        elif path == b"/log":
            self.send(b"200 OK", orjson.dumps(self.state.log), close)
        else:
            self.send(b"404 Not Found", b'{"error":{"message":"no such path"}}', close)

    def complete(self, body: bytes, close: bool) -> None:
        then, state = self.loop.time(), self.state
        asked = orjson.loads(body)
        state.began()
        entry = None
        if state.log is not None:
            entry = [identity(asked["model"], asked["messages"]), time.time(), None]
            state.log.append(entry)
        fault = state.fault()
        wait = state.hang if fault == "hang" else state.latency
        answer = completion(asked, body)
        if wait:
            self.loop.call_at(then + wait, self.answer, answer, fault, entry, close)
        else:
            self.answer(answer, fault, entry, close)

    def answer(
        self, answer: bytes, fault: str | None, entry: list[Any] | None, close: bool
    ) -> None:
        """A completion, or a fault; nothing where the client has gone."""
        self.state.ended(good=self.transport is not None and not fault)
        if self.transport is None:
            return
        if fault:
            self.fail(fault, close)
            return
        self.send(b"200 OK", answer, close)
        if entry is not None:
            entry[2] = self.state.last

    def send(self, status: bytes, body: bytes, close: bool, more: bytes = b"") -> None:
        more += b"Connection: close\r\n" if close else b""
        self.transport.write(HEAD % (status, len(body), more) + body)
        if close:
            self.transport.close()

    def fail(self, fault: str, close: bool) -> None:
        """One of the ways in which servers and networks fail."""
        if fault == "429":
            body = b'{"error":{"message":"rate limit reached","code":"rate_limit"}}'
            self.send(b"429 Too Many Requests", body, close, b"Retry-After: 1\r\n")
        elif fault == "500":
            self.send(b"500 Internal Server Error", b"<html>Internal Server Error</html>", close)
        elif fault == "truncated":
            self.send(b"200 OK", b'{"id":"mock","object":"chat.completion","choices":[{"ind', close)
        elif fault == "wrong_schema":
            self.send(b"200 OK", b'{"choices":{"text":["hello"]},"usage":"none"}', close)
        elif fault == "no_choices":
            self.send(b"200 OK", b'{"object":"chat.completion","choices":[]}', close)
        else:  # a reset, or the end of a hang: the client gave up before, or gets no answer at all
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            self.transport.abort()


async def serve_light(state: State, port: int) -> int:
    """The server by hand; returns its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=4096)
    return int(server.sockets[0].getsockname()[1])


async def serve_aiohttp(state: State, port: int) -> int:
    """The server by aiohttp, as one writes it; returns its port."""
    from aiohttp import web

    loop = asyncio.get_running_loop()

    async def complete(request: web.Request) -> web.Response:
        body = await request.read()
        then = loop.time()
        asked = orjson.loads(body)
        state.began()
        answer = completion(asked, body)
        await asyncio.sleep(max(0, then + state.latency - loop.time()))
        state.ended(good=True)
        return web.Response(body=answer, content_type="application/json")

    async def models(_: web.Request) -> web.Response:
        return web.json_response(listed())

    async def stats(_: web.Request) -> web.Response:
        return web.json_response(state.stats())

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/stats", stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    return int(runner.addresses[0][1])


async def serve(options: Namespace) -> None:
    """Serve until standard input closes: whoever started the server is gone then, or wants it."""
    start = serve_light if options.light else serve_aiohttp
    print(await start(State(options), options.port), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="default: a free one, printed")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds an answer takes")
    parser.add_argument("--light", action="store_true", help="HTTP by hand")
    parser.add_argument("--faults", type=float, default=0.0, help="share of each fault")
    parser.add_argument("--hang", type=float, default=5.0, help="seconds that a hang takes")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--log", action="store_true", help="keep every request for /log")
    options = parser.parse_args()
    if (options.faults or options.log) and not options.light:
        parser.error("--faults and --log need --light")
    asyncio.run(serve(options))


if __name__ == "__main__":
    main()
