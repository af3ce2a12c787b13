"""What every detector yields."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One piece of personal data or one secret: text[start:end] is of this kind."""

    kind: str
    start: int
    end: int
