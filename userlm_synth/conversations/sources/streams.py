"""Bytes out of plain, .gz and .zst files in pieces; whole lines, and JSON values, out of those.

Memory is bounded by the longest line or value. A file that breaks off gives everything whole that
stands before the break, and then `Broken`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

CODECS = {".gz": "gzip", ".zst": "zstd"}
CHUNK = 4 << 20  # bytes of a block, about
BOM = codecs.BOM_UTF8
Chunks = Iterable[tuple[bytes, int]]  # bytes, and how far into the file (as it is) they reach


class Broken(Exception):
    """Why the rest of a file cannot be read; `after` is the last whole row."""

    def __init__(self, reason: str, after: int = 0) -> None:
        super().__init__(reason)
        self.after = after


def chunks(path: Path, size: int = CHUNK) -> Iterator[tuple[bytes, int]]:
    """A file's bytes, unpacked where its name ends in .gz or .zst."""
    codec = CODECS.get(path.suffix)
    position = 0
    try:
        if codec:
            yield from _unpacked(path, codec, size)
            return
        with path.open("rb", buffering=0) as file:
            while data := file.read(size):
                position += len(data)
                yield data, position
    except OSError as error:
        raise Broken(f"cannot be read: {error.strerror or error}") from None


def _unpacked(path: Path, codec: str, size: int) -> Iterator[tuple[bytes, int]]:
    import pyarrow as pa

    good = 0
    try:
        with pa.OSFile(str(path)) as raw, pa.CompressedInputStream(raw, codec) as file:
            while data := file.read(size):
                good += len(data)
                yield data, raw.tell()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
    else:
        return
    # A read that fails keeps back what it had unpacked: read on from there byte by byte.
    rest = bytearray()
    try:
        with pa.CompressedInputStream(pa.OSFile(str(path)), codec) as file:
            while good:
                good -= len(file.read(min(good, size)))
            while byte := file.read(1):
                rest += byte
    except (OSError, pa.ArrowException):
        yield bytes(rest), path.stat().st_size
    kind = "gzip" if codec == "gzip" else "zstd"
    raise Broken(f"the {kind} file is broken from here on ({reason}); get a whole copy of it")


def lines(source: Chunks) -> Iterator[tuple[bytes, int]]:
    """The same bytes cut at line ends, so that each piece is some whole lines."""
    pending: list[bytes] = []
    position = 0
    for data, position in source:
        cut = data.rfind(b"\n") + 1
        if cut:
            yield b"".join((*pending, data[:cut])), position
            pending = []
        if cut < len(data):
            pending.append(data[cut:])
    if pending:
        yield b"".join(pending), position


def is_jsonl(source: Iterator[tuple[bytes, int]]) -> tuple[bool, Iterator[tuple[bytes, int]]]:
    """Whether the first line is a whole JSON object; and the stream, from its beginning."""
    seen: list[tuple[bytes, int]] = []
    for one in source:
        seen.append(one)
        if b"\n" in one[0]:
            break
    first = b"".join(data for data, _ in seen).removeprefix(BOM).lstrip().split(b"\n")[0]
    try:
        whole = first.startswith(b"{") and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        whole = False
    return whole, chain(seen, source)


def json_values(source: Chunks) -> Iterator[tuple[str, int]]:
    """The text of each item of a top-level list, or of each of several objects in a row."""
    text = _Text(source)
    in_list = False
    first = text.peek()
    if first == "[":
        in_list = True
        text.place += 1
    elif first != "{":
        raise Broken("is neither a list of objects nor an object")
    while (mark := text.peek()) and not (in_list and mark == "]"):
        yield text.value(), text.position
        if in_list and text.peek() == ",":
            text.place += 1
        elif in_list and text.peek() not in ("]", ""):
            raise Broken(f"not JSON (a comma is missing before {text.buffer[text.place]!r})")
    if in_list and mark != "]":
        raise Broken("breaks off before the list is closed; get a whole copy of it")
    text.place += 1
    if in_list and text.peek():
        raise Broken("there is more after the end of the list")


class _Text:
    """Text that is read as it is needed; each refill doubles what has not been used yet."""

    def __init__(self, source: Chunks) -> None:
        self.source = iter(source)
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.scan = json.JSONDecoder().raw_decode
        self.buffer, self.place, self.position, self.ended = "", 0, 0, False

    def refill(self) -> None:
        """Read at least as much again as is still unused, so that a long value costs no square."""
        rest = self.buffer[self.place :]
        parts, length = [rest], 0
        while not self.ended and (not length or length < len(rest)):
            data, self.position = next(self.source, (b"", self.position))
            self.ended = not data
            try:
                parts.append(self.decode(data, final=self.ended))
            except UnicodeDecodeError:
                raise Broken("not UTF-8 text") from None
            length += len(parts[-1])
        self.buffer, self.place = "".join(parts), 0

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self.place < len(self.buffer) and self.buffer[self.place] in " \t\r\n":
                self.place += 1
            if self.place < len(self.buffer):
                return self.buffer[self.place]
            if self.ended:
                return ""
            self.refill()

    def value(self) -> str:
        """The text of the JSON value that begins here."""
        while True:
            try:
                _, end = self.scan(self.buffer, self.place)
            except json.JSONDecodeError as error:
                # Incomplete text fails at its end, or in a string that has no end yet.
                near = error.pos >= len(self.buffer) - 16 or error.msg.startswith("Unterminated")
                if self.ended or not near:
                    raise Broken(f"not JSON ({error.msg}, in the value after this one)") from None
            except RecursionError:
                raise Broken("nested too deeply") from None
            else:
                after = self.buffer[end : end + 1]  # a number may go on in what is not read yet
                if self.ended or self.buffer[end - 1] in '}]"' or (after and after in ",] \t\r\n"):
                    found, self.place = self.buffer[self.place : end], end
                    return found
            self.refill()
