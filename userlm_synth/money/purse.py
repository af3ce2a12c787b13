"""A budget that is never passed.

Before a request, what is spent, the most that the requests under way may still cost and the most
that this one may cost have to fit into the budget together.
"""

from __future__ import annotations

import asyncio

#: The recipe's field of each budget of a run of dialogues.
BUDGETS = {
    "user": "generate.budget_user",
    "assistant": "assistant.budget",
    "all": "generate.budget",
}


class BudgetUsedUp(Exception):
    """The next request might pass the budget, and none under way can set anything free.

    `side` says whose budget: "user", "assistant", or "all" of both.
    """

    def __init__(self, side: str = "all", budget: float = 0.0) -> None:
        super().__init__(f"{BUDGETS[side]}: ${budget:g} has no room for another request (raise it)")
        self.side = side


class Purse:
    """A budget in USD (None: no limit) and what is spent of it."""

    def __init__(self, budget: float | None, spent: float) -> None:
        self.budget, self.spent = budget, spent
        self.under_way: list[float] = []  # the most that each open request may cost
        self.changed = asyncio.Event()

    async def reserve(self, most: float) -> None:
        """Wait until a request of at most this cost fits; `BudgetUsedUp` when it never will."""
        while self.budget is not None and self.spent + sum(self.under_way) + most > self.budget:
            if not self.under_way:
                raise BudgetUsedUp
            self.changed.clear()
            await self.changed.wait()
        self.under_way.append(most)

    def settle(self, most: float, cost: float) -> None:
        """A request is done: what it did cost takes the place of what it might have."""
        self.under_way.remove(most)
        self.spent += cost
        self.changed.set()
