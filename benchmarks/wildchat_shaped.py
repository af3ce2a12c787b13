"""Made-up chat logs in WildChat's form, of any size: genuine prompts, and copies of templates.

    python benchmarks/wildchat_shaped.py 100000 chats.jsonl

Words follow Zipf's law over a made-up vocabulary. 60 % of the prompts are genuine: words drawn
afresh, one in three behind a phrase that many people use. The others are copies of templates, 50
to 8 % of all conversations each, with one or two slots of 1-4 words, one word in sixty changed,
and other case or punctuation. Each row tells in `header` which it is; no program reads that.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

GENUINE = 0.6
PHRASES = (
    "can you give me a list of", "what is the best way to get rid of",
    "i would like you to help me with", "could you please explain to me in simple words",
    "write me a short story about a", "how do i fix the following error in my",
    "please help me to write an email to my", "tell me everything that you know about the",
)  # fmt: skip
COUNTRIES = ("United States", "Russia", "China", "Hong Kong", "Germany", "Brazil", "France")
MODELS = ("gpt-3.5-turbo-0301", "gpt-4-0314", "gpt-3.5-turbo-0613")
BATCH = 1000


class Words:
    """Texts of words drawn by Zipf's law, fast."""

    def __init__(self, seed: int) -> None:
        sounds = random.Random(1)
        parts = [a + b for a in "bcdfghjklmnprstvwz" for b in ("a", "e", "i", "o", "u", "en", "ar")]
        words: dict[str, None] = {}
        while len(words) < 30_000:
            words["".join(sounds.choices(parts, k=sounds.choice((1, 2, 2, 3, 3, 4))))] = None
        self.words = list(words)
        weights = 1 / np.arange(2, len(self.words) + 2) ** 1.05
        self.steps = np.cumsum(weights / weights.sum())
        self.random = np.random.default_rng(seed)

    def draw(self, lengths: list[int]) -> list[str]:
        """A text of each length in words."""
        found = np.searchsorted(self.steps, self.random.random(sum(lengths)))
        flat = list(map(self.words.__getitem__, found.clip(max=len(self.words) - 1).tolist()))
        texts, at = [], 0
        for length in lengths:
            texts.append(" ".join(flat[at : at + length]))
            at += length
        return texts


def templates(count: int, seed: int) -> Iterator[tuple[int, list[str], list[int]]]:
    """(copies, words, places of the slots) of templates, until 40 % of `count` are copies."""
    choose, words = random.Random(seed), Words(seed + 1)
    left = round(count * (1 - GENUINE))
    most = 0.08 * count / 50
    while left >= 50:
        copies = min(left, round(50 * most ** choose.random()))
        skeleton = words.draw([choose.randint(15, 120)])[0].split()
        yield copies, skeleton, choose.sample(range(1, len(skeleton)), choose.choice((1, 1, 2)))
        left -= copies


def varied(skeleton: list[str], slots: list[int], filling: list[str], choose: Any) -> str:
    """A copy of a template, with small variations."""
    words = list(skeleton)
    for at in range(len(words)):
        if choose.random() < 1 / 60:
            words[at] = choose.choice(filling)
    for at in sorted(slots, reverse=True):
        words[at:at] = choose.choices(filling, k=choose.randint(1, 4))
    text = " ".join(words)
    kind = choose.random()
    if kind < 0.1:
        return text.capitalize() + "."
    return text.upper() if kind < 0.13 else "please " + text if kind < 0.2 else text


def prompts(count: int, seed: int) -> Iterator[tuple[str, int]]:
    """(first user turn, number of its template or -1), in random order; the same for a seed."""
    choose, words = random.Random(seed), Words(seed)
    planted = list(templates(count, seed))
    which = [at for at, (copies, *_) in enumerate(planted) for _ in range(copies)]
    which += [-1] * (count - len(which))
    choose.shuffle(which)
    for start in range(0, count, BATCH):
        some = which[start : start + BATCH]
        lengths = np.exp(words.random.normal(3.2, 1.0, len(some))).clip(2, 900).astype(int)
        filling = words.draw([200])[0].split()
        for at, fresh in zip(some, words.draw(lengths.tolist()), strict=True):
            if at >= 0:
                yield varied(planted[at][1], planted[at][2], filling, choose), at
            elif choose.random() < 1 / 3:
                yield f"{choose.choice(PHRASES)} {fresh}", -1
            else:
                yield fresh, -1


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of WildChat's form, about 3 kB each."""
    choose, words = random.Random(seed + 2), Words(seed + 2)
    pool = words.draw([choose.randint(60, 260) for _ in range(4000)])  # assistant turns
    for number, (prompt, template) in enumerate(prompts(count, seed)):
        user = choose.randrange(count // 4 + 1)
        address = hashlib.sha256(f"{seed} {user}".encode()).hexdigest()
        place = {"country": COUNTRIES[user % len(COUNTRIES)], "state": None}
        turns = min(1 + int(choose.expovariate(1.1)), 12)
        later = words.draw([choose.randint(2, 40) for _ in range(turns - 1)])
        said = {"language": "English", "redacted": False, "toxic": False}
        conversation = []
        for turn, text in enumerate([prompt, *later]):
            conversation += [
                {"content": text, "role": "user", "hashed_ip": address, **place, **said,
                 "turn_identifier": 10 * number + turn, "timestamp": None, "header": {}},
                {"content": choose.choice(pool), "role": "assistant", **said,
                 "turn_identifier": 10 * number + turn, "timestamp": "2023-04-09T00:02:53"},
            ]  # fmt: skip
        yield {
            "conversation_hash": hashlib.md5(f"{seed} {number}".encode()).hexdigest(),
            "model": choose.choice(MODELS), "timestamp": "2023-04-09T00:02:53",
            "conversation": conversation, "turn": turns, "language": "English",
            "openai_moderation": [], "detoxify_moderation": [],
            "toxic": choose.random() < 0.01, "redacted": False, **place, "hashed_ip": address,
            "header": {"template": template},
        }  # fmt: skip


def write(count: int, path: Path, seed: int = 0) -> None:
    """A JSONL file of `count` conversations."""
    with path.open("wb") as file:
        for row in rows(count, seed):
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    write(int(sys.argv[1]), Path(sys.argv[2]))
