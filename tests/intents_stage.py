"""The intents stage as its tests drive it: through the real client, against a small real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from test_openai_backend import KEY_ENV, Server

from userlm_synth.intents import make_intents
from userlm_synth.recipe import Intents
from userlm_synth.records import (
    INTENT_OPENING,
    Record,
    read_records,
    write_records,
)

GOOD = f"{INTENT_OPENING} sort out a small matter."
SUBJECT = re.compile(r"about thing (\d+)")
SERVER_ERROR = (500, {"retry-after-ms": "1"}, {"error": {"message": "broken"}})


def conversation(number: int, intent: str | None = None, text: str = "") -> Record:
    turns = [("user", text or f"tell me about thing {number}"), ("assistant", "It is small.")]
    return {
        "id": f"c{number}",
        "source": "test",
        "user_id": None,
        "language": "en",
        "intent": intent,
        "persona": None,
        "messages": [{"role": role, "content": content} for role, content in turns],
        "metadata": {},
    }


def subject(body: dict[str, Any]) -> int:
    """Which conversation a request is about."""
    return int(SUBJECT.findall(body["messages"][-1]["content"])[-1])


def subjects(server: Server) -> list[int]:
    return sorted(map(subject, server.requests))


class Stage:
    """`make_intents` on a source in a folder of its own."""

    def __init__(self, folder: Path, records: list[Record]) -> None:
        self.source, self.out = folder / "in.jsonl", folder / "out.jsonl"
        self.cache = folder / "out.jsonl.cache.jsonl"
        self.rejected = folder / "out.jsonl.rejected.jsonl"
        write_records(self.source, records, "conversation")

    def __call__(self, where: Server | str | None, concurrency: int = 4, **more: Any) -> Record:
        model = f"openai:tiny@{where.url}" if isinstance(where, Server) else where
        settings = model and Intents(model, concurrency=concurrency, api_key_env=KEY_ENV, **more)
        return make_intents(self.source, self.out, settings or None)

    def intents(self) -> list[str | None]:
        return [record["intent"] for record in read_records(self.out, "conversation")]


Behaviour = Callable[[dict[str, Any], int], Any]


def good(body: dict[str, Any], number: int) -> str:
    return f"{INTENT_OPENING} learn about subject {subject(body)}."
