"""Rows of any known form as plain records; what has none is said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson

from userlm_synth.conversations.sources import BadRow, Fault, drafts, files, form_of, rows
from userlm_synth.conversations.sources.catalogue import row_id
from userlm_synth.conversations.sources.drafting import turns
from userlm_synth.errors import UserError
from userlm_synth.records import Record, bad_values, parse_json

if TYPE_CHECKING:
    from userlm_synth.conversations.reading import Block
    from userlm_synth.recipe import Conversations

SIDES = ("user", "assistant")
#: Columns that a published copy holds as JSON text.
AS_JSON = ("metadata", "guardrails", "usage")
#: A row with no other keys is a conversation of ours.
OWN = frozenset(
    ("id", "source", "user_id", "language", "intent", "persona", "messages", "metadata")
)


def records_in(block: Block) -> Iterator[tuple[int, Record | str]]:
    """(place over the whole set, record, or in one line why the row has none)."""
    for place, number, row in rows_in(block):
        yield place, _plain(row) if isinstance(row, str) else conversation(row, block, number)


def rows_in(block: Block) -> Iterator[tuple[int, int, Record | str]]:
    """(place, number in its file, row as it is or what is wrong with it)."""
    payload, place = block.inner.payload, block.place
    if isinstance(payload, files.Lines):
        first = block.inner.first
        for number, line in enumerate(payload.data.split(b"\n"), first):
            if line and not line.isspace():
                yield place + number - first, number, _parsed(line)
    elif isinstance(payload, files.Texts):
        for index, text in enumerate(payload.items):
            yield place + index, block.inner.first + index, _parsed(text)
    else:
        for index, (number, row) in enumerate(rows(block.inner)):
            yield place + index, number, row.reason if isinstance(row, Fault) else row


def _parsed(text: bytes) -> Record | str:
    """A JSON object, or what is wrong: the quick parser refuses broken text, the slow one says."""
    try:
        row = orjson.loads(text)
    except ValueError:
        slow = files.parse_row(text)
        if isinstance(slow, Fault):
            return slow.reason
        return next((f"{path}: {what}" for path, what in bad_values(slow)), slow)
    if type(row) is dict:
        return row
    return f"is a JSON object (one conversation), not {type(row).__name__}"


def count_rows(payload: files.Payload) -> int:
    """How many places a block takes; of lines the empty ones too."""
    if isinstance(payload, files.Lines):
        return payload.data.count(b"\n") + (not payload.data.endswith(b"\n"))
    if isinstance(payload, files.Texts):
        return len(payload.items)
    if isinstance(payload, files.Numbered):
        return len(payload.rows)
    if isinstance(payload, files.Table):
        import pyarrow as pa

        with pa.ipc.open_stream(payload.data) as stream:
            return sum(batch.num_rows for batch in stream)
    return 1


def conversation(row: Record, block: Block, number: int) -> Record | str:
    """A row as a record, or in one line why it is none."""
    settings, file = block.part.settings, block.inner.file
    try:
        if is_own(row):
            return _own(row, settings, file, number)
        found = drafts(row, form_of(row, settings), settings, file, number)
        record = found[0] if found else {}
        said = _said(record.get("messages") or [])
    except BadRow as error:
        return str(error)
    except UserError as error:
        return _plain(str(error))
    return {**record, "messages": said} if said else "has no turn of a user or an assistant"


def _plain(reason: str) -> str:
    return reason.partition("; give conversations.")[0]


def is_own(row: Record) -> bool:
    """Whether a row has the columns of our dialogues or conversations."""
    if "messages" not in row:
        return False
    return "stop_reason" in row or (row.keys() <= OWN and "id" in row and "source" in row)


def _own(row: Record, settings: Conversations, file: str, number: int) -> Record | str:
    """A dialogue or conversation of ours with all its fields."""
    if not _is_said(row["messages"]):
        row["messages"] = _said(turns(row["messages"], "messages"))
        if not row["messages"]:
            return "has no turn of a user or an assistant"
    decoded(row)
    if type(row.get("id")) is not str:
        row["id"] = row_id(settings, file, number)
    return row


def decoded(row: Record) -> Record:
    """A row of a published copy with the fields of a dialogue, in place."""
    for key in AS_JSON:
        if type(row.get(key)) is str:
            row[key] = _decoded(row[key])
    row.setdefault("user_id", None)
    return row


def _is_said(messages: Any) -> bool:
    """Whether all messages are turns of the two sides, as texts."""
    if type(messages) is not list or not messages:
        return False
    for one in messages:
        if type(one) is not dict or one.get("role") not in SIDES:
            return False
        if type(one.get("content")) is not str:
            return False
    return True


def _said(messages: list[Record]) -> list[Record]:
    return [one for one in messages if one["role"] in SIDES]


def _decoded(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text  # as it is, for the schema to refuse
