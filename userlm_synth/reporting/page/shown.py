"""What a page shows of texts that may be of any length: the longest are cut, evenly, and say so.

A page holds at most 3 MB. Its dialogues share a budget in bytes of HTML (a `<` takes four of them,
a Chinese character three), filled like water: short messages stay whole, and what is over is taken
from the longest alone, all down to one level. A long message in a small report stays whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from userlm_synth.records import Record

BUDGET = 1_200_000  # bytes of HTML of all messages of a page together
MESSAGES = 4_000  # on a page; each costs some 120 bytes beside its text
FIELD = 1_000  # bytes of any other text: an intent, a persona
NAME = 160  # bytes of a name: of a set, a model, a dialogue
ITEMS = 200  # of any list or mapping that is not made of dialogues
ESCAPED = {"<": 3, ">": 3, "&": 4, '"': 4, "'": 4}  # bytes that escaping adds
CONTROL = [chr(code) for code in (*range(9), *range(11, 32), 127)]  # shown as pictures
LARGE = 100_000  # characters of one message that a report keeps by itself


def shown_dialogue(record: Record, cap: int = LARGE) -> Record:
    """What the page shows of a dialogue, each message at most `cap` characters long.

    `{id, intent, intent_id, persona, stop_reason, user_model, assistant_model, messages}`; a field
    that the record lacks is None. A message is `{role, content}`, and `cut`, the number of
    characters that are left out, where there are some; `left_out` of the dialogue counts
    messages beyond the first `MESSAGES`. Applied to what it gives, it changes nothing.
    """
    messages = [_capped(message, cap) for message in record["messages"][:MESSAGES]]
    names = ("id", "intent", "intent_id", "persona", "stop_reason")
    made = {name: _text(record.get(name)) for name in names}
    for side in ("user", "assistant"):
        made[f"{side}_model"] = model_name(record.get(f"{side}_model"))
    left_out = len(record["messages"]) - len(messages) + record.get("left_out", 0)
    extra: Record = {"left_out": left_out} if left_out else {}
    if record.get("score") is not None:
        extra["score"] = record["score"]
    return {**made, "messages": messages, **extra}


def model_name(model: Any) -> str | None:
    """A model as one line: a string as it is, a mapping as its values joined by ``@``."""
    if isinstance(model, dict):
        return "@".join(str(value) for value in model.values() if value) or None
    return str(model) if model else None


def shown(dialogues: Sequence[Record], budget: int = BUDGET) -> list[Record]:
    """The dialogues in their order, their longest messages cut so that all fit `budget`."""
    whole = [shown_dialogue(dialogue) for dialogue in dialogues]
    most = level([len(dialogue["messages"]) for dialogue in whole], MESSAGES)
    for dialogue in whole:
        if len(dialogue["messages"]) > most:
            more = len(dialogue["messages"]) - most
            dialogue["left_out"] = dialogue.get("left_out", 0) + more
            dialogue["messages"] = dialogue["messages"][:most]
    costs = [cost(message["content"]) for one in whole for message in one["messages"]]
    most = level(costs, budget)
    for dialogue in whole:
        dialogue["messages"] = [_fitted(message, most) for message in dialogue["messages"]]
    return whole


def level(sizes: Sequence[int], budget: int) -> int:
    """The highest level to which all sizes can be filled: sum(min(size, level)) <= budget."""
    left, still = budget, len(sizes)
    for size in sorted(sizes):
        if size * still > left:
            return left // still
        left, still = left - size, still - 1
    return max(sizes, default=0)


def cost(text: str) -> int:
    """Bytes that a text takes in a page of UTF-8, at most: escaped, with the breaks of long runs,
    and control characters as pictures of three bytes."""
    size = len(text.encode("utf-8", "replace")) + 5 * (len(text) // 200)
    size += sum(more * text.count(mark) for mark, more in ESCAPED.items())
    return size if text.isprintable() else size + 2 * sum(map(text.count, CONTROL))


def fitting(text: str, most: int) -> str:
    """The longest beginning of a text that costs at most `most`."""
    low, high = 0, min(len(text), most)
    if cost(text[:high]) <= most:
        return text[:high]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(text[:middle]) <= most else (low, middle - 1)
    return text[:low]


def short(text: str, most: int = FIELD) -> str:
    """A text of at most `most` bytes of HTML; a longer one ends in an ellipsis."""
    kept = fitting(text, most)
    return text if len(kept) == len(text) else f"{kept}\u2026"


def shortened(value: Any) -> Any:
    """The same JSON value, its texts `short` and its lists and mappings no longer than `ITEMS`."""
    if isinstance(value, str):
        return short(value)
    if isinstance(value, dict):
        return {short(str(key)): shortened(item) for key, item in [*value.items()][:ITEMS]}
    return [shortened(item) for item in value[:ITEMS]] if isinstance(value, list) else value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _capped(message: Record, cap: int) -> Record:
    return _cut(message, str(message.get("content") or "")[:cap])


def _fitted(message: Record, most: int) -> Record:
    return _cut(message, fitting(message["content"], most))


def _cut(message: Record, kept: str) -> Record:
    """The message with this beginning of its text, counting what is left out in all."""
    cut = len(str(message.get("content") or "")) - len(kept) + message.get("cut", 0)
    found = {"role": message.get("role"), "content": kept}
    return {**found, "cut": cut} if cut else found
