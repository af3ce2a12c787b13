"""Conversations to leave out, such as those that a test set is made of: a file of their ids."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import Any

from userlm_synth.conversations.clean import mended, opening_key
from userlm_synth.errors import UserError
from userlm_synth.records import open_text, parse_json, read_lines

ID_COLUMNS = ("session_id", "conversation_hash", "conversation_id", "id")
TURN_COLUMNS = ("conversation_input", "messages", "conversation")


def read_ids(path: Path) -> frozenset[str]:
    """Ids of conversations to leave out: one a line, or a column of JSONL, JSON or CSV (.gz too).

    The column is `session_id`, `conversation_hash`, `conversation_id` or `id`, the first that is
    there. Where rows hold the turns too, conversations that open with the same words are left out
    as well. That is what finds WildBench's: its session ids are its own and no hashes of WildChat.
    `datasets.load_dataset("allenai/WildBench", "v2", split="test").to_json("wildbench.jsonl")`
    makes such a file.
    """
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        if kind == ".jsonl":
            found = {key for line, row in read_lines(path) for key in _keys(row, f"{path}:{line}")}
        else:
            found = _read_whole(path, kind)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: broken gzip file ({error})") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start}); ids are one a line, or in a column of "
            "JSONL, JSON or CSV"
        ) from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        raise UserError(f"{path}: holds no ids; it needs one a line, or a column {ID_COLUMNS[-1]}")
    return frozenset(found)


def _read_whole(path: Path, kind: str) -> set[str]:
    with open_text(path) as file:
        text = file.read().decode("utf-8-sig")
    if kind == ".json":
        rows = parse_json(text)
        if not isinstance(rows, list):
            raise ValueError(f"is a list of ids or of rows, not {type(rows).__name__}")
        return {key for n, row in enumerate(rows) for key in _keys(row, f"{path}: [{n}]")}
    if kind == ".csv":
        table = csv.DictReader(io.StringIO(text, newline=""))
        return {key for row in table for key in _keys(row, f"{path}:{table.line_num}")}
    return {line.strip() for line in text.split("\n") if line.strip()}


def _keys(row: Any, where: str) -> list[str]:
    """The id of a row, and the key of its first user turn if it holds turns."""
    if isinstance(row, (str, int)):
        return [str(row)]
    fields = row if isinstance(row, dict) else {}
    keys = [str(fields[name]) for name in ID_COLUMNS if fields.get(name) not in (None, "")][:1]
    for turns in (fields.get(name) for name in TURN_COLUMNS):
        for turn in turns if isinstance(turns, list) else ():
            if isinstance(turn, dict) and turn.get("role") == "user":
                key = opening_key(mended(str(turn.get("content") or "").strip()))
                keys += [key] if key else []
                break
    if not keys:
        raise UserError(f"{where}: has no {', '.join(ID_COLUMNS)}")
    return keys
