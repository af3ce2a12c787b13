"""The detectors together: one pass over a text, overlaps joined, placeholders put in.

Each detector is behind a cheap test for something that its findings cannot be without, so that a
message with nothing in it costs a few microseconds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from operator import setitem
from typing import Any

from userlm_synth.privacy import keys, labelled, numbers, phones
from userlm_synth.privacy.finding import Finding

#: Every placeholder there is, without its brackets. A joined finding takes the earliest here.
KINDS = (
    *keys.KINDS, "URL_CREDENTIALS", "EMAIL", "IBAN", "CARD", "PHONE", "IP", *labelled.KINDS,
)  # fmt: skip
RANKS = {kind: rank for rank, kind in enumerate(KINDS)}
#: Fields of a record that hold text beside its messages.
FIELDS = ("intent", "persona", "user_model", "assistant_model", "metadata")

# Letters of scripts that put spaces between words; others would glue a sentence to an address.
LETTER = "0-9A-Za-z\u00c0-\u024f\u0370-\u052f"
#: Top-level domains: all of two letters, and the usual longer ones (`a@layer.weights` is code).
DOMAINS = (
    "academy|agency|app|asia|berlin|biz|blog|cafe|care|cat|center|chat|city|cloud|club|coach|com|"
    "company|consulting|coop|design|dev|digital|edu|education|email|energy|expert|family|finance|"
    "fund|fyi|global|gmbh|gov|group|guru|health|help|host|info|ink|institute|int|jobs|law|legal|"
    "life|link|live|london|love|ltd|media|mil|mobi|money|museum|name|net|network|news|ngo|ninja|"
    "nyc|one|online|org|page|paris|partners|plus|press|pro|pub|science|services|shop|site|social|"
    "software|solutions|space|store|studio|support|systems|team|tech|technology|tel|today|tools|"
    "top|travel|university|vip|website|wien|wiki|work|works|world|xyz|zone|рф|бел|срб|укр|[a-z]{2}"
)
EMAIL = re.compile(
    rf"(?<![{LETTER}_])(?!git@)[{LETTER}_][{LETTER}_.%+'-]{{0,63}}@"
    rf"(?:[{LETTER}-]{{1,63}}\.){{1,8}}(?i:{DOMAINS})(?![{LETTER}_@-]|\.[{LETTER}])"
)
URL_LOGIN = re.compile(r"://([^\s/?#:@\"'<>]{0,256}:[^\s/?#@\"'<>]{1,256})@(?=[\w\[])")
NO_LOGIN = re.compile(r"(?i):(?:[$%{*<].*|x+|pass(?:word|wd)?|pwd|secret|token|\.+|your.*)$")
#: Five digits close together: none of phone, card, account or address can be without.
DIGITS = re.compile(r"\d(?:[ ().\-/\u00a0\u2010-\u2013]{0,3}\d){4}")


def find(text: str) -> list[Finding]:
    """Personal data and secrets of `text`, in order, without overlap."""
    found: list[Finding] = []
    if "@" in text:
        found += _addresses(text)
    if DIGITS.search(text):
        found += numbers.cards(text)
        found += numbers.ipv4(text)
        found += phones.phones(text)
    found += numbers.ibans(text)
    if ":" in text:
        found += numbers.ipv6(text)
    found += keys.keys(text)
    found += labelled.labelled(text)
    return _joined(found) if found else found


def _addresses(text: str) -> Iterator[Finding]:
    """E-mail addresses, and user:password before a host, which is no address."""
    logins = list(URL_LOGIN.finditer(text)) if "://" in text else []
    for match in logins:
        if not NO_LOGIN.search(match[1]):
            yield Finding("URL_CREDENTIALS", *match.span(1))
    hosts = {match.end() for match in logins}
    for match in EMAIL.finditer(text):
        if text.index("@", match.start()) + 1 not in hosts:
            yield Finding("EMAIL", *match.span())


def _joined(found: list[Finding]) -> list[Finding]:
    """Overlapping findings as one, of the kind that is known best."""
    out: list[Finding] = []
    for one in sorted(found, key=lambda finding: finding.start):
        if out and one.start < out[-1].end:
            last = out.pop()
            kind = min(last.kind, one.kind, key=RANKS.__getitem__)
            one = Finding(kind, last.start, max(last.end, one.end))
        out.append(one)
    return out


def redact(text: str) -> tuple[str, Counter[str]]:
    """The text with a placeholder such as [EMAIL] for each finding, and their number by kind.

    Again until nothing is found: what stood against a secret may be one itself. Each round has
    fewer characters outside of placeholders, and no detector finds anything in a placeholder.
    """
    counts: Counter[str] = Counter()
    while found := find(text):
        pieces: list[str] = []
        end = 0
        for one in found:
            pieces += (text[end : one.start], f"[{one.kind}]")
            end = one.end
        text = "".join((*pieces, text[end:]))
        counts.update(one.kind for one in found)
    return text, counts


def _texts(record: dict[str, Any]) -> Iterator[tuple[str, str, Callable[[str], None]]]:
    """Where, what, and how to replace it, of every text in a conversation record."""
    for number, message in enumerate(record["messages"]):
        yield f"messages[{number}]", message["content"], partial(setitem, message, "content")
    for field in FIELDS:
        yield from _inside(field, record, field) if record.get(field) else ()


def _inside(path: str, owner: Any, key: Any) -> Iterator[tuple[str, str, Callable[[str], None]]]:
    """The strings at and below owner[key]."""
    value = owner[key]
    if isinstance(value, str):
        yield path, value, partial(setitem, owner, key)
    elif isinstance(value, dict):
        for name in value:
            yield from _inside(f"{path}.{name}", value, name)
    elif isinstance(value, list):
        for number in range(len(value)):
            yield from _inside(f"{path}[{number}]", value, number)


def find_in_record(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(place, kind, what was found) in a conversation record; places are "messages[2]", ..."""
    return [
        (place, one.kind, text[one.start : one.end])
        for place, text, _ in _texts(record)
        for one in find(text)
    ]


def redact_record(record: dict[str, Any]) -> Counter[str]:
    """Redact the texts of a conversation record in place; returns the number by kind."""
    counts: Counter[str] = Counter()
    for _, text, put in _texts(record):
        clean, found = redact(text)
        if found:
            put(clean)
            counts += found
    return counts
