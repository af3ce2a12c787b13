"""Texts of strangers in Markdown: as text, in one line or in a fence, whatever is in them."""

from __future__ import annotations

import re
from typing import Any

from userlm_synth.pages import visible

#: What turns the direction of the rest of a line.
TURNS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~$])")


def shown(text: Any) -> str:
    """Text without invisible commands: what turns the direction stands there as `\\u202e`."""
    return TURNS.sub(lambda one: f"\\u{ord(one[0]):04x}", visible(text))


def plain(text: Any) -> str:
    """One line that Markdown and HTML take for text, in a table's cell too."""
    line = " ".join(shown(text).split())
    escaped = SPECIAL.sub(r"\\\1", line).replace("&", "&amp;")
    # an address is no link of ours
    return re.sub(r"(\bhttps?|\bwww)([:.])", lambda one: f"{one[1]}&#{ord(one[2])};", escaped)


def code(text: Any) -> str:
    """One line as code, in a table's cell too."""
    line = " ".join(shown(text).split()).replace("`", "'")
    line = re.sub(r"(\\?)\|", lambda one: f"{one[1]}{' ' if one[1] else ''}\\|", line)
    return f"`{line}`" if line else ""


def fenced(text: Any, language: str = "") -> str:
    """A block of code that its text cannot leave: the fence is longer than any run in it."""
    body = shown(text)
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def link(text: Any, address: str | None) -> str:
    """A link where there is an address that can stand in one."""
    if address and re.fullmatch(r"https://[\w./%@~+#?=&:-]+", address):
        return f"[{plain(text)}]({address})"
    return plain(text)
