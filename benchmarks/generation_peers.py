"""Dialogues by datatrove and SDialog, each in an environment of its own, and by aiohttp alone.

    ENV/bin/python benchmarks/generation_peers.py datatrove URL INTENTS OUT NUM IN_FLIGHT TURNS

Each is used as its documentation says and as is best for it: datatrove by its asyncio runner, with
a rollout function that holds a conversation, without checkpoints; SDialog, whose agents wait for
each answer, by a thread for each dialogue in flight. Both write every dialogue to a file. aiohttp
alone, the HTTP client that ours is built on, sends the same requests and nothing else: what this
machine can do. See generation.py.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

SAMPLING = {"temperature": 1.0, "top_p": 0.8, "max_tokens": 256}


def datatrove(url: str, intents: list[str], out: Path, in_flight: int, turns: int) -> None:
    """The inference runner against an endpoint; a document is a dialogue."""
    from datatrove.data import Document
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.writers import JsonlWriter
    from loguru import logger

    logger.remove()

    async def hold(document: Document, generate: Any) -> list[dict[str, str]]:
        system = {"role": "system", "content": document.text}
        said: list[dict[str, str]] = []
        for turn in range(turns):
            heard = said if turn % 2 else [system, *said]
            answer = await generate({"messages": heard, "seed": turn})
            said.append({"role": ("user", "assistant")[turn % 2], "content": answer.text})
        return said

    config = InferenceConfig(
        server_type="endpoint",
        model_name_or_path="mock-user",
        endpoint_url=url.removesuffix("/v1"),
        default_generation_params=SAMPLING,
        max_concurrent_generations=in_flight,
    )
    documents = [Document(text=intent, id=str(at)) for at, intent in enumerate(intents)]
    InferenceRunner(hold, config, JsonlWriter(str(out), compression=None)).run(documents)


def sdialog(url: str, intents: list[str], out: Path, in_flight: int, turns: int) -> None:
    """Two agents a dialogue; the assistant's is made once a thread."""
    from sdialog.agents import Agent

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # as it does for httpx: a line a request
    settings = {"base_url": url, "api_key": "none", "max_retries": 5, **SAMPLING}
    mine = threading.local()

    def hold(place: int) -> None:
        if not hasattr(mine, "assistant"):
            mine.assistant = Agent(name="Assistant", model="openai:mock-assistant", **settings)
        user = Agent(
            name="User", system_prompt=intents[place], model="openai:mock-user", **settings
        )
        dialog = user.dialog_with(mine.assistant, max_turns=turns, id=place, keep_bar=False)
        dialog.to_file(str(out / f"{place}.json"), makedir=False)

    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(hold, range(len(intents))))


def aiohttp(url: str, intents: list[str], out: Path, in_flight: int, turns: int) -> None:
    """A session and a coroutine for each dialogue in flight; kept in memory until the end."""
    import asyncio

    import orjson
    from aiohttp import ClientSession, DummyCookieJar, TCPConnector

    waiting = iter(enumerate(intents))
    lines = []

    async def hold(session: ClientSession) -> None:
        for place, intent in waiting:
            system = {"role": "system", "content": intent}
            said: list[dict[str, str]] = []
            for turn in range(turns):
                heard = said if turn % 2 else [system, *said]
                body = {"model": "mock-user", "messages": heard, "seed": turn, **SAMPLING}
                async with session.post(path, data=orjson.dumps(body)) as answer:
                    told = orjson.loads(await answer.read())
                words = told["choices"][0]["message"]["content"]
                said.append({"role": ("user", "assistant")[turn % 2], "content": words})
            lines.append(orjson.dumps({"id": place, "turns": said}))

    async def hold_all() -> None:
        connector = TCPConnector(limit=0)
        async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as session:
            await asyncio.gather(*(hold(session) for _ in range(in_flight)))

    path = f"{url}/chat/completions"
    asyncio.run(hold_all())
    (out / "dialogues.jsonl").write_bytes(b"\n".join(lines))


def turns_in(out: Path) -> list[int]:
    """How many turns each dialogue in the folder has."""
    found = []
    for path in out.rglob("*.json*"):
        for text in (
            path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        ):
            one = json.loads(text)
            found.append(
                len(one["turns"] if "turns" in one else one["metadata"]["rollout_results"][0])
            )
    return found


def main() -> None:
    name, url, intents, out, num, in_flight, turns = sys.argv[1:]
    lines = Path(intents).read_text().splitlines()[: int(num)]
    texts = [json.loads(line)["intent"] for line in lines]
    folder = Path(out)
    folder.mkdir(parents=True)
    os.environ["TQDM_DISABLE"] = "1"
    peer = {"datatrove": datatrove, "sdialog": sdialog, "aiohttp": aiohttp}[name]
    peer(url, texts, folder, int(in_flight), int(turns))
    held = turns_in(folder)
    if held != [int(turns)] * int(num):
        sys.exit(f"{name}: {len(held)} dialogues, turns {sorted(set(held))}")
    print(version(name))


if __name__ == "__main__":
    main()
