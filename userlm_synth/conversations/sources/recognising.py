"""Which form a row or a table has, by its keys; and what of a table a form reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from userlm_synth.conversations.sources.catalogue import NAMED
from userlm_synth.conversations.sources.trees import is_flat
from userlm_synth.errors import UserError
from userlm_synth.records import Record

if TYPE_CHECKING:
    from userlm_synth.recipe import Columns, Conversations

#: What a form reads of a table, and of the turns in it; other forms read all columns.
TURN = ("role", "content", "hashed_ip", "country", "toxic", "redacted", "turn_identifier")
READS: dict[str, dict[str, tuple[str, ...]]] = {
    "wildchat": {
        **dict.fromkeys(("conversation_hash", "conversation_id", "model", "timestamp"), ()),
        **dict.fromkeys(("language", "toxic", "redacted", "country", "hashed_ip"), ()),
        "conversation": (*TURN, "language"),
    },
    "lmsys": {
        **dict.fromkeys(("conversation_id", "model", "language", "redacted"), ()),
        "conversation": TURN,
        "openai_moderation": ("flagged",),
    },
    "prism": {
        **dict.fromkeys(("conversation_id", "user_id", "conversation_type"), ()),
        "conversation_history": ("turn", "role", "content", "if_chosen", "model_name"),
    },
    "oasst": dict.fromkeys(
        ("message_tree_id", "prompt", "message_id", "parent_id", "user_id", "text", "role", "lang",
         "rank", "deleted", "synthetic"),
        (),
    ),
}  # fmt: skip
#: The column that a form cannot do without.
NEEDS = {
    "messages": "messages",
    "wildchat": "conversation",
    "lmsys": "conversation",
    "prism": "conversation_history",
    "oasst": "message_tree_id",
    "sharegpt": "conversations",
    "hh-rlhf": "chosen",
    "chatgpt": "mapping",
}


def recognise(row: Record, columns: Columns | None = None) -> str:
    """The form's name from the keys of a row; raises UserError that lists the keys."""
    if columns is not None:
        return "columns"
    if "message_tree_id" in row and ("prompt" in row or "flat" in row or is_flat(row)):
        return "oasst"
    if "mapping" in row and ("current_node" in row or "title" in row):
        return "chatgpt"
    if "conversation" in row:
        marks = ("conversation_hash", "detoxify_moderation", "toxic", "hashed_ip")
        return "wildchat" if any(mark in row for mark in marks) else "lmsys"
    for key, form in (
        ("conversation_history", "prism"),
        ("messages", "messages"),
        ("conversations", "sharegpt"),
        ("chosen", "hh-rlhf"),
    ):
        if key in row:
            return form
    keys = ", ".join(str(key) for key in row)
    raise UserError(
        f"no known form of conversations has the keys {keys[:200] or '(none)'}; give "
        "conversations.format, or say in conversations.columns where the parts are"
    )


def form_of(row: Record, settings: Conversations) -> str:
    """The form of a row: given, or that of the named source, or recognised; raises UserError."""
    if settings.format != "auto":
        return settings.format
    if settings.source in NAMED and settings.columns is None:
        return NAMED[settings.source].form
    return recognise(row, settings.columns)


def table_form(names: Iterable[str], settings: Conversations) -> str:
    """The form of a table with these columns; raises UserError where they do not fit."""
    row = dict.fromkeys(names)
    form = form_of(row, settings)
    columns = settings.columns
    need = NEEDS.get(form) or (columns and (columns.messages or columns.prompt))
    if need and need not in row and need.split(".")[0] not in row:
        raise UserError(
            f"has no column {need!r}, which the form {form} needs; it has: "
            f"{', '.join(row)[:200]}; give conversations.format or conversations.columns"
        )
    return form
