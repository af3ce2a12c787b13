"""What a dialogues folder has cost, kept through kills, and budgets that are never passed.

`bill.json` is one padded line, overwritten in place before a request is sent and after it was
answered: a process that is killed leaves behind what it had spent and what was under way.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from userlm_synth.errors import UserError, explain_disk_full
from userlm_synth.money.purse import BudgetUsedUp
from userlm_synth.progress import say

SIDES = ("user", "assistant")
KINDS = ("prompt", "completion", "cached")
WIDTH = 512  # bytes of the line: one sector of a disk, and more than the largest numbers take
PAUSE = 0.25  # seconds between two writes where only tokens are counted


class Bill:
    """USD spent and under way, and tokens, by side; `budgets` (USD) by side and for "all".

    `path` None keeps it in memory. Raises `UserError` for a file that is no bill.
    """

    def __init__(self, path: Path | None, budgets: Mapping[str, float | None]) -> None:
        self.path = path
        self.spent = dict.fromkeys(SIDES, 0.0)
        self.under_way = dict.fromkeys(SIDES, 0.0)  # the most that the open requests may cost
        self.tokens = {side: dict.fromkeys(KINDS, 0) for side in SIDES}
        limits = {name: budget for name, budget in budgets.items() if budget is not None}
        self.limits = {
            side: [(name, limits[name]) for name in (side, "all") if name in limits]
            for side in SIDES
        }
        self.requests = dict.fromkeys(SIDES, 0)  # open ones
        self.changed = asyncio.Event()
        self.written = 0.0
        self.file = -1
        if path is not None:
            self._open(path)

    def __enter__(self) -> Bill:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: Path) -> None:
        with explain_disk_full(path):
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            line = os.pread(self.file, 4 * WIDTH, 0)
            if line:  # empty: killed before anything was asked
                self._read(path, line)
            self._write()
        except BaseException:
            os.close(self.file)
            self.file = -1
            raise

    def _read(self, path: Path, line: bytes) -> None:
        try:
            found = orjson.loads(line)
            spent, lost = _amounts(found["spent"]), _amounts(found["under_way"])
            tokens = {side: _counts(found["tokens"][side]) for side in SIDES}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: is not a bill that this version can read ({error!r}); put back a copy, "
                "or remove it to count from $0 again"
            ) from None
        self.tokens = tokens
        self.spent = {side: spent[side] + lost[side] for side in SIDES}
        if any(lost.values()):
            say(
                f"  {path.name}: requests of up to ${sum(lost.values()):,.4f} were under way when "
                "the last run was killed; they may have been billed and count as spent"
            )

    @property
    def total(self) -> float:
        """USD spent by both sides."""
        return self.spent["user"] + self.spent["assistant"]

    async def reserve(self, side: str, most: float) -> None:
        """Wait until a request of at most this cost fits; `BudgetUsedUp` when it never will."""
        while not self._fits(side, most):
            self.changed.clear()
            await self.changed.wait()
        self.under_way[side] += most
        self.requests[side] += 1
        self._write()

    def _fits(self, side: str, most: float) -> bool:
        for name, budget in self.limits[side]:
            who = SIDES if name == "all" else (side,)
            spent = sum([self.spent[one] for one in who])
            if spent + most > budget:
                raise BudgetUsedUp(name, budget)
            if spent + sum([self.under_way[one] for one in who]) + most > budget:
                return False
        return True

    def settle(self, side: str, most: float, cost: float) -> None:
        """A request is done: what it did cost takes the place of what it might have."""
        self.requests[side] -= 1
        # The sum of none is 0: rounding must not pile up.
        self.under_way[side] = self.under_way[side] - most if self.requests[side] else 0.0
        self.spent[side] += cost
        self._write()
        self.changed.set()

    def count(self, side: str, prompt: int, completion: int, cached: int) -> None:
        """Tokens of an answer; they are on the disk after a quarter of a second, or `settle`."""
        tokens = self.tokens[side]
        tokens["prompt"] += prompt
        tokens["completion"] += completion
        tokens["cached"] += cached
        if self.file >= 0 and time.monotonic() - self.written > PAUSE:
            self._write()

    def _write(self) -> None:
        if self.file < 0:
            return
        state = {"spent": self.spent, "under_way": self.under_way, "tokens": self.tokens}
        try:
            os.pwrite(self.file, orjson.dumps(state).ljust(WIDTH - 1) + b"\n", 0)
        except OSError as error:
            assert self.path
            with explain_disk_full(self.path):
                raise error
        self.written = time.monotonic()

    def close(self) -> None:
        """Bring the bill to the disk, for good. It can be called twice."""
        if self.file < 0:
            return
        try:
            self._write()
            os.fsync(self.file)
        finally:
            os.close(self.file)
            self.file = -1


def _amounts(found: Any) -> dict[str, float]:
    return {side: float(_checked(found[side], (int, float))) for side in SIDES}


def _counts(found: Any) -> dict[str, int]:
    return {kind: int(_checked(found[kind], int)) for kind in KINDS}


def _checked(found: Any, kind: Any) -> Any:
    if isinstance(found, bool) or not isinstance(found, kind) or not 0 <= found < math.inf:
        raise ValueError(f"{found!r} is no amount")
    return found
