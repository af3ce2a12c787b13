"""Preparing conversations at WildChat's size: time, memory, what is found, and a simple peer.

    python benchmarks/prepare.py --sizes 100000 300000 1000000

Makes chat logs in WildChat's form (`wildchat_shaped.py`, about 3 kB a conversation), prepares them
by the command line (read, clean, find copies, split, write, data card), and prints a Markdown
table: seconds, conversations a second, peak memory of all processes together. At the first size it
also runs the straightforward approach, in one process: `json`, the rules of cleaning that apply
here, a `Counter` of 7-gram tuples, datasketch's MinHash LSH on word 3-grams, the same splits; once
with a `MinHash.update` for each shingle, as in datasketch's first example, and once with
`update_batch`. The planted templates tell what each found. Needs: pip install datasketch psutil
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import wildchat_shaped

NGRAM, MIN_COPIES, THRESHOLD, COLUMNS = 7, 20, 0.8, 120


def measured(command: list[str]) -> tuple[float, int, str]:
    """Wall seconds, peak MiB of the whole process tree (sum of RSS, every 0.2 s), and stderr."""
    import psutil

    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    peak = 0

    def watch() -> None:
        nonlocal peak
        root = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0
            for one in [root, *root.children(recursive=True)]:
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue
            peak = max(peak, total)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(errors)
    return time.perf_counter() - started, peak >> 20, errors


# ---- the straightforward approach ------------------------------------------------------------


def straightforward(source: Path, out: Path, batches: bool) -> None:
    """What one writes in an afternoon: everything in memory, one process, well-known libraries."""
    from datasketch import MinHash, MinHashLSH

    records = []
    for line in source.open(encoding="utf-8"):
        row = json.loads(line)
        turns = [
            {"role": turn["role"], "content": turn["content"].strip()}
            for turn in row["conversation"]
        ]
        if row["toxic"] or row["redacted"] or row["language"] != "English":
            continue
        if any(not turn["content"] for turn in turns):
            continue
        user = f"{row['hashed_ip']}/{row['country']}"
        records.append({"id": row["conversation_hash"], "user_id": user, "messages": turns})
    seen, unique = set(), []
    for record in records:
        text = record["messages"][0]["content"].lower()
        if text not in seen:
            seen.add(text)
            unique.append((record, text.split()[:200]))
    counter: Counter[tuple[str, ...]] = Counter()
    for _, words in unique:
        counter.update({tuple(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)})
    kept, templates = [], set()
    for record, words in unique:
        grams = [tuple(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)]
        often = [gram for gram in grams if counter[gram] >= MIN_COPIES]
        if len(often) >= len(grams) / 2 and often:
            name = max(often, key=lambda gram: (counter[gram], gram))
            if name in templates:
                continue
            templates.add(name)
        kept.append((record, words))
    index, left = MinHashLSH(threshold=THRESHOLD, num_perm=COLUMNS), []
    for number, (record, words) in enumerate(kept):
        sketch = MinHash(num_perm=COLUMNS)
        shingles = {" ".join(words[at : at + 3]).encode() for at in range(len(words) - 2)}
        if batches:
            sketch.update_batch(list(shingles))
        else:
            for shingle in shingles:
                sketch.update(shingle)
        if shingles and index.query(sketch):
            continue
        index.insert(number, sketch)
        left.append(record)
    out.mkdir(parents=True, exist_ok=True)
    from userlm_synth.conversations.splits import SPLITS, split_of

    files = {name: (out / f"{name}.jsonl").open("w", encoding="utf-8") for name in SPLITS}
    for record in left:
        split = split_of(f"user {record['user_id']}", (0.9, 0.05, 0.05), 0)
        files[split].write(json.dumps(record, ensure_ascii=False) + "\n")
    for file in files.values():
        file.close()


# ---- what was found --------------------------------------------------------------------------


def found(source: Path, out: Path) -> tuple[float, float]:
    """Shares: template copies beyond one a template that went, genuine prompts that went."""
    truth: dict[str, int] = {}
    for line in source.open(encoding="utf-8"):
        row = json.loads(line)
        if not row["toxic"]:
            truth[row["conversation_hash"]] = row["header"]["template"]
    every = Counter(truth.values())
    kept: Counter[int] = Counter()
    for split in ("train", "validation", "test"):
        for line in (out / f"{split}.jsonl").open(encoding="utf-8"):
            kept[truth[json.loads(line)["id"]]] += 1
    genuine, kept_genuine = every.pop(-1), kept.pop(-1)
    beyond = sum(every.values()) - len(every)
    over = sum(max(0, number - 1) for number in kept.values())
    return 1 - over / beyond, 1 - kept_genuine / genuine


def report(rows: list[list[Any]]) -> None:
    head = ["conversations", "GB", "program", "seconds", "per second", "peak MiB",
            "copies beyond one that went", "genuine that went"]  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peer:
        source, out, batches = chosen.peer
        straightforward(Path(source), Path(out), batches == "batches")
        return
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for size in chosen.sizes:
            source, out = Path(folder, f"{size}.jsonl"), Path(folder, f"out-{size}")
            wildchat_shaped.write(size, source)
            ours = [sys.executable, "-m", "userlm_synth", "prepare", "--source", str(source),
                    "conversations.clean.languages=[en]", "--out", str(out)]  # fmt: skip
            runs = [("userlm-synth", ours, out)]
            for kind in ("simple", "batches") if size == chosen.sizes[0] else ():
                where = f"{out}-{kind}"
                peer = [sys.executable, __file__, "--peer", str(source), where, kind]
                name = "straightforward" + (", update_batch" if kind == "batches" else "")
                runs.append((name, peer, Path(where)))
            for name, command, where in runs:
                seconds, peak, _ = measured(command)
                gone, lost = found(source, where)
                table.append(
                    [f"{size:,}", f"{source.stat().st_size / 1e9:.2f}", name, f"{seconds:.1f}",
                     f"{size / seconds:,.0f}", f"{peak:,}", f"{gone:.2%}", f"{lost:.2%}"]
                )  # fmt: skip
                print(*table[-1], file=sys.stderr, flush=True)
            source.unlink()
    report(table)


if __name__ == "__main__":
    main()
