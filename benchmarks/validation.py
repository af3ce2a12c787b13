"""How fast dialogues are held against their schema and the rules, beside the validators themselves.

    python benchmarks/validation.py [--num 20000] [--language latin]

Ours is `validate` of a JSONL file: bytes to verdicts, unique ids included. Beside it, in one
run and on the same lines: `jsonschema` with a validator built once, and `jsonschema-rs`, each after
`json.loads`, without rules, text checks or ids. Dialogues have six messages and about 5 kB;
`--language latin` has a letter beyond ASCII in nearly every word, which costs every parser more.
CPU seconds of one core, the best of three.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from userlm_synth.records import Record, file_problems, load_schema, read_records

WORDS = {
    "english": "the quick brown fox jumps over a lazy dog and five small cats in town",
    "latin": "die größte Straße führt übers Gebüsch, où l'été à Málaga niño más",
}
SIDE = {"prompt_tokens": 512, "completion_tokens": 64}


def dialogue(number: int, words: list[str], rng: random.Random) -> Record:
    """Six messages: short turns of the user, long ones of the assistant."""

    def say(length: int) -> str:
        return " ".join(rng.choices(words, k=length))

    return {
        "id": f"dlg-{number:012x}", "source": "userlm_synth", "user_id": None, "language": "en",
        "intent": say(16), "persona": None,
        "messages": [
            {"role": ("user", "assistant")[turn % 2], "content": say((22, 250)[turn % 2])}
            for turn in range(6)
        ],
        "metadata": {"slice": "a", "repetition": 0}, "intent_id": f"int-{number}",
        "seed": rng.getrandbits(63), "stop_reason": "user_ended", "user_model": "user@1",
        "assistant_model": "assistant@1", "guardrails": {"too_short": 1},
        "end_probabilities": [rng.random() for _ in range(4)],
        "usage": {"user": SIDE, "assistant": SIDE}, "recipe_hash": "0" * 64,
    }  # fmt: skip


def per_second(work: Callable[[], object], count: int) -> float:
    """Records a CPU-second, the best of three."""
    best = 0.0
    for _ in range(3):
        started = time.process_time()
        work()
        best = max(best, count / (time.process_time() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num", type=int, default=20_000)
    parser.add_argument("--language", choices=sorted(WORDS), default="english")
    options = parser.parse_args()
    import jsonschema
    import jsonschema_rs

    schema = load_schema("dialogue")
    quick, slow = (
        jsonschema_rs.Draft202012Validator(schema),
        jsonschema.Draft202012Validator(schema),
    )
    words, rng = WORDS[options.language].split(), random.Random(0)
    made = [dialogue(number, words, rng) for number in range(options.num)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part-00000.jsonl"
        text = [json.dumps(one, ensure_ascii=False) for one in made]
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
        del made
        few = text[: max(1, options.num // 20)]
        assert file_problems(path, "dialogue") == (options.num, [])
        rows = {
            "userlm_synth, file_problems": (lambda: file_problems(path, "dialogue"), options.num),
            "userlm_synth, read_records": (lambda: read_records(path, "dialogue"), options.num),
            "json.loads + jsonschema-rs, no rules, no ids": (
                lambda: [quick.is_valid(json.loads(line)) for line in text], options.num,
            ),
            "json.loads + jsonschema, built once": (
                lambda: [slow.is_valid(json.loads(line)) for line in few], len(few),
            ),
        }  # fmt: skip
        size = path.stat().st_size / options.num
        print(
            f"{platform.machine()}, Python {platform.python_version()}, orjson {version('orjson')}"
        )
        print(f"jsonschema-rs {version('jsonschema-rs')}, jsonschema {version('jsonschema')};")
        print(f"{options.num:,} dialogues of {size:,.0f} bytes\n")
        print("| way | records a CPU-second |\n| --- | --- |")
        for name, (work, count) in rows.items():
            print(f"| {name} | {per_second(work, count):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
