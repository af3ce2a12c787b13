"""`userlm-synth generate` beside vLLM's own benchmark client, at one real vLLM (see generation.py).

A user LM of the quickstart is trained for half a minute and served; an assistant with fixed replies
answers at once, so that every request goes to this one server. The end is forbidden: each dialogue
has all its turns. Then `vllm bench serve` sends what was sent: the same prompts, each with as many
tokens to write as were written, at the same concurrency, once with the fields that ours asks for
(the probability of leaving, token ids, the end's ban) and once as it comes. It has all prompts from
the start; ours waits for a turn before it asks for the next one, checks and keeps it.
Each begins with an empty prefix cache; they take turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from generation_runs import spread, table, verdict

from userlm_synth.backends.first_token import FIELD
from userlm_synth.backends.openai_server import MOST_LOGPROBS, PLAIN_SAMPLING
from userlm_synth.recipe import Assistant, Generate, Guardrails
from userlm_synth.records import Record, read_records
from userlm_synth.simulate.generate import missing, opened
from userlm_synth.simulate.intents_file import IntentsFile
from userlm_synth.simulate.plan import Plan
from userlm_synth.simulate.sides import Job
from userlm_synth.user_lm import ChatFormat, load_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from vllm_harness import Environment, environment, free_port, started

IN_FLIGHT = 32
NUM = 800  # dialogues
TURNS = 8  # of the user
MOST = 32  # tokens a turn
REPLIES = [
    "Start with the list of what you have, then decide what to buy; the rest can wait a week.",
    "That works too. Take the smaller one first and see how far you get with it in a day.",
    "Most people need about two hours for it. Ask somebody to help with the heavy part.",
    "Yes, and keep the receipt. If it does not fit you can bring it back within a month.",
]
SHORT = ["train.epochs=0.15", "assistant.train.epochs=0.01",
         "train.validations=0", "assistant.train.validations=0"]  # fmt: skip
SAME = "vllm bench serve, with the same fields"
FREE = Guardrails(
    forbid_end=True, no_repeats=False, role_break=False, run_on=False, control_tokens=False,
    attempts=20,
)  # fmt: skip
SHARE = 0.95  # of the tokens/s of vLLM's client
COUNTERS = ("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens")


@dataclass
class Tried:
    """A client: its repeats."""

    name: str
    tokens: list[int] = field(default_factory=list)  # written, as the server counts
    read: list[int] = field(default_factory=list)  # prompt tokens
    seconds: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)  # share of prompt tokens found in the cache

    def add(self, seconds: float, before: dict[str, float], now: dict[str, float]) -> None:
        """A repeat, with the server's counters before and after it."""
        count = {key: now[key] - before[key] for key in COUNTERS}
        self.seconds.append(seconds)
        self.tokens.append(round(count["generation_tokens"]))
        self.read.append(round(count["prompt_tokens"]))
        self.hits.append(count["prefix_cache_hits"] / count["prefix_cache_queries"])

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
        num = job.settings.num or plan.cycle
        await holding.hold(missing(plan, holding.store, num), num)
        return holding.seconds, list(holding.store.records(rejected=False))


def ours(server: Server, intents: Path, out: Path, num: int) -> tuple[float, list[Record]]:
    """A run of `generate`: its seconds and dialogues."""
    script = intents.with_name("replies.json")
    script.write_text(json.dumps(REPLIES))
    settings = Generate(
        num=num, concurrency=IN_FLIGHT, adapt=False, max_turns=TURNS, max_tokens=MOST,
        guardrails=FREE,
    )  # fmt: skip
    job = Job(
        settings, Assistant(), user=f"openai:user_lm@{server.url}", assistant=f"scripted:{script}",
        intents=intents, out=out, seed=0, recipe_hash="",
    )  # fmt: skip
    seconds, dialogues = asyncio.run(hold(job))
    if {len(one["messages"]) for one in dialogues} != {2 * TURNS} or len(dialogues) != num:
        sys.exit("not every dialogue has all its turns")
    return seconds, dialogues


def requests(form: ChatFormat, dialogues: Sequence[Record]) -> list[dict[str, Any]]:
    """What was asked for, as `vllm bench serve` reads it: the first turns of as many dialogues as
    are in flight, their second ones, ...; then the next dialogues. The prefix cache serves both."""
    rows = []
    for first in range(0, len(dialogues), IN_FLIGHT):
        for turn, one in product(range(0, 2 * TURNS, 2), dialogues[first : first + IN_FLIGHT]):
            opening = {"role": "system", "content": one["intent"]}
            ids = [*form.prompt([opening, *one["messages"][:turn]]), *form.lead]
            said = form.tokenizer.encode(one["messages"][turn]["content"], add_special_tokens=False)
            prompt = form.tokenizer.decode(ids, skip_special_tokens=False)
            rows.append({"prompt": prompt, "output_tokens": min(len(said) + 1, MOST)})
    return rows


def same_fields(form: ChatFormat) -> dict[str, Any]:
    """What our requests ask for besides; where to stop is left out: lengths are given."""
    return {
        "logprobs": MOST_LOGPROBS, "logprob_token_ids": [form.end_id],
        "return_tokens_as_token_ids": True, "return_token_ids": True, "skip_special_tokens": False,
        "logit_bias": {str(form.end_id): -100.0}, "vllm_xargs": {FIELD: [form.turn_end_id]},
    }  # fmt: skip


def theirs(server: Server, rows: list[dict[str, Any]], folder: Path, more: dict[str, Any]) -> float:
    """Seconds that vLLM's client takes for the same."""
    data, result = folder / "requests.jsonl", folder / "result.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = {**PLAIN_SAMPLING, "seed": 1, **more}
    server.env.run(
        "vllm", "bench", "serve", "--backend", "openai", "--base-url",
        server.url.removesuffix("/v1"), "--endpoint", "/v1/completions", "--model", "user_lm",
        "--tokenizer", server.folder, "--dataset-name", "custom", "--dataset-path", data,
        "--custom-output-len", -1, "--skip-chat-template", "--disable-shuffle", "--num-prompts",
        len(rows), "--max-concurrency", IN_FLIGHT, "--ignore-eos", "--temperature", 1.0,
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
            _, dialogues = ours(server, intents, folder / "first", IN_FLIGHT)  # warms up
            tries = [Tried(name) for name in ("userlm-synth generate", SAME, "vllm bench serve")]
            num = max(IN_FLIGHT, round(NUM * options.scale))
            for repeat in range(options.repeats):
                for one in tries:
                    before = server.emptied()
                    if one is tries[0]:
                        seconds, dialogues = ours(server, intents, folder / str(repeat), num)
                    else:
                        rows = requests(form, dialogues)
                        more = same_fields(form) if one.name == SAME else {}
                        seconds = theirs(server, rows, folder, more)
                    one.add(seconds, before, server.counters())
                    print(f"{one.name}: {one.rates[-1]:,.0f}", file=sys.stderr)
    _say(tries)
    return tries


def _say(tries: list[Tried]) -> None:
    rows = [
        (one.name, spread(one.rates), f"{one.tokens[-1]:,}", f"{one.read[-1]:,}",
         spread(one.seconds, 1), spread([100 * hit for hit in one.hits], 1) + " %")
        for one in tries
    ]  # fmt: skip
    head = (f"a real vLLM, CPU, {IN_FLIGHT} in flight", "tokens/s", "tokens written", "tokens read",
            "seconds", "prefix cache")  # fmt: skip
    print(table(head, rows) + "\n")
    for they in tries[1:]:
        pairs = zip(tries[0].rates, they.rates, strict=True)
        share = [100 * our / their for our, their in pairs]
        good = verdict(statistics.median(share) >= 100 * SHARE)
        print(f"{good}: {spread(share, 1)} % of {they.name} (at least {100 * SHARE:.0f})")
    print()
