"""Conversations kept as trees of messages: OpenAssistant's, and ChatGPT's own export."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from userlm_synth.conversations.sources.catalogue import row_id, source_label
from userlm_synth.conversations.sources.drafting import (
    BadRow,
    Draft,
    draft,
    kind,
    known,
    name,
    optional_text,
    text,
)
from userlm_synth.records import Record

if TYPE_CHECKING:
    from userlm_synth.recipe import Conversations

SIDES = {"prompter": "user", "assistant": "assistant"}
SEEN_TEXT = ("text", "multimodal_text")  # ChatGPT's content types that a person saw as text


def is_flat(row: Record) -> bool:
    """A row of OpenAssistant's message table: one message, many rows a tree."""
    return "message_id" in row and "message_tree_id" in row and "prompt" not in row


def oasst(row: Record, settings: Conversations, file: str, number: int) -> Iterator[Draft]:
    """OpenAssistant (OASST1 and 2): one draft a root-to-leaf path, or the best-ranked path.

    Two layouts: the export `*.trees.jsonl.gz`, `{message_tree_id, prompt: {text, role: prompter |
    assistant, lang, rank, deleted, synthetic, replies: [...]}}`, and the table of messages on the
    Hub, whose rows `sources.grouping` puts together as `{message_tree_id, flat: [...]}`
    (https://huggingface.co/datasets/OpenAssistant/oasst1). Deleted messages go with all that hangs
    below them. Where no user is given the tree stands for the person who began it, so that its
    paths, which share their first turns, stay in one split.
    """
    if "flat" in row:
        root, replies = _from_table(row["flat"])
    elif isinstance(row.get("prompt"), dict):
        root, replies = row["prompt"], None
    else:
        raise BadRow(f"prompt: is a message (an object), not {kind(row.get('prompt'))}")
    tree = (
        name(row, "message_tree_id") or name(root, "message_id") or row_id(settings, file, number)
    )
    for place, path in enumerate(_paths(root, replies, settings.paths == "best")):
        messages = [{"role": _side(one), "content": text(one.get("text"), "text")} for one in path]
        yield draft(
            name(path[-1], "message_id") or f"{tree}-{place}",
            source_label(settings.source, file, "oasst"),
            messages,
            user_id=name(root, "user_id") or tree,
            language=optional_text(root, "lang"),
            metadata={
                "message_tree_id": tree,
                "synthetic": any(bool(one.get("synthetic")) for one in path),
            },
        )


def _side(message: Record) -> str:
    side = SIDES.get(str(message.get("role")))
    if side is None or "text" not in message:
        shown = "text: is missing" if side else f"role: {message.get('role')!r:.40} is not a side"
        raise BadRow(f"message {message.get('message_id')}: {shown}")
    return side


def _from_table(messages: Any) -> tuple[Record, dict[Any, list[Record]]]:
    """The root of a tree, and the replies to each message, from its rows."""
    replies: dict[Any, list[Record]] = {}
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise BadRow("flat: is a list of messages")
    for one in messages:
        replies.setdefault(name(one, "parent_id"), []).append(one)
    roots = replies.pop(None, [])
    if len(roots) != 1:
        raise BadRow(f"parent_id: a tree has one message without a parent, not {len(roots)}")
    if len({name(one, "message_id") for one in messages}) < len(messages):
        raise BadRow(f"message_id: two messages of tree {roots[0].get('message_id')} share one")
    return roots[0], replies


def _paths(
    root: Record, replies: dict[Any, list[Record]] | None, best: bool
) -> Iterator[list[Record]]:
    """Paths from the root to each leaf, best-ranked first at every fork (rank 0 is the best)."""
    todo = [[root]] if not root.get("deleted") else []
    while todo:
        path = todo.pop()
        last = path[-1]
        below = last.get("replies") if replies is None else replies.get(name(last, "message_id"))
        if not isinstance(below or [], list) or not all(isinstance(x, dict) for x in below or []):
            raise BadRow(f"message {last.get('message_id')}: replies: is a list of messages")
        alive = [one for one in below or [] if not one.get("deleted")]
        if not alive:
            yield path
            continue
        alive.sort(key=_rank)
        todo += [[*path, one] for one in reversed(alive[:1] if best else alive)]


def _rank(message: Record) -> float:
    rank = message.get("rank")
    return rank if isinstance(rank, (int, float)) else math.inf


def _object(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def chatgpt(row: Record, settings: Conversations, file: str, number: int) -> Iterator[Draft]:
    """ChatGPT's export `conversations.json`: the branch that ends in `current_node`.

    `mapping` has a node for each message, `{message: {author: {role}, content: {content_type,
    parts}, recipient, weight, metadata}, parent, children}`; regenerated and edited turns are other
    branches. Left out: hidden messages, calls of tools, and parts that are not text.
    """
    nodes, place = row.get("mapping"), row.get("current_node")
    if not isinstance(nodes, dict):
        raise BadRow(f"mapping: is an object of nodes, not {kind(nodes)}")
    if place is None and nodes:  # the branch of the newest message
        place = list(nodes)[-1]
    branch: list[Record] = []
    seen: set[Any] = set()
    while place is not None:
        if not isinstance(place, str) or place not in nodes or place in seen:
            raise BadRow(f"mapping: no branch leads from the first message to {place!r:.60}")
        seen.add(place)
        node = _object(nodes[place])
        if isinstance(node.get("message"), dict):
            branch.append(node["message"])
        place = node.get("parent")
    messages = [said for one in reversed(branch) if (said := _visible(one))]
    models = [model for one in branch if (model := _object(one.get("metadata")).get("model_slug"))]
    created = row.get("create_time")
    metadata = known({**row, "model": models[0] if models else row.get("default_model_slug")},
                     ("title", "model"))  # fmt: skip
    if isinstance(created, (int, float)) and 0 < created < 1e11:
        metadata["timestamp"] = datetime.datetime.fromtimestamp(created, datetime.timezone.utc)
    yield draft(
        name(row, "conversation_id", "id") or row_id(settings, file, number),
        source_label(settings.source, file, "chatgpt"),
        messages,
        metadata=metadata,
    )


def _visible(message: Record) -> Record | None:
    """A message as a turn, if it is one that was shown as text."""
    content, role = _object(message.get("content")), _object(message.get("author")).get("role")
    if role not in ("user", "assistant", "system", "tool"):
        raise BadRow(
            f"mapping: author.role: {role!r:.40} is not one of user, assistant, system, tool"
        )
    hidden = _object(message.get("metadata")).get("is_visually_hidden_from_conversation")
    if hidden or message.get("weight") == 0 or message.get("recipient", "all") != "all":
        return None
    if content.get("content_type") not in SEEN_TEXT:
        return None
    said = text(content.get("parts"), "mapping: content.parts")
    return {"role": role, "content": said} if said.strip() or role == "user" else None
