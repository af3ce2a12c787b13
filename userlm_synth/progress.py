"""Progress of long work on standard error: how far, how fast, how much longer.

On a terminal the line is redrawn in place; in a log it is printed every ten seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

CLEAR = "\r\x1b[K"  # back to the line's beginning, and wipe it


def speaks() -> bool:
    """Of many processes of one run (`torchrun`), the first alone speaks."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """One line for people, on standard error, so that standard output stays data."""
    if speaks():
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people write them: `8s`, `3m20s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """Counts units of one stage, `total` where known; a context manager: `step`, or `reach`.

    `pace` says whether units a second are shown; a note may hold a better measure.
    """

    def __init__(
        self, stage: str, total: int | None, unit: str, done: int = 0, *, pace: bool = True
    ) -> None:
        self.stage, self.total, self.unit, self.pace = stage, total, unit, pace
        self.done = self.first = done
        self.note: str | Callable[[], str] = ""
        self.started = self.shown = time.monotonic()
        self.live = speaks() and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        finished = kind is None and self.done > self.first
        if finished or (self.live and kind):
            self._show(final=True)

    def step(self, count: int = 1, note: str | Callable[[], str] = "") -> None:
        """`count` more units are done; `note`, or what it makes, is shown beside the figures."""
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.shown >= (0.2 if self.live else 10.0):
            self.shown = now
            self._show()

    def reach(self, done: int, note: str = "") -> None:
        """As many units are done in all."""
        self.step(done - self.done, note)

    def say(self, text: str) -> None:
        """Lines that stay, above the line that is redrawn."""
        say(CLEAR + text if self.live else text)
        if self.live and self.done > self.first:
            self._show()

    def _show(self, final: bool = False) -> None:
        elapsed = max(time.monotonic() - self.started, 1e-6)
        rate = (self.done - self.first) / elapsed
        whole = "" if self.total is None else f"/{self.total:,}"
        text = f"  {self.stage}: {self.done:,}{whole} {self.unit}"
        if self.pace:
            text += f", {f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'}/s"
        if final:
            text += f", took {duration(elapsed)}"
        elif rate > 0 and self.total is not None:
            text += f", {duration((self.total - self.done) / rate)} left"
        if note := self.note if isinstance(self.note, str) else self.note():
            text += f", {note}"
        if self.live:
            end = "\n" if final else ""
            shown = text if final else text[: _columns() - 1]  # a wrapped line is not redrawn
            print(f"{CLEAR}{shown}", end=end, file=sys.stderr, flush=True)
        else:
            say(text)


def _columns() -> int:
    """Width of the terminal; much where nobody knows."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 1000
    except (OSError, ValueError):
        return 1000
