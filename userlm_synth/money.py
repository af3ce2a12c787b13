"""What requests cost, and a budget that is never passed.

Before a request, what is spent, the most that the requests under way may still cost and the most
that this one may cost have to fit into the budget together.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from userlm_synth.errors import UserError

#: Tokens that a server's chat template may add to a prompt.
TEMPLATE_TOKENS = 100


@dataclass(frozen=True)
class Price:
    """USD a million tokens, read and written."""

    read: float
    written: float

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The cost of one request."""
        return (prompt_tokens * self.read + completion_tokens * self.written) / 1e6


def most_tokens(text: str) -> int:
    """The most tokens a prompt can have: byte-level tokenizers make at most one of each byte."""
    return len(text.encode()) + TEMPLATE_TOKENS


def parse_price(text: str) -> tuple[float, float]:
    """`0.15/0.60` -> USD a million tokens read and written."""
    found = re.fullmatch(r"\$?(\d+\.?\d*|\.\d+)/\$?(\d+\.?\d*|\.\d+)", text.strip())
    if not found:
        raise UserError(
            f"--price {text}: write USD a million tokens read and written, as in 0.15/0.60"
        )
    return float(found[1]), float(found[2])


def price_of(budget: float | None, read: float | None, written: float | None) -> Price | None:
    """The price, if there is one; a budget without one means nothing."""
    if read is not None and written is not None:
        return Price(read, written)
    if budget is not None or read is not None or written is not None:
        raise UserError(
            "a budget needs the model's price, in USD a million tokens read and written: "
            "--price 0.15/0.60 (in a recipe: intents.price_in and intents.price_out)"
        )
    return None


class BudgetUsedUp(Exception):
    """The next request might pass the budget, and none under way can set anything free."""


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
