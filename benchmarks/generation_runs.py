"""What the generation benchmarks share: the mock server as a process, a client's run, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TURNS = 8  # of a dialogue: four of each side


class MockServer:
    """`generation_server.py` with some options, from `with` to its end."""

    def __init__(self, *options: object) -> None:
        command = [sys.executable, str(HERE / "generation_server.py"), *map(str, options)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit("the mock server did not start, see above")
        self.root = f"http://127.0.0.1:{line}"

    def __enter__(self) -> MockServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def stats(self) -> dict[str, Any]:
        """Counts so far; see `State.stats`."""
        return self._get("/stats")

    def log(self) -> list[tuple[str, float, float | None]]:
        """Each request: what it asked for (`identity`), when, and when it was answered well."""
        return self._get("/log")

    def _get(self, path: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.root + path, timeout=60) as answer:
            return json.load(answer)


@dataclass(frozen=True)
class Ran:
    """A command that came to its end: seconds of the clock and of all cores, its most memory."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    out: str


def write_intents(path: Path, count: int) -> Path:
    """An intents file; each intent is another one."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            intent = (
                "You are a user chatting with an assistant language model to get help with plan "
                f"number {number}: where to begin, what it costs, and what may go wrong."
            )
            file.write(json.dumps({"id": f"intent-{number}", "intent": intent}) + "\n")
    return path


def generate_command(
    url: str, intents: Path, out: Path, num: int, in_flight: int, *overrides: str
) -> list[str]:
    """`userlm-synth generate` against the mock server; every dialogue has `TURNS` turns."""
    return [
        sys.executable, "-m", "userlm_synth", "generate", "--user", f"openai:mock-user@{url}",
        "--assistant", f"openai:mock-assistant@{url}", "--intents", str(intents),
        "--num", str(num), "--out", str(out), "--concurrency", str(in_flight),
        f"generate.max_turns={TURNS // 2}", *overrides,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """The environment of a client: no proxy to the server on this machine, no live line."""
    return {**os.environ, "NO_PROXY": "*", "no_proxy": "*", "HF_HUB_OFFLINE": "1"}


def run(command: Sequence[str], folder: Path) -> Ran:
    """Run a command in a folder; its last words and the end of this one where it fails."""
    log = folder / "log.txt"
    with log.open("w") as errors:
        before = os.times()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder, env=environment()
        )
        assert process.stdout
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{log.read_text()[-3000:]}{out[-3000:]}\n{' '.join(command)}: failed")
    seconds = os.times().elapsed - before.elapsed
    return Ran(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, out)


def check_dialogues(out: Path, num: int) -> list[dict[str, Any]]:
    """The dialogues of a finished run: `num` distinct ones with all their turns, none refused."""
    found = []
    for part in sorted(out.glob("part-*.jsonl")):
        with part.open(encoding="utf-8") as lines:
            found += [json.loads(line) for line in lines]
    ids = {one["id"] for one in found}
    turns = {len(one["messages"]) for one in found}
    rejected = (out / "rejected.jsonl").read_text(encoding="utf-8").count("\n")
    if (len(found), len(ids), turns, rejected) != (num, num, {TURNS}, 0):
        sys.exit(
            f"{out}: {len(found)} dialogues, {len(ids)} ids, turns {sorted(turns)}, "
            f"{rejected} rejected; wanted {num} of {TURNS} turns"
        )
    return found


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median of repeats, with the least and the greatest where there are several."""
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def verdict(passed: bool) -> str:
    return "pass" if passed else "FAIL"


def surroundings() -> dict[str, str]:
    """What the figures depend on."""
    known = [f"Python {platform.python_version()}"]
    for name in ("userlm-synth", "aiohttp", "orjson"):
        with suppress(PackageNotFoundError):
            known.append(f"{name} {version(name)}")
    return {
        "command": " ".join(["python benchmarks/generation.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        "versions": ", ".join(known),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
