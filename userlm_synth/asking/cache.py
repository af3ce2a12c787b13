"""The answers so far and what they cost: a JSONL file that is only ever appended to.

A run that stops at any moment pays for no answer twice, and its bill goes on where it was. Kinds
of line, all with the question's `key` and the conversation's `id`:

    {"answer": ...}                what is used
    {"fault": ..., "reply": ...}   an answer that would not do
    {"begun": USD}                 before a request that costs; if no other line follows, the run
                                   was killed meanwhile and the most it can have cost is counted
    {"error": ...}                 such a request came to nothing
All but `begun` have `tokens` [read, written], and `usd` where a price was given.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from userlm_synth.errors import explain_disk_full
from userlm_synth.locks import locked
from userlm_synth.money import Price
from userlm_synth.records import Record, parse_json, to_line

SYNC_SECONDS = 0.5  # an answer is in the file at once, and on the disk after this at the latest
SHOWN = 200  # characters of a faulty reply


class Cache:
    """Answers by key; open it as a context manager, which keeps other runs out."""

    def __init__(self, path: Path, price: Price | None) -> None:
        self.path, self.price = path, price
        self.answers: dict[str, str] = {}
        self.faults: dict[str, tuple[str, str]] = {}  # the last: reason, reply
        self.faulty: Counter[str] = Counter()  # answers that would not do, by key
        self.spent = 0.0
        self._begun: defaultdict[str, list[float]] = defaultdict(list)
        self._synced = time.monotonic()

    def __enter__(self) -> Cache:
        busy = (
            f"{self.path}: another run is at work with these answers; wait for it, or name another "
            "file with --cache"
        )
        with ExitStack() as stack:
            with explain_disk_full(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file: IO[bytes] = stack.enter_context(self.path.open("a+b"))
            stack.enter_context(locked(self.path, busy))
            self._read()
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._held:
            self._sync()
            if not self.file.tell():
                self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        """Whole entries; a torn or spoilt line costs one more request and nothing else."""
        self.file.seek(0)
        line = b"\n"
        for line in self.file:
            try:
                entry = parse_json(line)
                self._take(entry)
            except (ValueError, TypeError, KeyError):
                continue
        self.spent += sum(map(sum, self._begun.values()))  # the run was killed meanwhile
        self._begun.clear()
        if line[-1:] != b"\n":  # the next entry is not to be spoilt too
            self.file.write(b"\n")

    def _take(self, entry: Record) -> None:
        key, tokens = str(entry["key"]), entry.get("tokens", (0, 0))
        if "begun" in entry:
            self._begun[key].append(float(entry["begun"]))
            return
        if self._begun[key]:
            self._begun[key].pop()
        guess = self.price.usd(*map(int, tokens)) if self.price else 0.0
        self.spent += float(entry.get("usd", guess))
        if isinstance(entry.get("answer"), str):
            self.answers[key] = entry["answer"]
        elif "fault" in entry:
            self._remember_fault(key, str(entry["fault"]), str(entry.get("reply", "")))

    def _remember_fault(self, key: str, reason: str, reply: str) -> None:
        self.faulty[key] += 1
        self.faults[key] = reason, reply

    def begin(self, key: str, name: str, most: float) -> None:
        """A request that may cost up to `most` USD is about to be made."""
        self._append({"key": key, "id": name, "begun": most}, sync=False)

    def keep(self, key: str, name: str, answer: str, bill: Record) -> None:
        """Remember an answer, through kills and power cuts too."""
        self.answers[key] = answer
        self._append({"key": key, "id": name, "answer": answer, **bill})

    def keep_fault(self, key: str, name: str, reason: str, reply: str, bill: Record) -> None:
        """Remember an answer that will not do."""
        reply = reply if len(reply) <= SHOWN else reply[: SHOWN - 3] + "..."
        reply = reply.encode(errors="replace").decode()  # a lone surrogate
        self._remember_fault(key, reason, reply)
        self._append({"key": key, "id": name, "fault": reason, "reply": reply, **bill})

    def keep_error(self, key: str, name: str, reason: str, bill: Record) -> None:
        """Close the entry of a request that came to nothing."""
        self._append({"key": key, "id": name, "error": reason[:SHOWN], **bill}, sync=False)

    def _append(self, entry: Record, sync: bool = True) -> None:
        with explain_disk_full(self.path):
            self.file.write(to_line(entry).encode(errors="replace"))
            self.file.flush()
        if sync and time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        with explain_disk_full(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
        self._synced = time.monotonic()
