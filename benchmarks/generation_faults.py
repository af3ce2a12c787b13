"""Endurance: a faulty server, a client that is killed again and again, and what is left of it.

Every kind of fault of `generation_server.py` meets a share of the requests, and `kill -9` ends the
client at random moments. After each kill, what its store holds is noted: it may never be asked for
again. At the end the dialogues are compared with those of a run without faults and kills.
"""

from __future__ import annotations

import math
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
from generation_runs import (
    TURNS,
    MockServer,
    check_dialogues,
    environment,
    generate_command,
    run,
    write_intents,
)
from generation_server import MODELS, identity

from userlm_synth.recipe import Generate
from userlm_synth.simulate.plan import Plan
from userlm_synth.user_lm.render import system_text

LATE = 0.3  # seconds: a kill comes up to so much after its moment
START = 4.0  # seconds: how long after its start a client is killed whose moment has passed


@dataclass(frozen=True)
class Ordeal:
    """What the client goes through."""

    num: int
    in_flight: int
    kills: int
    faults: float = 0.05  # share of each kind
    timeout: float = 1.0  # seconds, of the client
    latency: float = 0.005
    seed: int = 0


@dataclass
class Endured:
    """What came of it."""

    seconds: float = 0.0
    kills: list[float] = field(default_factory=list)  # when
    requests: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    stored_at_kills: list[int] = field(default_factory=list)  # utterances in the store
    lost: int = 0  # of those, that a later look at the store did not find
    stored_asked_again: int = 0
    paid_twice: int = 0  # answers to requests that had been answered before
    timed_out: int = 0  # of those, no kill between: the client had waited for its timeout
    without_a_kill: int = 0  # of those, neither
    same_as_calm: int = 0  # dialogues that are the same as without faults and kills
    valid: str = ""  # what `userlm-synth validate` says

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, doubled, or asked again that had been stored."""
        return not (self.lost or self.stored_asked_again or self.without_a_kill)


class Asked:
    """Which requests the utterances in a store answer, by the server's names for them."""

    def __init__(self, intents: list[dict[str, Any]], num: int) -> None:
        plan = Plan(intents, Generate(), seed=0)
        self.intents = {one.id: one.intent for one in map(plan.at, range(num))}

    def of(self, dialogue: str, texts: list[str]) -> Iterator[str]:
        """A request for each text of a dialogue."""
        system = {"role": "system", "content": system_text({"intent": self.intents[dialogue]})}
        said: list[dict[str, str]] = []
        for turn, text in enumerate(texts):
            yield identity(MODELS[turn % 2], said if turn % 2 else [system, *said])
            said.append({"role": ("user", "assistant")[turn % 2], "content": text})


def stored(store: Path) -> dict[str, list[str]]:
    """The texts of each dialogue in the store of a killed client, finished or not."""
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as copies:  # looking would tidy up the store itself
        for file in store.parent.glob(f"{store.name}*"):
            shutil.copy(file, copies)
        if not store.exists():
            return found
        connection = sqlite3.connect(Path(copies, store.name))
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "dialogues" not in tables:
            return found
        for name, text in connection.execute("SELECT id, turn FROM turns ORDER BY id, number"):
            found.setdefault(name, []).append(orjson.loads(text)["content"])
        for name, text in connection.execute("SELECT id, record FROM dialogues"):
            found[name] = [turn["content"] for turn in orjson.loads(text)["messages"]]
        connection.close()
    return found


def endure(ordeal: Ordeal, folder: Path, say: bool = False) -> Endured:
    """Put a client through it; exits where dialogues are missing, doubled or short."""
    intents = write_intents(folder / "intents.jsonl", ordeal.num)
    rows = [orjson.loads(line) for line in intents.read_bytes().splitlines()]
    asked, result = Asked(rows, ordeal.num), Endured()
    held: dict[str, float] = {}  # utterances that a store held, and since when
    draw = random.Random(ordeal.seed)
    moments = sorted(draw.uniform(0, 0.98) for _ in range(ordeal.kills))
    options = ("--faults", ordeal.faults, "--hang", 3 * ordeal.timeout, "--seed", ordeal.seed)
    started = time.perf_counter()
    with MockServer("--light", "--log", "--latency", ordeal.latency, *options) as server:
        command = command_of(ordeal, server, intents, folder / "out")
        for moment in moments:
            if not killed(command, server, moment * ordeal.num * TURNS, draw, folder):
                break
            look(folder / "out/store.sqlite", asked, held, result)
            if say:
                print(
                    f"kill {len(result.kills)}: {len(held):,} utterances",
                    file=sys.stderr,
                    flush=True,
                )
        run(command, folder)
        result.seconds = time.perf_counter() - started
        log, stats = server.log(), server.stats()
    result.requests, result.faults = stats["requests"], stats["faults"]
    judge(log, held, ordeal.timeout, result)
    mine = check_dialogues(folder / "out", ordeal.num)
    result.valid = validate(folder / "out", folder)
    with MockServer("--light", "--latency", 0) as server:
        run(command_of(ordeal, server, intents, folder / "calm"), folder)
    calm = {one["id"]: one for one in check_dialogues(folder / "calm", ordeal.num)}
    same = ("intent", "intent_id", "seed", "messages", "stop_reason")
    result.same_as_calm = sum(
        one["id"] in calm and all(one[key] == calm[one["id"]][key] for key in same) for one in mine
    )
    return result


def command_of(ordeal: Ordeal, server: MockServer, intents: Path, out: Path) -> list[str]:
    """The same command for every start."""
    return generate_command(
        server.url, intents, out, ordeal.num, ordeal.in_flight,
        f"generate.server.timeout={ordeal.timeout}", f"assistant.server.timeout={ordeal.timeout}",
        "generate.server.retries=1000", "assistant.server.retries=1000",
    )  # fmt: skip


def killed(
    command: list[str], server: MockServer, moment: float, draw: random.Random, folder: Path
) -> bool:
    """Start the client, and kill it once the server has answered so much; False if it ended."""
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    if server.stats()["answered"] >= moment:
        time.sleep(draw.uniform(0, START))
    while server.stats()["answered"] < moment and process.poll() is None:
        time.sleep(0.02)
    time.sleep(draw.uniform(0, LATE))
    ended = process.poll()
    process.kill()
    process.wait()
    if ended:
        sys.exit(f"{(folder / 'log.txt').read_text()[-3000:]}\nthe client failed")
    return ended is None


def look(store: Path, asked: Asked, held: dict[str, float], result: Endured) -> None:
    """Note what the store of the client just killed holds: `held` says since when."""
    names: set[str] = set()
    result.kills.append(time.time())
    for dialogue, texts in stored(store).items():
        names.update(asked.of(dialogue, texts))
    result.lost += len(held.keys() - names)
    result.stored_at_kills.append(len(names))
    for name in names:
        held.setdefault(name, result.kills[-1])


def judge(log: Iterable[Any], held: dict[str, float], timeout: float, result: Endured) -> None:
    """What was asked again, by the server's log. An answer after `timeout` reached nobody."""
    answers: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, at, answered in log:
        result.stored_asked_again += at > held.get(name, math.inf)
        if answered is not None and answered - at < timeout:
            answers[name].append((at, answered))
    for times in answers.values():
        for (asked, before), (after, _) in pairwise(times):
            result.paid_twice += 1
            if not any(before <= kill <= after for kill in result.kills):
                result.timed_out += after - asked >= timeout  # on a busy machine it reads late
                result.without_a_kill += after - asked < timeout


def validate(out: Path, folder: Path) -> str:
    """`userlm-synth validate` on everything that the run wrote."""
    files = [*map(str, sorted(out.glob("part-*.jsonl"))), str(out / "rejected.jsonl")]
    return run([sys.executable, "-m", "userlm_synth", "validate", *files], folder).out.strip()
