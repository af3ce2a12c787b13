"""The price of a model, and the most tokens that a prompt can have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from userlm_synth.errors import UserError

#: Tokens that a server's chat template may add to a prompt.
TEMPLATE_TOKENS = 100


@dataclass(frozen=True)
class Price:
    """USD a million tokens, read, written and (None: as `read`) read from a prompt cache."""

    read: float
    written: float
    cached: float | None = None

    def usd(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """The cost of one request; the cached tokens are among those of the prompt."""
        usd = prompt_tokens * self.read + completion_tokens * self.written
        if cached_tokens and self.cached is not None:
            usd -= min(cached_tokens, prompt_tokens) * (self.read - self.cached)
        return usd / 1e6


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
