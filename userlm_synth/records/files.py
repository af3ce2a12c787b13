"""Files of records: read a line at a time, written whole or not at all."""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from userlm_synth.errors import Problems, UserError, explain_disk_full
from userlm_synth.records.checks import Record, check, guess_schema, quickly_passed, record_problems


def open_text(path: Path) -> IO[bytes]:
    """A file for reading bytes, gunzipped when its name ends in .gz."""
    try:
        if path.suffix == ".gz":
            return gzip.open(path)  # type: ignore[return-value]
        return path.open("rb", buffering=1 << 20)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a JSONL file") from None


def parse_json(text: bytes | str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity. Raises ValueError, in a few words."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, parsed JSON) of a JSONL file; a bad line raises UserError with its number."""
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, parse_json(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: broken gzip file after line {number} ({error})") from None
    except ValueError as error:
        raise UserError(f"{path}:{number}: {error}; mend or remove the line") from None


def read_records(path: Path, schema: str) -> list[Record]:
    """All records of a JSONL file, checked, ids unique; raises with every problem listed."""
    records, problems = [], []
    with no_collection():
        for record, found in _scan(path, schema):
            problems += found
            if not problems:
                records.append(record)
    if problems:
        raise Problems(problems)
    if not records:
        raise UserError(f"{path}: is empty; it needs at least one {schema}, a JSON object a line")
    return records


@contextmanager
def no_collection() -> Iterator[None]:
    """Records have no cycles: looking for some again and again takes half of the time to read."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def file_problems(path: Path, schema: str | None = None) -> tuple[int, list[str]]:
    """(records seen, problems as `file:line: path: what`) of a JSONL, JSON or YAML file."""
    if path.suffix in (".json", ".yaml", ".yml"):
        try:
            record = _read_document(path)
        except ValueError as error:
            return 0, [f"{path}: {error}"]
        schema = schema or guess_schema(record, path.name)
        return 1, [f"{path}: {problem}" for problem in record_problems(record, schema)]
    count, problems = 0, []
    for record, found in _scan(path, schema):
        count += record is not NOTHING
        problems += found
    if not count and not problems and path.name != "rejected.jsonl":
        problems.append(f"{path}: is empty; it needs at least one record, a JSON object a line")
    return count, problems


def _read_document(path: Path) -> Any:
    with open_text(path) as file:
        text = file.read()
    if path.suffix == ".json":
        return parse_json(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML ({str(error).splitlines()[0]})") from None


NOTHING = object()  # in place of a line that holds no JSON


def _scan(path: Path, schema: str | None) -> Iterator[tuple[Any, list[str]]]:
    """(record or NOTHING, its problems with file and line) a line; only ids are kept, as hashes."""
    first_seen: dict[int, int] = {}  # line by a hash of the id
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                record = quickly_passed(line, schema) if schema else None
                found: list[str] = []
                if record is None:
                    if not line.strip():
                        continue
                    try:
                        record = parse_json(line)
                    except ValueError as error:
                        yield NOTHING, [f"{path}:{number}: {error}; mend or remove the line"]
                        continue
                    schema = schema or guess_schema(record, path.name)
                    found = record_problems(record, schema)
                name = record.get("id") if not found else None
                if isinstance(name, str):  # some records have no id
                    line_before = first_seen.setdefault(_hashed(name), number)
                    if line_before != number:
                        found = [f"id: {name!r} is on line {line_before} too"]
                yield record, [f"{path}:{number}: {problem}" for problem in found]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield NOTHING, [f"{path}: broken gzip file after line {number} ({error})"]


def _hashed(name: str) -> int:
    """128 bits of an id, in less memory than the id."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")


def to_line(record: Record) -> str:
    """One record as a JSON line; no line separator can hide in it."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"


def write_records(path: Path, records: Iterable[Record], schema: str) -> int:
    """Check and write a JSONL file (gzipped if named .gz), all or nothing; returns the count."""
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for count, record in enumerate(records, 1):
            yield to_line(check(record, schema, f"{path}:{count}")).encode()

    write_bytes(path, lines())
    return count


def write_json(path: Path, value: Record, schema: str | None = None) -> None:
    """Check and write one JSON document, all or nothing."""
    if schema:
        check(value, schema, str(path))
    write_bytes(path, [(json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()])


def write_bytes(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file beside its place and move it there when it is whole and on the disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        with explain_disk_full(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as raw:
                if path.suffix == ".gz":
                    with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                        for chunk in chunks:
                            packed.write(chunk)
                else:
                    raw.writelines(chunks)
                raw.flush()
                os.fsync(raw.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """A folder for output, with its parents; a file in its place is a `UserError`."""
    with explain_disk_full(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{path}: is a file; name a folder with --out") from None


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stable_hash(*parts: object) -> str:
    """Hex SHA-256 of JSON-able parts: the same on every machine, in every process."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
