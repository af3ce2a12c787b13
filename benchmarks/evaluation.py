"""What evaluation costs apart from the models, and its perplexity beside transformers' own loop.

    python benchmarks/evaluation.py coffee.jsonl.gz                     # all parts
    python benchmarks/evaluation.py coffee.jsonl.gz --only perplexity --model CHECKPOINT

perplexity  `evaluation.scoring.score` against the usual loop: one conversation at a time through
            transformers, all logits, the loss that the model itself returns; and against that loop
            over the K+1 samples. A tiny user LM with random weights (of the size that
            `recipes/coffee.yaml` trains), and --model, any checkpoint, as a user LM. The ways take
            turns; figures are medians. Perplexity has to come out the same in all of them.
jaccard     first-turn diversity with its interval: seconds, and the most memory.
metrics     each figure's own work on 10,000 dialogues, without the models'.

Weights do not matter here. Loading is not timed; rendering and tokenizing are, in every way.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from userlm_synth import metrics
from userlm_synth.records import Record
from userlm_synth.user_lm.render import WORD

GOAL = 3.0  # times as fast as the usual loop
LOOPS = ("transformers, a conversation at a time", "transformers, a sample at a time")
TOLERANCE = 1e-4  # relative, of perplexity
SIZES = (2000, 20_000)  # first turns
DIALOGUES = 10_000
SHAPE = {"vocabulary": 2500, "hidden": 192, "layers": 4, "heads": 3}  # as in recipes/coffee.yaml
MIB = 1 << 20


# ---- perplexity ------------------------------------------------------------------------------


def perplexity(options: Namespace) -> None:
    chats = conversations(options.source)
    head = "model", "conversations", "way", "seconds", "CPU s", "user tokens/s", "times ours", "PPL"
    print("| " + " | ".join(head) + " |")
    print("| --- " * 8 + "|")
    with tempfile.TemporaryDirectory() as folder:
        small = tiny_user_lm(chats, Path(folder) / "user_lm")
        few = chats[: options.conversations]
        ratios = {"tiny user LM": compare("tiny user LM", small, few, options)}
    if options.model:
        name = Path(options.model).name
        ratios[name] = compare(name, options.model, chats[: options.few], options)
    print("\n" + machine())
    for way in LOOPS:
        for name, times in ratios.items():
            verdict = "ok" if times[way] >= GOAL else "MISSED"
            print(f"{verdict}: {name}, {times[way]:.2f} times {way} (goal {GOAL:.0f})")


def tiny_user_lm(chats: Sequence[Record], out: Path) -> str:
    from userlm_synth.recipe import Scratch
    from userlm_synth.user_lm import open_chat, train_tokenizer, untrained_model
    from userlm_synth.user_lm.checkpoint import save_checkpoint

    texts = (message["content"] for one in chats for message in one["messages"])
    tokenizer = train_tokenizer(texts, SHAPE["vocabulary"])
    model = untrained_model(Scratch(**SHAPE), tokenizer, 2048, 0)
    open_chat(model, tokenizer, "user")
    save_checkpoint(model, tokenizer, out, {})
    return str(out)


def compare(name: str, path: str, chats: Sequence[Record], options: Namespace) -> dict[str, float]:
    """How many times as fast `score` is as each of the loops."""
    from userlm_synth.evaluation.scoring import Model, score
    from userlm_synth.user_lm import load_model

    model, peer = Model(path), load_model(path)
    if not model.is_user_lm:  # its rows for turns
        peer.resize_token_embeddings(model.chat.end_id + 1, mean_resizing=False)
        peer.load_state_dict(model.model.state_dict())
    peer = peer.to(model.device).eval()

    def ours(some: Sequence[Record]) -> tuple[float, int]:
        found = score(model, some, "chat", True, options.batch_tokens)
        return float(found.nats.sum()), int(found.tokens.sum())

    ways: dict[str, Callable[[Sequence[Record]], tuple[float, int]]] = {
        "ours": ours,
        LOOPS[0]: lambda some: usual_loop(model, peer, some, False),
        LOOPS[1]: lambda some: usual_loop(model, peer, some, True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu = dict.fromkeys(ways, 0.0)
    found: dict[str, tuple[float, int]] = {}
    for work in ways.values():
        work(chats[:4])
    for _ in range(options.repeats):
        for way, work in ways.items():
            started, cpu_started = clock(model), time.process_time()
            found[way] = work(chats)
            seconds[way].append(clock(model) - started)
            cpu[way] += (time.process_time() - cpu_started) / options.repeats
    middle = {way: statistics.median(some) for way, some in seconds.items()}
    values = {way: math.exp(nats / tokens) for way, (nats, tokens) in found.items()}
    for way in ways:
        assert abs(values[way] / values["ours"] - 1) < TOLERANCE, f"{way}: {values}"
        times = middle[way] / middle["ours"]
        print(
            f"| {name} | {len(chats)} | {way} | {middle[way]:.2f} "
            f"({min(seconds[way]):.2f} to {max(seconds[way]):.2f}) | {cpu[way]:.2f} "
            f"| {found[way][1] / middle[way]:,.0f} | {times:.2f} | {values[way]:.4f} |",
            flush=True,
        )
    return {way: middle[way] / middle["ours"] for way in LOOPS}


def usual_loop(model: Any, peer: Any, chats: Sequence[Record], each_sample: bool) -> Any:
    """The loss that the model returns for labels where the user speaks: (nats, tokens)."""
    import torch

    total, count = 0.0, 0
    for one in chats:
        ((_, window),) = model.windows("chat", [one], True)
        for ids, labels in samples(window) if each_sample else [whole(window)]:
            words = len(labels) - labels.count(-100)
            if not words:  # the end token is no word, but its sample has to be read
                labels[-1] = ids[-1]
            with torch.inference_mode():
                inputs, targets = (torch.tensor([x], device=model.device) for x in (ids, labels))
                loss = peer(inputs, labels=targets).loss
            total, count = total + float(loss) * words, count + words
    return total, count


def whole(window: Any) -> tuple[list[int], list[int]]:
    """A conversation, and its labels: the user's words."""
    pairs = zip(window.ids, window.kinds, strict=True)
    return window.ids, [token if kind == WORD else -100 for token, kind in pairs]


def samples(window: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Each of the user's turns with all before it, and the end."""
    ids, labels = whole(window)
    for turn in sorted({*window.turns} - {0}):
        own = [
            token if of == turn else -100 for token, of in zip(labels, window.turns, strict=True)
        ]
        end = len(own) - window.turns[::-1].index(turn)
        yield ids[:end], own[:end]


def conversations(path: Path) -> list[Record]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    random.Random(0).shuffle(rows)
    return [{"persona": None, **one} for one in rows]


def clock(model: Any) -> float:
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# ---- the texts' own figures ------------------------------------------------------------------


def jaccard(options: Namespace) -> None:
    print(
        "| first turns | what | seconds | MiB at most, above the start |\n| --- | --- | --- | --- |"
    )
    ways = {"all pairs": all_pairs, "all pairs, with the interval": with_interval}
    for size in SIZES:
        texts = zipf_texts(size)
        for what, work in ways.items():
            seconds, grown = apart(work, texts)
            print(f"| {size:,} | {what} | {seconds:.2f} | {grown:,.0f} |", flush=True)
    print("\n" + machine())


def all_pairs(texts: Sequence[str]) -> None:
    metrics.first_turn_diversity(texts, limit=None)


def with_interval(texts: Sequence[str]) -> None:
    metrics.diversity_estimate(texts, limit=None)


def zipf_texts(count: int) -> list[str]:
    """Texts of about 15 words, drawn as often as words are in English."""
    rng = np.random.default_rng(0)
    return [
        " ".join(f"w{rank}" for rank in rng.zipf(1.2, 1 + rng.poisson(14)) if rank < 100_000)
        for _ in range(count)
    ]


def apart(work: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Seconds and MiB of some work in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (work, *arguments))


def _measured(work: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    before, started = most_memory(), time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started, (most_memory() - before) / MIB


def most_memory() -> int:
    """Bytes that this process has had at most. Linux's getrusage counts those of its parent too."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024


def of_scores(dialogues: Sequence[Record]) -> None:
    """Table 1: from sums by turn to figures with intervals."""
    from userlm_synth.evaluation.perplexity import perplexity as figures
    from userlm_synth.evaluation.scores import Scores

    some, rng = Scores.blank("chat", dialogues), np.random.default_rng(0)
    some.tokens = rng.integers(1, 30, len(some.turn))
    some.nats = some.tokens * rng.uniform(1, 4, len(some.turn))
    for with_intent in (False, True):
        figures(some, with_intent=with_intent, samples=1000, seed=0)


def of_ends(dialogues: Sequence[Record]) -> None:
    """Termination, ranks included."""
    from userlm_synth.evaluation.scores import Places
    from userlm_synth.evaluation.termination import termination

    places, rng = Places.of(dialogues), np.random.default_rng(0)
    places.probability = rng.random(len(places))
    places.leaves = places.probability > 0.5
    ids = [one["id"] for one in dialogues]
    termination(places, ids, by="probability", samples=1000, seed=0)


def of_first_turns(dialogues: Sequence[Record]) -> None:
    """First-turn diversity of all, and overlaps."""
    from userlm_synth.evaluation.first_turns import first_turn_figures, human_first_turns

    with_interval([one["messages"][0]["content"] for one in dialogues])
    some = dialogues[:2000]
    first_turn_figures(some, human_first_turns(some), samples=1000, seed=0)


def of_decomposition(dialogues: Sequence[Record]) -> None:
    """Overlap of every turn with the intent, and cumulative."""
    from userlm_synth.evaluation.decomposition import decomposition_figures, human_turns

    decomposition_figures(dialogues, human_turns(dialogues), samples=1000, seed=0)


def of_naturalness(dialogues: Sequence[Record]) -> None:
    """Classifier and two-sample tests: people, a contrast and a simulator, 2,000 texts each."""
    from userlm_synth.evaluation.naturalness import naturalness_of
    from userlm_synth.recipe import Naturalness

    texts = [one["messages"][0]["content"] for one in dialogues[:6000]]
    rows = {
        name: {str(number): text for number, text in enumerate(texts[at::3])}
        for at, name in enumerate(("human", "prompted", "simulator"))
    }
    kinds = {"human": "human", "prompted": "prompted", "simulator": "user_lm"}
    with tempfile.TemporaryDirectory() as kept:
        naturalness_of(
            rows, kinds, Naturalness(), limit=2000, samples=1000, seed=0, kept=Path(kept)
        )


def of_role(dialogues: Sequence[Record]) -> None:
    """Choices that a turn names."""
    from userlm_synth.evaluation.role_adherence import outcome

    for one in dialogues:
        choices = one["intent"].split()[:5]
        outcome(one["messages"][0]["content"], choices)


def of_intent(dialogues: Sequence[Record]) -> None:
    """A share of verdicts with its interval."""
    from userlm_synth.estimates import Units

    Units.means({one["id"]: float(len(one["id"]) % 2) for one in dialogues}).estimate(
        samples=1000, seed=0
    )


#: A figure's own work on dialogues; each runs in a process of its own.
WORK: dict[str, Callable[[Sequence[Record]], None]] = {
    "perplexity": of_scores,
    "termination": of_ends,
    "first-turn diversity": of_first_turns,
    "intent decomposition": of_decomposition,
    "naturalness": of_naturalness,
    "role adherence": of_role,
    "intent adherence": of_intent,
}


def own_work(options: Namespace) -> None:
    dialogues = made_dialogues(DIALOGUES)
    print(f"| figure, {DIALOGUES:,} dialogues | seconds | MiB at most, above the start |")
    print("| --- " * 3 + "|")
    for name, work in WORK.items():
        seconds, grown = apart(work, dialogues)
        print(f"| {name} | {seconds:.1f} | {grown:,.0f} |", flush=True)
    print("\n" + machine())


def made_dialogues(count: int) -> list[Record]:
    """Dialogues of one to eight turns of each side, of words that are as frequent as in English."""
    rng, texts = random.Random(0), iter(zipf_texts(count * 9))
    return [
        {
            "id": f"made-{number}",
            "intent": next(texts),
            "messages": [
                {"role": ("user", "assistant")[at % 2], "content": next(texts) or "w1"}
                for at in range(2 * rng.randint(1, 4))
            ],
        }
        for number in range(count)
    ]


def machine() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"


PARTS: dict[str, Callable[[Namespace], None]] = {
    "perplexity": perplexity,
    "jaccard": jaccard,
    "metrics": own_work,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="conversations with intents, as JSON lines")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", help="a checkpoint to measure beside the tiny one")
    parser.add_argument("--conversations", type=int, default=600, help="for the tiny model")
    parser.add_argument("--few", type=int, default=60, help="conversations for --model")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in options.only:
        print(f"\n## {name}\n")
        PARTS[name](options)


if __name__ == "__main__":
    main()
