"""What a model's reply is worth: the intent in it, or the reason why there is none.

An intent says what the user wants in all, not how they put it: with too little of it a user LM
cannot be steered, with too much it parrots (paper, S2.2 and App. A).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from userlm_synth.asking import CUT_OFF
from userlm_synth.records import INTENT_OPENING, Message, Record, parse_json, user_turns

MAX_WORDS = 60
MAX_QUOTE = 8  # this many of the user's words in a row are a quotation

_UNPRINTABLE = re.compile("[\0-\x08\x0e-\x1b\x7f\ud800-\udfff]")  # no record may hold them
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_LABEL = re.compile(r"[\W\d_]*(?:[^:]{1,40}:)?[\W_]*")  # `Intent:`, `1. **Goal:** "`, `> `
_CLOSERS = {"{": "}", "“": "”", "‘": "’", '"': '"', "'": "'", "`": "`", "*": "*", "_": "_"}
_REFUSAL = re.compile(
    r"\W*(i['’]?m sorry|sorry|i can(no|['’])t|i(['’]m| am) (unable|not able)|as an ai)\b", re.I
)
_PARTICULARS = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.\w"),
    "a web address": re.compile(r"https?://|\bwww\.", re.I),
    "code": re.compile(r"```"),
}
# A writing without spaces: each character counts as a word.
_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_WORD = re.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})\w)+(?:'\w+)*")
_ITEM = re.compile(r"(?:[*_(]{0,3}\d{1,3}[*_]{0,2}[.):][*_]{0,2}|[-*•])\s+(.*)")  # `1. `, `**2)** `
_HEADING = re.compile(r"\*\*[^*]{1,60}(?:\*\*\s*[:–—-]|:\*\*)\s+")  # `**Meal plans:** find ...`
# What follows the opening is a verb; these open a sentence of its own.
_NO_GOAL = re.compile(
    r"(i|i['’]\w+|you|we|he|she|they|it|my|a user|the user|users?|how|what|why|where|when|which"
    r"|can|could|should|here)\b",
    re.I,
)


def printable(text: str) -> str:
    """A reply without a thinking model's thoughts and without characters that no record holds."""
    return _THOUGHT.sub("", _UNPRINTABLE.sub("", text))


def clean_reply(text: str) -> str:
    """The intent in a model's reply, bare: the first line that begins with the opening.

    A label, list mark or wrapping before the opening goes, and what closes it; "" where no line
    has the opening.
    """
    for line in printable(text).splitlines():
        line = " ".join(line.split())
        before, found, rest = line.partition(INTENT_OPENING)
        if not found or (rest and rest[0] != " "):
            continue
        if len(before) > 80 or not _LABEL.fullmatch(before):
            continue
        for opener in before:
            if opener in _CLOSERS:
                rest = rest.removesuffix(_CLOSERS[opener])
        return (INTENT_OPENING + rest).strip()
    return ""


def judge(
    text: str, cut: bool, messages: Sequence[Message] | Sequence[Record] = ()
) -> tuple[str, str]:
    """(intent, "") or ("", why not) for a reply about `messages`, cut off by the limit or not."""
    intent = clean_reply(text)
    if not intent:
        bare = printable(text).strip()
        if cut:
            return "", CUT_OFF
        if _REFUSAL.match(bare):
            return "", "the model refused"
        return "", fault(intent, messages) if bare else "the reply is empty"
    reason = fault(intent, messages)
    if not reason and cut and intent[-1] not in ".!?":
        reason = CUT_OFF
    return ("", reason) if reason else (intent, "")


def fault(intent: str, messages: Sequence[Message] | Sequence[Record] = ()) -> str:
    """Why a cleaned reply is no intent for this conversation; "" when it is one.

    What stands before a colon is the kind of fault, by which they are counted.
    """
    goal = intent.removeprefix(INTENT_OPENING)
    if not intent.startswith(INTENT_OPENING):
        return f"the reply does not begin with {INTENT_OPENING!r}"
    if not re.search(r"\w", goal):
        return "the reply says nothing after the opening"
    if _REFUSAL.match(goal):
        return "the model refused"
    if len(intent.split()) > MAX_WORDS:
        return f"the reply is too long: {len(intent.split())} words, over {MAX_WORDS}"
    for name, pattern in _PARTICULARS.items():
        if pattern.search(goal):
            return f"the reply has particulars: {name}"
    quote = quotation(goal, user_turns(messages))
    return f"the reply quotes the user: {quote!r}" if quote else ""


def quotation(goal: str, turns: Sequence[str]) -> str:
    """The first MAX_QUOTE words of `goal` in a row that one of `turns` has too; "" if none.

    The opening is ours, so the goal comes without it: a user who typed it is not quoted.
    """
    found = words(goal)
    if len(found) < MAX_QUOTE:
        return ""
    said = [f" {' '.join(words(turn))} " for turn in turns]
    for start in range(len(found) - MAX_QUOTE + 1):
        run = " ".join(found[start : start + MAX_QUOTE])
        if any(f" {run} " in turn for turn in said):
            return run
    return ""


def words(text: str) -> list[str]:
    """Words as they are compared: without case, width and punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(text.replace("’", "'"))


# ---- a list of new intents -------------------------------------------------------------------


def parse_intents(text: str, cut: bool = False) -> list[str]:
    """The intents in a reply that lists several, with the opening, good ones and bad ones.

    A JSON list (of texts, or of objects with `intent` or `goal`), else the lines that have a
    number, a bullet or the opening. Of a reply that was `cut` off the last one goes.
    """
    text = printable(text)
    items = _json_items(text)
    if items is None:
        lines = [" ".join(line.split()) for line in text.splitlines()]
        matched = [(line, _ITEM.match(line)) for line in lines]
        items = [m[1] if m else line for line, m in matched if m or INTENT_OPENING in line]
        items = items[:-1] if cut and items and items[-1][-1:] not in ".!?" else items
    return [intent for item in items if (intent := _with_opening(item))]


def _json_items(text: str) -> list[str] | None:
    start, end = text.find("["), text.rfind("]")
    if not 0 <= start < end:
        return None
    try:
        found = parse_json(text[start : end + 1])
    except ValueError:
        return None
    texts = [
        one.get("intent") or one.get("goal") if isinstance(one, dict) else one for one in found
    ]
    return [one for one in texts if isinstance(one, str)] or None


def _with_opening(item: str) -> str:
    item = " ".join(printable(item).split())
    if INTENT_OPENING in item:
        return clean_reply(item)
    item = _HEADING.sub("", item, count=1).strip(" \"'“”‘’`*_")
    item = re.sub(r"^(?:\.\.\.|…)?\s*to\s+", "", item, flags=re.IGNORECASE)
    if item[:1].isupper() and item[1:2].islower():  # but `PDF`, `I`
        item = item[0].lower() + item[1:]
    return f"{INTENT_OPENING} {item}" if item else ""


def list_fault(intent: str) -> str:
    """Why an item of a list is no new intent; "" when it is one."""
    reason = fault(intent)
    if not reason and _NO_GOAL.match(intent.removeprefix(INTENT_OPENING).strip()):
        reason = "not a goal: it begins with a pronoun or a question"
    return reason
