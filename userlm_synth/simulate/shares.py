"""Budgets over many machines: each worker spends what it was granted, and asks for more.

A grant counts as under way in the folder's bill before the worker may spend it, so the budgets
are never passed in all, whatever dies. Workers ask a little ahead and give back what they do not
need, so that none has to wait for a grant and little is counted as spent where one dies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from userlm_synth.money import Bill, BudgetUsedUp
from userlm_synth.money.bill import SIDES
from userlm_synth.records import Record

SLOWER = 0.9  # how fast what a worker asks ahead shrinks, from one report to the next


class Share(Bill):
    """A worker's part of the budgets, in memory."""

    def __init__(self) -> None:
        super().__init__(None, {})
        self.granted = dict.fromkeys(SIDES, 0.0)  # so far, less what was given back
        self.waiting: dict[str, list[float]] = {side: [] for side in SIDES}
        self.pace = dict.fromkeys(SIDES, 0.0)  # what goes out between two reports
        self.told = dict.fromkeys(SIDES, 0.0)  # of what is spent
        self.committed = dict.fromkeys(SIDES, 0.0)  # spent and under way, at the last report
        self.told_tokens: dict[str, dict[str, int]] = {side: {} for side in SIDES}
        self.closed = False

    async def reserve(self, side: str, most: float) -> None:
        """Wait until a request of at most this cost was granted; `BudgetUsedUp` once `closed`."""
        self.waiting[side].append(most)
        try:
            while self._free(side) < most:
                if self.closed:
                    raise BudgetUsedUp(side)
                self.changed.clear()
                await self.changed.wait()
        finally:
            self.waiting[side].remove(most)
        await super().reserve(side, most)

    def _free(self, side: str) -> float:
        return self.granted[side] - self.spent[side] - self.under_way[side]

    def grant(self, amounts: Mapping[str, float]) -> None:
        """More may be spent: USD by side."""
        for side, amount in amounts.items():
            self.granted[side] += amount
        self.changed.set()

    def close(self) -> None:
        """Nothing more is asked for, and who waits is refused."""
        self.closed = True
        self.changed.set()

    def report(self) -> Record:
        """By side: USD spent and tokens since the last report, USD asked for, the least of it that
        helps, and USD given back."""
        return {side: self._side(side) for side in SIDES}

    def _side(self, side: str) -> Record:
        spent, tokens = self.spent[side], dict(self.tokens[side])
        committed = spent + self.under_way[side]
        used = max(committed - self.committed[side], 0.0)
        self.pace[side] = max(used, self.pace[side] * SLOWER)
        made = {
            "spent": spent - self.told[side],
            "tokens": {kind: n - self.told_tokens[side].get(kind, 0) for kind, n in tokens.items()},
            **self._wishes(side),
        }
        self.told[side], self.told_tokens[side], self.committed[side] = spent, tokens, committed
        return made

    def _wishes(self, side: str) -> dict[str, float]:
        waiting, free = self.waiting[side], max(self._free(side), 0.0)
        if self.closed:
            back, ahead = free, 0.0
        elif waiting:  # with nothing under way, several workers' leavings may make one request
            back, ahead = (0.0 if self.requests[side] else free), sum(waiting) + self.pace[side]
        else:
            back, ahead = max(free - 2 * self.pace[side], 0.0), self.pace[side]
        self.granted[side] -= back
        free -= back
        least = max(min(waiting) - free, 0.0) if waiting and not self.closed else 0.0
        return {"back": back, "ask": max(ahead - free, 0.0), "least": least}


class Till(Bill):
    """The folder's bill, from which workers are granted their shares."""

    def __init__(self, path: Path | None, budgets: Mapping[str, float | None]) -> None:
        self.held: dict[str, dict[str, float]] = {}  # granted and not spent, by worker and side
        super().__init__(path, budgets)

    def book(self, worker: str, report: Record) -> None:
        """Count what a worker spent, and take what it gives back."""
        held = self.held.setdefault(worker, dict.fromkeys(SIDES, 0.0))
        for side, said in report.items():
            self.spent[side] += said["spent"]
            held[side] = max(held[side] - said["spent"] - said["back"], 0.0)
            self._add_up(side)
            tokens = said["tokens"]
            self.count(side, tokens["prompt"], tokens["completion"], tokens["cached"])
        self._write()

    def grant(self, worker: str, report: Record) -> dict[str, float]:
        """As much of what a worker asks for as fits; `BudgetUsedUp` where what it waits for never
        will."""
        granted = {}
        for side, said in report.items():
            granted[side] = self._granted(side, said["ask"], said["least"])
            self.held[worker][side] += granted[side]
            self._add_up(side)
        self._write()
        return granted

    def _granted(self, side: str, ask: float, least: float) -> float:
        if least and not self._fits(side, least):
            return 0.0
        room = [ask]
        for name, budget in self.limits[side]:
            who = SIDES if name == "all" else (side,)
            room.append(budget - sum(self.spent[one] + self.under_way[one] for one in who))
        return max(min(room), 0.0)

    def _add_up(self, side: str) -> None:
        self.under_way[side] = sum(one[side] for one in self.held.values())

    def leave(self, worker: str) -> None:
        """A worker has ended, and has given back what it had."""
        del self.held[worker]
        for side in SIDES:
            self._add_up(side)
        self._write()

    def lose(self, worker: str) -> float:
        """A worker died: what it might have spent counts as spent. Returns that, in USD."""
        held = self.held.pop(worker, {})
        for side, amount in held.items():
            self.spent[side] += amount
            self._add_up(side)
        self._write()
        return sum(held.values())
