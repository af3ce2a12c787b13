"""Blocks of rows out of files: JSONL, JSON, Parquet, CSV, plain, .gz or .zst, or folders of them.

One process reads blocks in an order that depends on the files alone; any process turns a block
into rows. A fault is part of the stream: of a row, or of the rest of a file, in which case it is
the last block of that file and the next file follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from userlm_synth.conversations.sources.streams import (
    BOM,
    CHUNK,
    CODECS,
    Broken,
    Chunks,
    chunks,
    is_jsonl,
    json_values,
    lines,
)
from userlm_synth.conversations.sources.tables import csv_rows, parquet_batches, unpack
from userlm_synth.errors import UserError
from userlm_synth.records import Record, parse_json

if TYPE_CHECKING:
    from userlm_synth.recipe import Conversations


@dataclass(frozen=True)
class Fault:
    """Why a row, or the rest of a file, could not be read."""

    reason: str
    whole_file: bool = False


@dataclass(frozen=True)
class Lines:
    """Whole lines of JSONL, as they are."""

    data: bytes


@dataclass(frozen=True)
class Texts:
    """JSON texts, one a row."""

    items: list[bytes]


@dataclass(frozen=True)
class Table:
    """An Arrow IPC stream."""

    data: bytes


@dataclass(frozen=True)
class Numbered:
    """Rows as they are, with their numbers."""

    rows: list[tuple[int, Record | Fault]]


Payload = Lines | Texts | Table | Numbered | Fault
Piece = tuple[int, int, Payload]  # first row, bytes of the file so far, rows


@dataclass(frozen=True)
class Block:
    """Some neighbouring rows, cheap to pickle; `rows` unpacks them."""

    number: int  # 0, 1, 2, ... over the whole source
    file: str  # as shown to people
    first: int  # number of the first row, from 1: the line of a JSONL file, else the row
    size: int  # bytes of the source up to the block's end, compressed as they are
    payload: Payload


def located(file: str, number: int) -> str:
    """Where a row is, before what is wrong with it: `chats.jsonl:12`; 0 is the file itself."""
    return f"{file}:{number}" if number else file


def rows(block: Block) -> Iterator[tuple[int, Record | Fault]]:
    """(row number, row or Fault); the fault of a broken file has the number of the last row."""
    payload = block.payload
    if isinstance(payload, Lines):
        for number, line in enumerate(payload.data.split(b"\n"), block.first):
            if line and not line.isspace():
                yield number, parse_row(line)
    elif isinstance(payload, Texts):
        yield from enumerate(map(parse_row, payload.items), block.first)
    elif isinstance(payload, Table):
        yield from enumerate(unpack(payload.data), block.first)
    elif isinstance(payload, Numbered):
        yield from payload.rows
    else:
        yield block.first, payload


def parse_row(text: bytes) -> Record | Fault:
    """A JSON object; the slower parser takes lone surrogates, and says what is wrong."""
    try:
        row = orjson.loads(text)
    except ValueError:
        try:
            row = parse_json(text)
        except ValueError as error:
            return Fault(f"{error}; mend or remove it")
    if isinstance(row, dict):
        return row
    return Fault(f"is a JSON object (one conversation), not {type(row).__name__}")


def find_files(source: str) -> list[Path]:
    """The files of a source: itself, or all of known kinds below a folder, by name."""
    path = Path(source)
    if path.is_file():
        if _kind(path) not in READERS:
            raise UserError(f"{path}: is of no known kind; there are {_kinds()}")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    found = {
        below.as_posix(): path / below
        for below in (one.relative_to(path) for one in path.rglob("*") if one.is_file())
        if _kind(below) in READERS and not any(part.startswith(".") for part in below.parts)
    }
    if not found:
        raise UserError(f"{path}: has no file of a known kind in it; there are {_kinds()}")
    return [found[name] for name in sorted(found)]


def _kind(path: Path) -> str:
    if path.suffix == ".parquet":
        return path.suffix
    return Path(path.stem).suffix if path.suffix in CODECS else path.suffix


def _kinds() -> str:
    return f"{', '.join(READERS)}, and the text ones with {' or '.join(CODECS)} after that"


def blocks(settings: Conversations, start: int = 0, size: int = CHUNK) -> Iterator[Block]:
    """All blocks of a local source from number `start` on, about `size` bytes each."""
    numbers = count()
    before = 0
    for path in find_files(settings.source):
        whole = path.stat().st_size
        for first, done, payload in _pieces(path, settings, size):
            number = next(numbers)
            if number >= start:
                yield Block(number, str(path), first, before + min(done, whole), payload)
        before += whole


def _pieces(path: Path, settings: Conversations, size: int) -> Iterator[Piece]:
    try:
        yield from READERS[_kind(path)](path, settings, size)
    except Broken as error:
        yield error.after, path.stat().st_size, Fault(str(error), whole_file=True)


def _jsonl(path: Path, settings: Conversations, size: int) -> Iterator[Piece]:
    return _line_pieces(chunks(path, size))


def _line_pieces(source: Chunks) -> Iterator[Piece]:
    first = 1
    try:
        for data, position in lines(source):
            yield first, position, Lines(data.removeprefix(BOM) if first == 1 else data)
            first += data.count(b"\n")
    except Broken as error:
        raise Broken(str(error), first - 1) from None


def _json(path: Path, settings: Conversations, size: int) -> Iterator[Piece]:
    """A list of objects or one object; many a `.json` is in fact JSONL."""
    in_lines, source = is_jsonl(chunks(path, size))
    return _line_pieces(source) if in_lines else value_pieces(source, size)


def value_pieces(source: Chunks, size: int) -> Iterator[Piece]:
    """JSON values in pieces of about `size` bytes."""
    first, held, length, position = 1, [], 0, 0
    broken = None
    try:
        for text, position in json_values(source):
            held.append(text.encode())
            length += len(text)
            if length >= size:
                yield first, position, Texts(held)
                first, held, length = first + len(held), [], 0
    except Broken as error:
        broken = Broken(str(error), first - 1 + len(held))
    if held:
        yield first, position, Texts(held)
    if broken:
        raise broken


def _parquet(path: Path, settings: Conversations, size: int) -> Iterator[Piece]:
    for first, position, packed in parquet_batches(path, settings, size):
        yield first, position, Table(packed)


def _csv(path: Path, settings: Conversations, size: int) -> Iterator[Piece]:
    held: list[tuple[int, Record | Fault]] = []
    length = position = 0
    broken = None
    try:
        for number, position, row in csv_rows(path, settings, size):
            held.append((number, Fault(row) if isinstance(row, str) else row))
            length += 1 if isinstance(row, str) else sum(map(len, row.values()))
            if length >= size:
                yield held[0][0], position, Numbered(held)
                held, length = [], 0
    except Broken as error:
        broken = error
    if held:
        yield held[0][0], position, Numbered(held)
    if broken:
        raise broken


Reader = Callable[[Path, "Conversations", int], Iterator[Piece]]
READERS: dict[str, Reader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
}
