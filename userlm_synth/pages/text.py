"""Numbers for readers, and texts of strangers as text that any browser can show."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

LONGEST = 200_000  # characters of a text that a page holds
#: A piece of a long run; `visible` leaves no NUL in a text, so a NUL can mark its end.
UNBROKEN = re.compile(r"\S{200,399}?(?=\w)|\S{400}")
#: Control characters as their pictures (U+2400 ff.); tab and line feed stay.
PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}


def visible(text: Any) -> str:
    """Text that UTF-8 and HTML can hold: control characters as pictures, the very long cut."""
    plain = str(text).replace("\r\n", "\n").encode("utf-8", "replace").decode("utf-8")
    if len(plain) > LONGEST:
        plain = f"{plain[:LONGEST]}\n[{len(plain) - LONGEST:,} more characters in the file]"
    return plain.translate(PICTURES)


def printable(text: Any) -> str:
    """One line of text: white space as spaces, and what else no terminal shows (controls, what
    turns the direction) as U+FFFD."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in str(text))


def breakable(text: Any) -> Any:
    """`visible` text as markup, with a <wbr> every few hundred characters of an unbroken run.

    Browsers take half a minute to wrap one word of 100,000 characters, and a third of a second
    to wrap it in pieces. A piece never ends before a combining mark if it can end elsewhere.
    """
    from markupsafe import Markup

    pieces = UNBROKEN.sub(lambda run: f"{run[0]}\0", visible(text)).split("\0")
    return Markup("<wbr>").join(pieces)


def number(value: float | int | None) -> str:
    """A number for readers: three digits or more, a true minus sign, a dash where there is none."""
    if value is None:
        return "\u2013"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{1 if value == 0 or abs(value) >= 9.995 else 2}f}".replace("-", "\u2212")


def signed(value: float) -> str:
    """A difference, always with its sign."""
    return number(value) if value < 0 else f"+{number(value)}"


def size(count: int) -> str:
    """Bytes in the unit that makes them short: 980 bytes, 2.93 kB, 3.10 GB (powers of 1,000)."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < 4:
        value, unit = value / 1000, unit + 1
    if unit:
        return f"{number(value)} {('kB', 'MB', 'GB', 'TB')[unit - 1]}"
    return f"{count} byte{'s' if count != 1 else ''}"


def listed(names: Iterable[str], most: int = 3) -> list[str]:
    """The first names for a sentence, and how many more there are."""
    every = list(names)
    return every[:most] + ([f"{len(every) - most} more"] if len(every) > most else [])


def shares(counts: list[int]) -> list[float]:
    """Counts as percent of their sum; all 0 where there is nothing."""
    total = sum(counts)
    return [100 * count / total if total else 0.0 for count in counts]
