"""How long `userlm-synth report` takes, and the most memory: 100,000 and 1,000,000 dialogues.

    python benchmarks/report.py --sizes 100000 1000000

Dialogues in the toolkit's own form, eight turns, about 3 kB each, words by Zipf's law; one in fifty
is a near copy of an earlier one. 10,000 conversations of the same kind stand for people, 20,000
for what a model was trained on. The time is that of the whole command, from its start to its end;
memory is what its processes hold together (proportional set sizes), looked at five times a second.
"""

from __future__ import annotations

import argparse
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
from wildchat_shaped import Words

PEOPLE, TRAINING = 10_000, 20_000
INTENTS = 5000
BATCH = 1000
COPIES = 0.02
USER, REPLY = (4, 24), (40, 120)  # words of a turn
GOALS = {100_000: (180, 3.0), 1_000_000: (None, 4.0)}  # seconds, GiB


def dialogues(count: int, seed: int) -> Iterator[dict]:
    """Dialogues, with what `generate` writes beside the messages."""
    draw, words = random.Random(seed), Words(seed)
    former: list[list[str]] = []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        lengths = [draw.randint(*span) for _ in range(size) for span in (USER, REPLY) * 4]
        texts = iter(words.draw(lengths))
        for at in range(start, start + size):
            turns = [next(texts) for _ in range(8)]
            if former and draw.random() < COPIES:
                turns = list(draw.choice(former))
                turns[0] += " please"
            elif len(former) < 10_000:
                former.append(turns)
            yield dialogue(at, turns, draw)


def dialogue(at: int, turns: list[str], draw: random.Random) -> dict:
    """One record of the dialogue schema."""
    intent = draw.randrange(INTENTS)
    roles = ("user", "assistant") * 4
    side = {"prompt_tokens": 900, "completion_tokens": 120, "cached_tokens": 700}
    return {
        "id": f"d{at}", "source": "userlm_synth", "user_id": None, "language": "en",
        "intent": f"You are a user chatting with an assistant language model to reach {intent}.",
        "persona": None,
        "messages": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)],
        "metadata": {"repetition": 0}, "intent_id": f"i{intent}", "seed": at,
        "stop_reason": draw.choice(("user_ended", "user_ended", "max_turns")),
        "user_model": "user@1", "assistant_model": "assistant@1",
        "guardrails": {"no_repeats": draw.randrange(2)},
        "end_probabilities": [0.01, 0.02, 0.1, 0.9],
        "usage": {"user": side, "assistant": side}, "recipe_hash": "0" * 16,
    }  # fmt: skip


def write(path: Path, count: int, seed: int, conversation: bool = False) -> Path:
    """A JSONL file; conversations are dialogues without what only a run knows."""
    fields = ("id", "source", "user_id", "language", "intent", "persona", "messages", "metadata")
    with path.open("wb") as file:
        for one in dialogues(count, seed):
            row = {key: one[key] for key in fields} if conversation else one
            file.write(orjson.dumps(row) + b"\n")
    return path


def held(root: int) -> int:
    """Bytes that a process and its descendants hold together (proportional set sizes)."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(stat.parent.name))
    todo, total = [root], 0
    while todo:
        process = todo.pop()
        todo += parents.get(process, [])
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:"))
    return total * 1024


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak GiB of a command; its own progress is shown."""
    started, most = time.monotonic(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.2)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - started, most / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        people = write(folder / "people.jsonl", PEOPLE, 1, conversation=True)
        training = write(folder / "training.jsonl", TRAINING, 2, conversation=True)
        for size in options.sizes:
            made = write(folder / "dialogues.jsonl", size, 3)
            gigabytes = made.stat().st_size / 1e9
            command = [
                *(sys.executable, "-m", "userlm_synth", "report", str(made)),
                *("--reference", str(people), "--training", str(training)),
                *("--out", str(folder / f"report-{size}")),
            ]
            seconds, memory = measure(command)
            page = (folder / f"report-{size}" / "index.html").stat().st_size / 1e6
            rows.append(
                f"| {size:,} | {gigabytes:.2f} | {seconds:.0f} | {size / seconds:,.0f} | "
                f"{memory:.2f} | {page:.2f} |"
            )
    print(f"{platform.machine()}, Python {platform.python_version()}")
    print("| dialogues | GB | seconds | per second | peak GiB | page, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))
    for size, (seconds, memory) in GOALS.items():
        if size in options.sizes:
            print(f"goal at {size:,}: {seconds or 'any'} s, {memory} GiB; page 3 MB")


if __name__ == "__main__":
    main()
