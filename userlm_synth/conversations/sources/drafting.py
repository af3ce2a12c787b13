"""What the forms share: turns out of a list, text out of a content, metadata that JSON can hold."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from userlm_synth.records import Record

Draft = Record  # one conversation before cleaning, in the fields of a conversation record

#: What the sides are called, in OpenAI's and ShareGPT's chats and their many relatives.
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "function_response", "observation"), "tool"),
    "function_call": "assistant",
}  # fmt: skip


class BadRow(ValueError):
    """A row that has not the form it should have: `messages[2].content: ...`, in one line."""


def draft(
    id: str,
    source: str,
    messages: list[Record],
    *,
    user_id: str | None = None,
    language: str | None = None,
    intent: str | None = None,
    persona: str | None = None,
    metadata: Any,
) -> Draft:
    """A draft with every field."""
    return {
        "id": id,
        "source": source,
        "user_id": user_id,
        "language": language,
        "intent": intent,
        "persona": persona,
        "messages": messages,
        "metadata": plain(metadata),
    }


def turns(
    value: Any,
    where: str,
    roles: Mapping[str, str] = ROLES,
    role: str = "role",
    content: str = "content",
) -> list[Record]:
    """`[{role, content}]` out of a list of turns; raises BadRow at what has not that form."""
    if not isinstance(value, (list, tuple)):
        raise BadRow(f"{where}: is a list of turns, not {kind(value)}")
    messages = []
    for place, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise BadRow(f"{where}[{place}]: is a turn (an object), not {kind(turn)}")
        said = turn.get(role)
        side = roles.get(said) or roles.get(said.lower()) if isinstance(said, str) else None
        if side is None:
            sides = dict.fromkeys(roles.values() if roles is ROLES else roles)
            shown = f"{said!r:.40} is not one of {', '.join(sides)}"
            shown = shown if role in turn else "is missing"
            raise BadRow(f"{where}[{place}].{role}: {shown}")
        said = turn.get(content)
        if not isinstance(said, str):
            if said is None and content not in turn and side != "assistant":
                raise BadRow(f"{where}[{place}].{content}: is missing")
            said = text(said, f"{where}[{place}].{content}")
        messages.append({"role": side, "content": said})
    return messages


def text(value: Any, where: str) -> str:
    """Text, or the text parts of a list of content parts (others are pictures, sound, ...).

    Null is empty text: an assistant's turn that only calls a tool.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRow(f"{where}: is text or a list of parts, not {kind(value)}")
    parts = [part.get("text") if isinstance(part, dict) else part for part in value]
    return "\n".join(part for part in parts if isinstance(part, str))


def optional_text(row: Record, key: str) -> str | None:
    """A field that is text or null; empty text is null."""
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise BadRow(f"{key}: is text or null, not {kind(value)}")


def name(row: Record, *keys: str) -> str | None:
    """The first of some ids that is there, as text; ids may be numbers."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, float):  # an integer beyond 64 bits has lost digits by now
            raise BadRow(f"{key}: is a number that is not whole or is too large; make it text")
        if value is not None and value != "":
            raise BadRow(f"{key}: is text, a number or null, not {kind(value)}")
    return None


def known(row: Record, keys: Iterable[str]) -> Record:
    """Those of the fields that are there and not null."""
    return {key: row[key] for key in keys if row.get(key) is not None}


def kind(value: Any) -> str:
    """A value's type in JSON's words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else "other data")


def plain(value: Any) -> Any:
    """The same in JSON's types: times as ISO 8601, no NaN; Parquet's tables hold others."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return plain(float(value))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
