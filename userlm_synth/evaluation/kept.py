"""Sampled turns, kept as they come in a JSONL file that is only ever appended to.

A run that is killed at any moment goes on where it was: a torn last line costs one more request.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

from userlm_synth.backends.interface import Finish
from userlm_synth.errors import explain_disk_full
from userlm_synth.locks import locked
from userlm_synth.records import parse_json, to_line

SYNC_SECONDS = 0.5  # a turn is in the file at once, and on the disk after this at the latest


@dataclass(frozen=True)
class Turn:
    """What a simulator said. `finish` is `end` where it left, and `length` where the turn was cut
    off; `shortened`: its history was too long for the model and lost its beginning."""

    text: str
    finish: Finish
    end_probability: float | None = None
    shortened: bool = False

    @property
    def left(self) -> bool:
        """Whether the simulator ended the conversation here."""
        return self.finish == "end"


class KeptTurns:
    """Turns by key; open it as a context manager, which keeps other runs out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Turn] = {}
        self._synced = time.monotonic()

    def __enter__(self) -> KeptTurns:
        busy = f"{self.path}: another run is at work with these turns; wait for it"
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

    def _read(self) -> None:
        self.file.seek(0)
        line = b"\n"
        for line in self.file:
            try:
                entry = parse_json(line)
                parts = {one.name: entry[one.name] for one in fields(Turn)}
                self.found[str(entry["key"])] = Turn(**parts)
            except (ValueError, TypeError, KeyError):
                continue
        if line[-1:] != b"\n":  # the next turn is not to be spoilt too
            self.file.write(b"\n")

    def keep(self, key: str, place: str, model: str, turn: Turn) -> None:
        """Remember a turn, through kills and power cuts too."""
        self.found[key] = turn
        with explain_disk_full(self.path):
            entry = {"key": key, "id": place, "model": model, **asdict(turn)}
            self.file.write(to_line(entry).encode())
            self.file.flush()
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        with explain_disk_full(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
        self._synced = time.monotonic()
