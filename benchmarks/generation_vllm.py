"""`userlm-synth generate` beside vLLM's own benchmark client, at one real vLLM (see generation.py).

A user LM of the quickstart is trained for half a minute and served; it plays both sides, with the
end forbidden, so that every dialogue has its eight turns. Then `vllm bench serve` sends what was
sent: the same prompts, each with as many tokens to write as were written, at the same concurrency.
It has all prompts from the start; ours waits for a turn before it asks for the next one, checks
it and keeps it on the disk. The two take turns, each with an empty prefix cache.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generation_runs import TURNS, spread, table, verdict

from userlm_synth.recipe import Assistant, Generate, Guardrails
from userlm_synth.records import Record, read_records
from userlm_synth.simulate.generate import missing, opened
from userlm_synth.simulate.intents_file import IntentsFile
from userlm_synth.simulate.plan import Plan
from userlm_synth.simulate.sides import Job
from userlm_synth.user_lm import ChatFormat, load_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from vllm_harness import Environment, environment, free_port, started

IN_FLIGHT = (16, 32)
WAVES = 12  # dialogues of each place in flight
MOST = 32  # tokens a turn
SHORT = ["train.epochs=0.15", "assistant.train.epochs=0.01",
         "train.validations=0", "assistant.train.validations=0"]  # fmt: skip
SHARE = 0.95  # of the tokens/s of vLLM's client
COUNTERS = ("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens")


@dataclass
class Tried:
    """A client at one concurrency: its repeats."""

    name: str
    in_flight: int
    tokens: list[int] = field(default_factory=list)  # written, as the server counts
    read: list[int] = field(default_factory=list)  # prompt tokens
    seconds: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)  # share of prompt tokens found in the cache

    @property
    def rates(self) -> list[float]:
        """Tokens written a second."""
        return [n / seconds for n, seconds in zip(self.tokens, self.seconds, strict=True)]


class Server:
    """The served user LM, seen from outside."""

    def __init__(self, url: str, folder: Path, env: Environment) -> None:
        self.url, self.folder, self.env = url, folder, env

    def _open(self, path: str, data: bytes | None = None) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url.removesuffix("/v1") + path, data, timeout=60) as answer:
            return str(answer.read().decode())

    def emptied(self) -> dict[str, float]:
        """The counters, after the prefix cache was emptied."""
        self._open("/reset_prefix_cache", b"")
        return self.counters()

    def counters(self) -> dict[str, float]:
        page = self._open("/metrics")
        return {
            name: sum(map(float, re.findall(rf"^vllm:{name}_total{{.*}} (\S+)$", page, re.M)))
            for name in COUNTERS
        }


async def hold(job: Job) -> tuple[float, list[Record]]:
    """What `generate` does; returns the seconds of the dialogues alone, and the dialogues."""
    plan = Plan(IntentsFile(job.intents), job.settings, job.seed)
    async with opened(job) as holding:
        await holding.hold(missing(plan, holding.store, job.settings.num or 0), 0)
        return holding.seconds, list(holding.store.records(rejected=False))


def ours(server: Server, intents: Path, out: Path, in_flight: int) -> tuple[float, list[Record]]:
    spec = f"openai:user_lm@{server.url}"
    settings = Generate(
        num=in_flight * WAVES, concurrency=in_flight, adapt=False, max_turns=TURNS // 2,
        max_tokens=MOST, guardrails=Guardrails(forbid_end=True),
    )  # fmt: skip
    job = Job(
        settings, Assistant(max_tokens=MOST), user=spec, assistant=spec, intents=intents, out=out,
        seed=0, recipe_hash="",
    )  # fmt: skip
    seconds, dialogues = asyncio.run(hold(job))
    if {len(one["messages"]) for one in dialogues} != {TURNS}:
        sys.exit("not every dialogue has all its turns")
    return seconds, dialogues


def requests(form: ChatFormat, dialogues: Sequence[Record]) -> list[dict[str, Any]]:
    """What was asked for, as `vllm bench serve` reads it: all first turns, all second ones, ..."""
    rows = []
    for turn in range(TURNS):
        for one in dialogues:
            system = [{"role": "system", "content": one["intent"]}] if turn % 2 == 0 else []
            ids = form.prompt([*system, *one["messages"][:turn]])
            said = form.tokenizer.encode(one["messages"][turn]["content"], add_special_tokens=False)
            prompt = form.tokenizer.decode(ids, skip_special_tokens=False)
            rows.append({"prompt": prompt, "output_tokens": min(len(said) + 1, MOST)})
    return rows


def theirs(server: Server, rows: list[dict[str, Any]], folder: Path, in_flight: int) -> float:
    """Seconds that vLLM's client takes for the same."""
    data, result = folder / "requests.jsonl", folder / "result.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = {"top_k": 0, "repetition_penalty": 1.0, "seed": 1}
    server.env.run(
        "vllm", "bench", "serve", "--backend", "openai", "--base-url",
        server.url.removesuffix("/v1"), "--endpoint", "/v1/completions", "--model", "user_lm",
        "--tokenizer", server.folder, "--dataset-name", "custom", "--dataset-path", data,
        "--custom-output-len", -1, "--skip-chat-template", "--disable-shuffle", "--num-prompts",
        len(rows), "--max-concurrency", in_flight, "--ignore-eos", "--temperature", 1.0,
        "--top-p", 1.0, "--extra-body", json.dumps(extra), "--save-result", "--result-dir", folder,
        "--result-filename", result.name, "--disable-tqdm",
    )  # fmt: skip
    told = json.loads(result.read_text())
    if told["completed"] != len(rows):
        sys.exit(f"vLLM's client: {told['completed']} of {len(rows)} requests")
    return float(told["duration"])


def against_vllm(options: Namespace) -> list[Tried]:
    """Tokens a second of both clients, and what the prefix cache had of the prompts."""
    env = environment(options.vllm.resolve())
    pairs = [(Tried("userlm-synth generate", n), Tried("vllm bench serve", n)) for n in IN_FLIGHT]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "userlm_synth", "train", "quickstart", *SHORT]
        subprocess.run([*command, "--out", str(folder / "run")], check=True)
        model = folder / "run/user_lm"
        form = ChatFormat.probe(load_tokenizer(str(model)), "user")
        talks = read_records(folder / "run/conversations/train.jsonl", "conversation")
        intents = folder / "intents.jsonl"
        unlike = dict.fromkeys(one["intent"] for one in talks)
        lines = [json.dumps({"id": str(at), "intent": one}) for at, one in enumerate(unlike)]
        intents.write_text("\n".join(lines))
        url = f"http://127.0.0.1:{(port := free_port())}/v1"
        serve = [env.program("userlm-synth"), "serve", str(model), "--port", str(port)]
        variables = {**env.variables, "VLLM_SERVER_DEV_MODE": "1"}  # the cache can be emptied
        os.environ["NO_PROXY"] = "*"
        with started(serve, variables, folder / "log", f"openai:user_lm@{url}") as wait:
            wait()
            server = Server(url, model, env)
            for repeat in range(options.repeats + 1):  # the first one warms up
                for we, they in pairs:
                    part = folder / f"{repeat}-{we.in_flight}"
                    before = server.emptied()
                    seconds, dialogues = ours(server, intents, part, we.in_flight)
                    _count(we, server, before, seconds, repeat)
                    rows = requests(form, dialogues)
                    before = server.emptied()
                    seconds = theirs(server, rows, folder, they.in_flight)
                    _count(they, server, before, seconds, repeat)
    _say(pairs)
    return [one for pair in pairs for one in pair]


def _count(
    one: Tried, server: Server, before: dict[str, float], seconds: float, repeat: int
) -> None:
    now = server.counters()
    count = {key: now[key] - before[key] for key in COUNTERS}
    if not repeat:
        return
    one.seconds.append(seconds)
    one.tokens.append(round(count["generation_tokens"]))
    one.read.append(round(count["prompt_tokens"]))
    one.hits.append(count["prefix_cache_hits"] / count["prefix_cache_queries"])
    print(f"{one.name}, {one.in_flight} in flight: {one.rates[-1]:,.0f}", file=sys.stderr)


def _say(pairs: list[tuple[Tried, Tried]]) -> None:
    rows = [
        (one.name, one.in_flight, spread(one.rates), f"{one.tokens[-1]:,}", f"{one.read[-1]:,}",
         spread(one.seconds, 1), spread([100 * hit for hit in one.hits], 1) + " %")
        for pair in pairs for one in pair
    ]  # fmt: skip
    head = ("a real vLLM, CPU", "in flight", "tokens/s", "tokens written", "tokens read",
            "seconds", "prefix cache")  # fmt: skip
    print(table(head, rows) + "\n")
    for we, they in pairs:
        share = sorted(our / their for our, their in zip(we.rates, they.rates, strict=True))
        middle = share[len(share) // 2]
        print(
            f"{verdict(middle >= SHARE)}: {100 * middle:.1f} % of vLLM's client at {we.in_flight} "
            f"in flight (at least {100 * SHARE:.0f}; pair by pair {100 * share[0]:.1f} to "
            f"{100 * share[-1]:.1f})"
        )
    print()
