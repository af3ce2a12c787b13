"""A table of one's own, by `conversations.columns`: a list of turns, or a prompt and a response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from userlm_synth.conversations.sources.catalogue import row_id, source_label
from userlm_synth.conversations.sources.drafting import (
    BadRow,
    Draft,
    draft,
    known,
    name,
    optional_text,
    text,
    turns,
)
from userlm_synth.records import Record, parse_json

if TYPE_CHECKING:
    from userlm_synth.recipe import Columns, Conversations


def own_columns(row: Record, settings: Conversations, file: str, number: int) -> Iterator[Draft]:
    """A table of one's own; columns that are not named go to metadata."""
    columns = settings.columns
    if columns is None or not (columns.messages or columns.prompt):
        raise BadRow("conversations.columns names neither messages nor a prompt")
    found = {
        field: inside(row, path)
        for field in ("id", "user_id", "language", "country", "intent", "persona")
        if (path := getattr(columns, field))
    }
    used = {path.split(".")[0] for path in vars(columns).values() if isinstance(path, str)}
    rest = {key: value for key, value in row.items() if key not in used and value is not None}
    yield draft(
        name(found, "id") or row_id(settings, file, number),
        source_label(settings.source, file, "columns"),
        own_turns(row, columns),
        user_id=name(found, "user_id"),
        language=optional_text(found, "language"),
        intent=optional_text(found, "intent"),
        persona=optional_text(found, "persona"),
        metadata={**rest, **known(found, ("country",))},
    )


def own_turns(row: Record, columns: Columns) -> list[Record]:
    """The messages of a row: out of a list (or one as JSON text), or out of two columns."""
    if not columns.messages:
        sides = {"user": columns.prompt, "assistant": columns.response}
        return [
            {"role": side, "content": text(inside(row, path), path)}
            for side, path in sides.items()
            if path
        ]
    value = inside(row, columns.messages)
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise BadRow(f"{columns.messages}: {error}") from None
    roles = {
        **{side: side for side in ("system", "tool")},
        **dict.fromkeys(columns.assistant, "assistant"),
        **dict.fromkeys(columns.user, "user"),
    }
    return turns(value, columns.messages, roles, columns.role, columns.content)


def inside(row: Record, path: str) -> Any:
    """The value at a dotted path (a key that has the dot in its name wins); raises BadRow."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise BadRow(f"{path}: is missing; the row has: {', '.join(map(str, row))}"[:300])
        value = value[key]
    return value
