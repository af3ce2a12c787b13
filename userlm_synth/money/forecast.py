"""What the rest of a run will cost, said while it runs and before it (`--estimate N`)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from userlm_synth.money.price import Price
from userlm_synth.progress import duration

Usage = Mapping[str, Mapping[str, int]]  # by side: prompt_tokens, completion_tokens, cached_tokens

#: 97.5 % quantiles: of the normal distribution, and of Student's t with 1 to 4 degrees of freedom.
NORMAL = 1.959964
STUDENT = (12.7062, 4.30265, 3.18245, 2.77645)


def usd(amount: float) -> str:
    """`$123`, `$1.23`, `$0.0042`: cents, or two digits where it is less."""
    if amount >= 1000:
        return f"${amount:,.0f}"
    if amount >= 0.1 or amount == 0:
        return f"${amount:.2f}"
    return f"${amount:.{min(9, 1 - math.floor(math.log10(amount)))}f}"


def about(amount: float) -> str:
    """A guess, without cents from $100 on."""
    return f"${amount:,.0f}" if amount >= 100 else usd(amount)


@dataclass(frozen=True)
class Forecast:
    """`done` of `total` dialogues cost `spent` (USD by side) and `tokens` (prompt, completion).

    `live` dialogues are under way; each is taken as half done.
    """

    done: int
    total: int
    spent: Mapping[str, float]
    tokens: Mapping[str, Mapping[str, int]]
    live: int = 0

    @property
    def in_all(self) -> float | None:
        """USD for all dialogues; None before the first one is done."""
        if not self.done:
            return None
        held = min(self.done + self.live / 2, self.total)
        return sum(self.spent.values()) / held * self.total

    @property
    def left(self) -> float | None:
        """USD for what is not done yet."""
        whole = self.in_all
        return None if whole is None else max(whole - sum(self.spent.values()), 0.0)

    @property
    def line(self) -> str:
        """For the live line: money, or tokens where nothing has a price."""
        spent = sum(self.spent.values())
        if not spent:
            count = sum(kinds["prompt"] + kinds["completion"] for kinds in self.tokens.values())
            return f"{count:,} tokens"
        sides = ", ".join(f"{side} {usd(amount)}" for side, amount in self.spent.items())
        text = f"spent {usd(spent)} ({sides})"
        if self.in_all is not None and self.left is not None:
            text += f", about {about(self.in_all)} in all, {usd(self.left)} left"
        return text


@dataclass(frozen=True)
class Estimate:
    """What `held` dialogues say about `rest` more; USD. None where one dialogue says nothing."""

    held: int
    rest: int
    mean: float  # a dialogue
    mean_off: float | None  # half of its 95 % interval
    cost: float  # of the rest
    cost_off: float | None
    seconds: float | None  # for the rest
    unpriced: Sequence[str] = ()  # sides whose cost nobody knows

    @property
    def line(self) -> str:
        """One line, to be asked about."""
        took = "" if self.seconds is None else f" and take about {duration(self.seconds)}"
        each = f"{usd(self.mean)} each{_between(self.mean, self.mean_off)}"
        held = "1 dialogue cost" if self.held == 1 else f"{self.held:,} dialogues cost"
        text = (
            f"{held} {each}; {self.rest:,} more cost about {about(self.cost)}"
            f"{_between(self.cost, self.cost_off)}{took}"
        )
        for side in self.unpriced:
            text += f"; the {side}'s model has no price and is not in this"
        return text


def _between(middle: float, off: float | None) -> str:
    if not off:
        return ""
    return f" (95 %: {about(max(middle - off, 0.0))} to {about(middle + off)})"


def estimate(
    held: Sequence[Usage],
    prices: Mapping[str, Price | None],
    rest: int,
    seconds: float | None = None,
    concurrency: int = 1,
) -> Estimate:
    """The cost and time of `rest` more dialogues like those held, rejected ones among them.

    The intervals are Student's: of the mean, and of the sum of `rest` more draws. `seconds` is
    what those held took; where they were fewer than `concurrency`, more at once are taken to be
    as fast.
    """
    costs = [_cost(usage, prices) for usage in held]
    n, mean = len(costs), statistics.fmean(costs)
    mean_off = cost_off = None
    if n > 1:
        spread = student(n - 1) * statistics.stdev(costs)
        mean_off = spread / math.sqrt(n)
        cost_off = spread * math.sqrt(rest * rest / n + rest)
    time = None if seconds is None else seconds * rest / max(n, min(concurrency, rest))
    unpriced = [side for side, price in prices.items() if price is None]
    return Estimate(n, rest, mean, mean_off, mean * rest, cost_off, time, unpriced)


def _cost(usage: Usage, prices: Mapping[str, Price | None]) -> float:
    return sum(
        price.usd(one["prompt_tokens"], one["completion_tokens"], one.get("cached_tokens", 0))
        for side, one in usage.items()
        if (price := prices[side]) is not None
    )


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, within 0.2 % (Cornish-Fisher; Abramowitz 26.7.5)."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z, v = NORMAL, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
