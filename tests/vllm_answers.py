"""What models say to requests, as plain data: in this process, or in the one that has vLLM.

python vllm_answers.py QUESTIONS.json ANSWERS.json
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from userlm_synth.backends import Request, open_backend
from userlm_synth.recipe import Server

Answers = dict[str, list[dict[str, Any]]]


async def answer(
    specs: dict[str, dict[str, Any]],
    asked: dict[str, list[Any]],
    then: Callable[[Answers], None] = lambda _: None,
) -> Answers:
    """The results by name of model, all of its requests at once; `specs` holds what opens each.

    `then` is called with them while the models are still open.
    """
    opened = {}
    for name, one in specs.items():
        server = Server(api=one.get("api", "auto"), retries=0)
        opened[name] = open_backend(one["spec"], speaker=one["speaker"], server=server)
    try:
        for backend in opened.values():
            await backend.start()
        found: Answers = {}
        for name, backend in opened.items():
            results = await asyncio.gather(
                *[backend.generate(Request(**one)) for one in asked[name]]
            )
            found[name] = [asdict(one) for one in results]
        then(found)
        return found
    finally:
        for backend in opened.values():
            await backend.close()


def family(pid: int) -> list[int]:
    """Processes below a process."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    below = [int(one) for thread in threads for one in (thread / "children").read_text().split()]
    return [*below, *(one for child in below for one in family(child))]


def write_and_die(found: Answers) -> None:
    """The answers, and the processes that must not outlive this one."""
    engines = [
        one for one in family(os.getpid()) if "VLLM" in Path(f"/proc/{one}/comm").read_text()
    ]
    Path(sys.argv[2]).write_text(json.dumps({"said": found, "engines": engines}))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    questions = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(answer(questions["specs"], questions["asked"], write_and_die))
