"""Python processes that start at once: forked from one that has imported torch and the rest.

Imports are seconds of each process that trains or talks; a kill -9 needs a real process, but not
those seconds. `start` is `python -c CODE ARGUMENTS...`, and `program` is `python -m userlm_synth`.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any

#: Imported once; neither these nor what they import may read anything that a test sets.
IMPORTED = [
    "torch.distributed.fsdp", "transformers.models.llama.modeling_llama", "safetensors.torch",
    "peft", "sklearn.feature_extraction.text", "userlm_synth.cli", "userlm_synth.pipeline",
    "userlm_synth.training.train", "userlm_synth.simulate.generate", "userlm_synth.evaluation",
    "openai.resources.chat", "anyio._backends._asyncio", "aiohttp", "userlm_synth.intents",
]  # fmt: skip
PROGRAM = "import runpy; runpy.run_module('userlm_synth', run_name='__main__', alter_sys=True)"

_forking = get_context("forkserver")
_forking.set_forkserver_preload(IMPORTED)


@dataclass
class Child:
    """A process and the files that hold what it says."""

    process: Any
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="said")))

    def __post_init__(self) -> None:
        for name in ("stdout", "stderr"):
            (self.folder / name).touch()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal that killed it."""
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text("utf-8", "replace")

    def wait(self, timeout: float = 240) -> Child:
        """Raises `TimeoutError`, and kills it, where it does not end."""
        self.process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise TimeoutError(f"not done in {timeout} s: {self.stderr[-2000:]}")
        return self

    def kill(self, number: int = signal.SIGKILL) -> Child:
        """Send a signal; after SIGKILL, wait for its end."""
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)
        return self.wait(60) if number == signal.SIGKILL else self


def start(code: str, *arguments: object, **more: str) -> Child:
    """A process that runs `code`, with `sys.argv[1:]` and some more environment variables."""
    child = Child(None)
    given = (code, [str(one) for one in arguments], {**os.environ, **more}, str(Path.cwd()))
    child.process = _forking.Process(target=_become, args=(*given, str(child.folder)), daemon=True)
    child.process.start()
    return child


def program(*arguments: object, **more: str) -> Child:
    """The command line, in a process of its own."""
    return start(PROGRAM, *arguments, **more)


def ranks(world: int, code: str, *arguments: object, **more: str) -> list[Child]:
    """As `torchrun --standalone --nproc-per-node WORLD` starts and ends them: where one fails, the
    others are killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port, **more,
    }  # fmt: skip
    found = [
        start(code, *arguments, **{k: str(v) for k, v in shared.items()}, RANK=at, LOCAL_RANK=at)
        for at in map(str, range(world))
    ]
    limit = time.monotonic() + 240
    while any(one.returncode is None for one in found) and time.monotonic() < limit:
        if any(one.returncode for one in found):
            for one in found:
                if one.returncode is None:
                    one.kill()
        time.sleep(0.02)
    return [one.wait(1) for one in found]


def _become(
    code: str, arguments: Sequence[str], environment: Mapping[str, str], cwd: str, folder: str
) -> None:
    """In the new process."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    current_process()._config["daemon"] = False  # it ends with the tests, and may have processes
    sys.path[:0] = [one for one in environment.get("PYTHONPATH", "").split(os.pathsep) if one]
    try:
        exec(compile(code, "<warm>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
