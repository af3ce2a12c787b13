"""What lies beside the dialogues in files of its own: rejections, the bill, the intents given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from userlm_synth.errors import UserError
from userlm_synth.records import Record, open_text, parse_json
from userlm_synth.reporting.shape import SIDES, TOKENS, UNKNOWN, add_usage, counted, number_of


def rejections(path: Path | None) -> Record:
    """`rejected` of a set, from its rejected.jsonl: `{total, by_reason, tokens}`.

    Raises `UserError` for a line that is no JSON object.
    """
    reasons: Counter[str] = Counter()
    tokens = {side: dict.fromkeys(TOKENS, 0) for side in SIDES}
    for record in _rows(path) if path else ():
        reasons[str(record.get("reason") or UNKNOWN)[:200]] += 1
        add_usage(tokens, record.get("usage"))
    return {"total": reasons.total(), "by_reason": counted(reasons), "tokens": tokens}


def cost(path: Path | None) -> Record | None:
    """`cost` of a set, from its bill.json: USD `{user, assistant, total}`; None without a bill.

    What was under way when a run was killed counts as spent (`money.bill`).
    """
    if path is None:
        return None
    try:
        bill = parse_json(path.read_text(encoding="utf-8"))
        both = {side: float(bill["spent"][side]) + float(bill["under_way"][side]) for side in SIDES}
        if not all(math.isfinite(value) and value >= 0 for value in both.values()):
            raise ValueError("an amount is no number of dollars")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not a bill ({error!r}); put back a copy, or move it away"
        ) from None
    return {**both, "total": sum(both.values())}


def read_intents(path: Path) -> dict[int, str]:
    """The ids of an intents file (or a conversations file with intents) by their numbers."""
    found = {}
    for at, record in enumerate(_rows(path), 1):
        name = record.get("id")
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}:{at}: id: is missing; an intents file is lines of id, intent")
        found[number_of(name)] = name[:200]
    if not found:
        raise UserError(f"{path}: has no intents in it")
    return found


def _rows(path: Path) -> Iterator[Record]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = parse_json(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}; mend or remove the line") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}:{number}: is no JSON object; mend or remove the line")
            yield record
