"""A share counted over all records: sums that merge exactly, and an interval without resampling.

    share = scale x sum of parts / sum of wholes, one pair of counts a conversation

The interval is the ratio estimator's (Cochran 1977, chapter 6): with r the ratio, the variance is
n / (n - 1) x sum (part - r whole)^2 / (sum of wholes)^2, and 1.96 standard errors go either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from userlm_synth.records import Record

Z = 1.959964  # standard errors of a 95 % interval


@dataclass
class Share:
    """Sums over conversations, of parts and wholes and of their squares and products."""

    n: int = 0
    part: int = 0
    whole: int = 0
    part2: int = 0
    product: int = 0
    whole2: int = 0
    having: int = 0  # conversations with any part

    def add(self, part: int, whole: int) -> None:
        """One conversation; one without a whole says nothing."""
        if whole:
            self.n += 1
            self.having += part > 0
            self.part += part
            self.whole += whole
            self.part2 += part * part
            self.product += part * whole
            self.whole2 += whole * whole

    def merge(self, later: Share) -> None:
        """The sums of both: whole numbers, so exact in any order."""
        for name, value in vars(later).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def ratio(self) -> float:
        """Sum of parts / sum of wholes; 0 of nothing."""
        return self.part / self.whole if self.whole else 0.0

    @property
    def error(self) -> float:
        """The standard error of the ratio; 0 where a single conversation cannot say."""
        if self.n < 2:
            return 0.0
        squares = self.part2 - 2 * self.ratio * self.product + self.ratio**2 * self.whole2
        return math.sqrt(max(squares, 0.0) * self.n / (self.n - 1)) / self.whole

    def side(self, scale: float = 100) -> dict[str, float] | None:
        """{value, low, high}, None where there is nothing to count; never below 0."""
        if not self.whole:
            return None
        value, width = scale * self.ratio, scale * Z * self.error
        return {"value": value, "low": max(value - width, 0.0), "high": value + width}


def beside(made: Share, people: Share | None, scale: float = 100) -> Record:
    """{made: {value, low, high}|null, people: same|null, difference: same|null, beyond_chance:
    bool|null, having: conversations with any part, n: conversations}: two independent samples, so
    their variances add."""
    one = made.side(scale)
    other = people.side(scale) if people else None
    difference = beyond = None
    if one and other and people:
        value = one["value"] - other["value"]
        width = scale * Z * math.hypot(made.error, people.error)
        difference = {"value": value, "low": value - width, "high": value + width}
        beyond = abs(value) > width and min(made.n, people.n) > 1
    return {
        "made": one,
        "people": other,
        "difference": difference,
        "beyond_chance": beyond,
        "having": made.having,
        "n": made.n,
    }
