"""A toy backend: an utterance that only its request's seed decides, and a log of what was asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from userlm_synth.backends.interface import Request, Result, Signals

WORDS = ["red", "green", "blue", "lamp", "chair", "table", "door", "north", "river", "stone"]


class Talker:
    """Says some words, drawn by the seed; as a user it may leave. `before` sees each request.

    `log` gets a line for each answer, as it is given: the session and how many turns came before.
    """

    form = None
    context = None
    first_token = "regenerate"

    def __init__(
        self,
        name: str,
        *,
        leaves: float = 0.0,
        delay: float = 0.0,
        before: Callable[[int], None] | None = None,
        log: Path | None = None,
    ) -> None:
        self.name, self.leaves, self.delay, self.before, self.log = name, leaves, delay, before, log
        self.signals = Signals()
        self.asked: list[tuple[str, int]] = []
        self.open = self.most_open = 0

    async def start(self) -> None:
        """Ready."""

    async def generate(self, request: Request) -> Result:
        """The utterance of a seed."""
        turns = [message for message in request.messages if message["role"] != "system"]
        if self.before:
            self.before(len(self.asked))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(self.delay)
        self.open -= 1
        self.asked.append((request.session, len(turns)))
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{request.session} {len(turns)}\n")
        draw = random.Random(request.seed)
        end = draw.random()
        words = [draw.choice(WORDS) for _ in range(draw.randint(4, 9))]
        counts: dict[str, Any] = {"prompt_tokens": 10 * len(turns) + 5, "end_probability": end}
        if end < self.leaves:
            return Result("", "end", completion_tokens=1, **counts)
        return Result(" ".join(words), "eot", completion_tokens=len(words), **counts)

    async def waiting(self) -> int | None:
        """Nobody knows."""
        return None

    async def close(self) -> None:
        """Nothing to close."""
