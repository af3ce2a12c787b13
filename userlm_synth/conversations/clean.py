"""Cleaning: what is dropped, with its reason, and what is mended, by name; one draft at a time.

    record, reason, changed = Cleaner(settings.clean, read_ids(path))(draft)

A record that comes out is valid, and comes out of a second cleaning unchanged. Text stays as people
typed it otherwise: no Unicode normal form, no change to case, quotes, spaces inside or direction
marks.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.language import LOOKED_AT, code, detect
from userlm_synth.recipe.sections import Clean
from userlm_synth.records import Record, stable_hash

CONTROLS = bytes(set(range(0x20)) - set(b"\t\n")) + b"\x7f"
NOT_TEXT = "\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff"  # controls, byte order marks, halves
# UTF-8 that was read as Windows-1252, -1251 or -1250, Latin-1 or Mac Roman: what its first bytes
# look like, and what those that follow do. Rare in good text; ftfy decides what is really broken.
LEADS = "\xc2-\xf4ĂĹРС‚Γβā"
FOLLOWERS = (
    "\xa1-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸÄÇЂЃѓЉЊЌЋЏђљњќћџЎўЈҐЁЄЇІіґё№єјЅѕїŚŤŹśťźˇ˘ŁĄŞŻ˛łąşĽ˝ľż"
)
SUSPECT = re.compile(
    f"[{NOT_TEXT}в{LEADS}](?:(?<=[{NOT_TEXT}])|(?<=[ÂÃ])[ \xa0]|(?<=в)Ђ|(?<!в)[{FOLLOWERS}])"
)
INVISIBLE = " \n\t\xa0\u200b\u200c\u200d\u200e\u200f\u2060"


class Cleaner:
    """Cleans drafts by the settings of a recipe; the same draft always gives the same answer.

    Raises UserError where `languages` has a name that is no known language.
    """

    def __init__(self, settings: Clean, excluded: frozenset[str] = frozenset()) -> None:
        self.settings = settings
        self.excluded = excluded
        self.excludes_texts = any(one.startswith("opening ") for one in excluded)
        known = {name: code(name) for name in settings.languages}
        if unknown := [name for name, found in known.items() if found is None]:
            raise UserError(
                f"conversations.clean.languages: {unknown[0]!r} is not a known language; "
                "give BCP 47 codes, such as en or pt"
            )
        self.languages = frozenset(known.values())

    def __call__(self, draft: Record) -> tuple[Record | None, str | None, list[str]]:
        """(clean record or None, why it was dropped or None, what was changed, each named once)."""
        reason = self._flagged(draft)
        if reason:
            return None, reason, []
        changed: dict[str, None] = {}
        messages, reason = self._turns(draft["messages"], changed)
        reason = reason or self._unfit(messages)
        if reason:
            return None, reason, []
        given = {name: draft[name] for name in ("id", "source", "user_id", "intent", "persona")}
        given["metadata"] = draft["metadata"] or {}
        try:
            details = writable(given)
        except RecursionError:
            return None, "metadata nested too deeply", []
        for name in ("user_id", "intent", "persona"):
            if not (details[name] or "").strip():
                details[name] = None
        if details != given:  # NaN is not equal to itself
            changed["fields beside the turns repaired"] = None
        language, reason = self._language(draft["language"], messages)
        if reason:
            return None, reason, []
        source = details["source"] or "unknown"
        record = {
            "id": details["id"] or stable_hash(source, messages)[:32],
            "source": source,
            "user_id": details["user_id"],
            "language": language,
            "intent": details["intent"],
            "persona": details["persona"],
            "messages": messages,
            "metadata": details["metadata"],
        }
        return record, None, list(changed)

    def _flagged(self, draft: Record) -> str | None:
        metadata = draft["metadata"] or {}
        if self.excluded and (
            draft["id"] in self.excluded or str(metadata.get("conversation_hash")) in self.excluded
        ):
            return "in the list of excluded ids"
        if self.settings.drop_toxic and metadata.get("toxic") is True:
            return "flagged toxic"
        if self.settings.drop_redacted and metadata.get("redacted") is True:
            return "flagged redacted"
        return None

    def _turns(
        self, given: Iterable[Record], changed: dict[str, None]
    ) -> tuple[list[Record], str | None]:
        """Turns that alternate from the user, none of them empty; or why there are none."""
        messages: list[Record] = []
        for message in given:
            role, raw = message["role"], message["content"]
            if role not in ("user", "assistant"):
                changed["system turns removed" if role == "system" else "tool turns removed"] = None
                continue
            if len(raw) > self.settings.max_characters:  # before any time is spent on it
                return [], "a turn too long"
            trimmed = raw.strip()
            if len(trimmed) < len(raw):
                changed["whitespace trimmed"] = None
            text = mended(trimmed)
            if text is not trimmed:
                changed["text repaired"] = None
            if not text.strip(INVISIBLE):
                changed["empty turns removed"] = None
            elif not messages and role == "assistant":
                changed["leading assistant turns removed"] = None
            elif messages and messages[-1]["role"] == role:
                messages[-1]["content"] += "\n\n" + text
                changed["neighbours of one role merged"] = None
            else:
                messages.append({"role": role, "content": text})
        return messages, None if messages else "no user turn"

    def _unfit(self, messages: list[Record]) -> str | None:
        opening = messages[0]["content"]
        if self.excludes_texts and opening_key(opening) in self.excluded:
            return "opens like an excluded conversation"
        if len(messages) > self.settings.max_turns:
            return "too many turns"
        if (len(messages) + 1) // 2 < self.settings.min_user_turns:
            return "too few user turns"
        if len(opening) < self.settings.min_characters:
            return "first turn too short"
        if any(len(turn["content"]) > self.settings.max_characters for turn in messages):
            return "a turn too long"  # of merged ones
        return "broken text" if any(is_broken(turn["content"]) for turn in messages) else None

    def _language(self, given: str | None, messages: list[Record]) -> tuple[str | None, str | None]:
        """The language and, where some are asked for, why this one is none of them.

        The source's word counts; where it has none, the user's turns tell. What nobody is sure of
        is dropped under a reason of its own, so that the data card shows how much that was.
        """
        language = code(given)
        if not self.languages:
            return language, None
        if language is None:
            text = ""
            for turn in messages[::2]:
                text += turn["content"] + "\n"
                if len(text) >= LOOKED_AT:
                    break
            language = detect(text)
        if language in self.languages:
            return language, None
        return None, "other language" if language else "language not recognised"


def mended(text: str) -> str:
    r"""Stripped text without what is no text; the same object where there is nothing to mend.

    `\r\n`, `\r` and form feeds become `\n`, other control characters and byte order marks go,
    halves of a surrogate pair are joined (a single one becomes U+FFFD), and UTF-8 that was read in
    another encoding is decoded, line by line, where ftfy finds that it was.
    """
    if text.isascii():
        if len(text.encode().translate(None, CONTROLS)) == len(text):
            return text
    elif not SUSPECT.search(text):
        return text
    after = _mended_once(text)
    if after == text:
        return text
    while after != text:  # each time it is shorter, or has fewer controls
        text, after = after, _mended_once(after)
    return after


def _mended_once(text: str) -> str:
    text = re.sub("\r\n?|[\x0b\x0c]", "\n", text)
    if not text.isascii():
        from ftfy import fix_encoding

        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        lines = text.split("\n")
        text = "\n".join(fix_encoding(line) if SUSPECT.search(line) else line for line in lines)
    return re.sub(f"[{NOT_TEXT}]+", "", text).strip()


def is_broken(text: str) -> bool:
    """Three or more replacement characters (U+FFFD) that are more than 1 % of the text."""
    return not text.isascii() and (count := text.count("\ufffd")) > 2 and count > len(text) / 100


def writable(value: Any, depth: int = 0) -> Any:
    """A value that JSON, Parquet and databases take: no NUL, no half of a surrogate pair, no NaN.

    Whole numbers of more than 64 bits become text. Raises RecursionError beyond 100 levels.
    """
    if isinstance(value, str):
        if not value.isascii():
            value = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value.replace("\0", "") if "\0" in value else value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > 100:
        raise RecursionError
    if isinstance(value, dict):
        return {writable(str(key)): writable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [writable(item, depth + 1) for item in value]
    return value


def opening_key(text: str) -> str | None:
    """What a conversation's first user turn is known by in a set of ids; None for a short one.

    Openings of less than 50 characters are not compared: unrelated people type those.
    """
    if len(text) < 50:
        return None
    plain = " ".join(text.casefold().split())
    return "opening " + hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()
