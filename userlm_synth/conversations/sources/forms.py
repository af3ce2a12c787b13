"""Row -> drafts: one small function for each form that chats come in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from userlm_synth.conversations.sources.catalogue import row_id, source_label
from userlm_synth.conversations.sources.columns import own_columns
from userlm_synth.conversations.sources.drafting import (
    BadRow,
    Draft,
    draft,
    kind,
    known,
    name,
    optional_text,
    turns,
)
from userlm_synth.conversations.sources.trees import chatgpt, oasst
from userlm_synth.records import Record

if TYPE_CHECKING:
    from userlm_synth.recipe import Conversations

Form = Callable[[Record, "Conversations", str, int], Iterator[Draft]]
OWN = ("id", "source", "user_id", "language", "intent", "persona", "messages", "metadata")
HH_TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")


def wildchat(row: Record, settings: Conversations, file: str, number: int) -> Iterator[Draft]:
    """WildChat, WildChat-1M and -4.8M (https://huggingface.co/datasets/allenai/WildChat-4.8M).

    `conversation_hash` is a hash of the content, so copies of a conversation share it, whoever had
    them; `turn_identifier` is unique and kept in the metadata. The user is hashed IP x country. The
    first WildChat has `conversation_id` instead and no users; what else is missing at the top is
    taken from the turns.
    """
    listed = row.get("conversation")
    messages = turns(listed, "conversation")
    first: Record = next((one for one in listed or () if one.get("role") == "user"), {})
    address = name(row, "hashed_ip") or name(first, "hashed_ip")
    country = optional_text(row, "country") or optional_text(first, "country")
    metadata = known(row, ("model", "timestamp", "toxic", "redacted"))
    for flag in ("toxic", "redacted"):
        if flag not in metadata and any(flag in one for one in listed or ()):
            metadata[flag] = any(bool(one.get(flag)) for one in listed or ())
    metadata |= known({"country": country, **first}, ("country", "turn_identifier"))
    yield draft(
        name(row, "conversation_hash", "conversation_id") or row_id(settings, file, number),
        source_label(settings.source, file, "wildchat"),
        messages,
        user_id=f"{address} {country or 'unknown'}" if address else None,
        language=optional_text(row, "language") or optional_text(first, "language"),
        metadata=metadata,
    )


def lmsys(row: Record, settings: Conversations, file: str, number: int) -> Iterator[Draft]:
    """LMSYS-Chat-1M (https://huggingface.co/datasets/lmsys/lmsys-chat-1m): no users are known.

    `openai_moderation` has an entry a message; the conversation is toxic where one is flagged.
    """
    metadata = known(row, ("model", "redacted"))
    if isinstance(moderation := row.get("openai_moderation"), list):
        metadata["toxic"] = any(
            isinstance(one, dict) and one.get("flagged") is True for one in moderation
        )
    yield draft(
        name(row, "conversation_id") or row_id(settings, file, number),
        source_label(settings.source, file, "lmsys"),
        turns(row.get("conversation"), "conversation"),
        language=optional_text(row, "language"),
        metadata=metadata,
    )


def prism(row: Record, settings: Conversations, file: str, number: int) -> Iterator[Draft]:
    """PRISM's `conversations` (https://huggingface.co/datasets/HannahRoseKirk/prism-alignment).

    A turn of `conversation_history` is `{turn, role: user}` and two to four `{turn, role: model,
    model_name, score, if_chosen}`; the chosen reply is the one the conversation went on from.
    """
    history = row.get("conversation_history")
    messages = turns(history, "conversation_history")
    kept: list[Record] = []
    models: list[str] = []
    order = sorted(
        zip(history or (), messages, strict=True),
        key=lambda pair: (_whole(pair[0].get("turn")), pair[1]["role"] != "user"),
    )
    for turn, message in order:
        if message["role"] == "user" or turn.get("if_chosen"):
            kept.append(message)
            models += known(turn, ("model_name",)).values()
    metadata = known({**row, "model": models[-1] if models else None},
                     ("conversation_type", "model"))  # fmt: skip
    yield draft(
        name(row, "conversation_id") or row_id(settings, file, number),
        source_label(settings.source, file, "prism"),
        kept,
        user_id=name(row, "user_id"),
        metadata=metadata,
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def sharegpt(row: Record, settings: Conversations, file: str, number: int) -> Iterator[Draft]:
    """ShareGPT's layout: `{id, conversations: [{from: human | gpt | ..., value}]}`.

    In ShareGPT itself long chats are cut up: `QWJhYvA_0`, `QWJhYvA_17`, ... are pieces of one, so
    that its name stands for the person, whose pieces then stay in one split.
    """
    given = name(row, "id")
    piece = re.fullmatch(r"([A-Za-z0-9]{7})_\d+", given or "")
    source = source_label(settings.source, file, "sharegpt")
    yield draft(
        given or row_id(settings, file, number),
        source,
        turns(row.get("conversations"), "conversations", role="from", content="value"),
        user_id=piece[1] if piece and "sharegpt" in source.lower() else name(row, "user_id"),
        language=optional_text(row, "language") or optional_text(row, "lang"),
        metadata=known(row, ("model", "country", "toxic", "redacted", "system")),
    )


def hh_rlhf(row: Record, settings: Conversations, file: str, number: int) -> Iterator[Draft]:
    r"""Anthropic's HH-RLHF: the chosen one of two transcripts, "\n\nHuman: ...\n\nAssistant: ...".

    https://huggingface.co/datasets/Anthropic/hh-rlhf; copies with lists of turns are taken too.
    """
    chosen = row.get("chosen")
    if isinstance(chosen, str):
        opening, *pieces = HH_TURN.split("\n\n" + chosen.lstrip())
        if opening.strip() or not pieces:
            raise BadRow("chosen: begins with neither 'Human:' nor 'Assistant:'")
        messages = [
            {"role": "user" if side == "Human" else "assistant", "content": said.strip()}
            for side, said in zip(pieces[::2], pieces[1::2], strict=True)
        ]
    else:
        messages = turns(chosen, "chosen")
    yield draft(
        name(row, "id", "prompt_id") or row_id(settings, file, number),
        source_label(settings.source, file, "hh-rlhf"),
        messages,
        metadata={},
    )


def openai_messages(
    row: Record, settings: Conversations, file: str, number: int
) -> Iterator[Draft]:
    """OpenAI's chat format, and this toolkit's own conversations; further keys go to metadata."""
    if "messages" not in row:
        raise BadRow("messages: is missing")
    extra = {key: value for key, value in row.items() if key not in OWN}
    given = row.get("metadata")
    if given and not isinstance(given, dict):
        raise BadRow(f"metadata: is an object, not {kind(given)}")
    yield draft(
        name(row, "id") or row_id(settings, file, number),
        optional_text(row, "source") or source_label(settings.source, file, "messages"),
        turns(row["messages"], "messages"),
        user_id=name(row, "user_id"),
        language=optional_text(row, "language"),
        intent=optional_text(row, "intent"),
        persona=optional_text(row, "persona"),
        metadata={**extra, **(given or {})},
    )


FORMS: dict[str, Form] = {
    "messages": openai_messages,
    "wildchat": wildchat,
    "lmsys": lmsys,
    "prism": prism,
    "oasst": oasst,
    "sharegpt": sharegpt,
    "hh-rlhf": hh_rlhf,
    "chatgpt": chatgpt,
    "columns": own_columns,
}


def drafts(row: Record, form: str, settings: Conversations, file: str, number: int) -> list[Draft]:
    """Conversations of one row, not yet cleaned, all or none; raises BadRow, in one line."""
    return list(FORMS[form](row, settings, file, number))
