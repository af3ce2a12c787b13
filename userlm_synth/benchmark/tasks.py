"""Tasks that a simulated user brings to an assistant: read from a file, or those shipped here.

A task is told whole in `instruction` and bit by bit in `shards`, and its `check` tells right
solutions from wrong ones (schema `task`).
"""

from __future__ import annotations

import ast
import gzip
import json
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from userlm_synth.benchmark.lost_in_conversation import FormError, as_task, is_sharded, kind_of
from userlm_synth.benchmark.solutions import extract_number
from userlm_synth.errors import Problems, UserError
from userlm_synth.progress import say
from userlm_synth.records import Record, check, parse_json, record_problems

DOMAINS = ("math", "code")
OWN = Path(__file__).resolve().parent / "own_tasks"
Row = tuple[str, Any]  # where it stands, and what it is


def read_tasks(path: Path, *, limit: int | None = None, domain: str | None = None) -> list[Record]:
    """The tasks of a file, all checked: of `domain` if it is given, the first `limit` of them.

    The file is JSON lines (or a JSON list) of tasks, or of Lost in Conversation's sharded
    instructions, of which math and code are taken; gzipped or not. What is left out is said.
    """
    rows = list(_rows(path))
    if not rows:
        raise UserError(f"{path}: is empty; it needs at least one task")
    first = rows[0][1]
    if isinstance(first, dict) and is_sharded(first):
        tasks = _sharded(path, rows)
    elif isinstance(first, dict) and {"instruction", "shards", "domain"} & set(first):
        tasks = _checked(rows)
    else:
        fields = ", ".join(map(str, first)) if isinstance(first, dict) else "no fields"
        raise UserError(
            f"{path}: holds no tasks that are known here: a task has id, domain, instruction, "
            f"shards and check, one of Lost in Conversation task_id, task and shards; the first "
            f"record has {fields[:200]}"
        )
    return _chosen(tasks, str(path), limit, domain)


def own_tasks(*, limit: int | None = None, domain: str | None = None) -> list[Record]:
    """The tasks that come with the package: ten in math and ten in code, in turn."""
    return _chosen(json.loads(_own_tasks()), "the package's own tasks", limit, domain)


def task_problems(task: Any) -> list[str]:
    """Every problem of a task as `json.path: what is wrong`: its schema, then its sense."""
    found = record_problems(task, "task")
    return found or [f"{path}: {what}" for path, what in _sense_problems(task)]


def _sense_problems(task: Record) -> Iterator[tuple[str, str]]:
    ids = [shard["id"] for shard in task["shards"]]
    for place, name in enumerate(ids):
        if (before := ids.index(name)) < place:
            yield f"shards[{place}].id", f"{name!r} is the id of shards[{before}] too"
    check = task["check"]
    if task["domain"] == "math":
        if extract_number(check["answer"]) is None:
            yield "check.answer", f"{check['answer'][:60]!r} holds no number"
        return
    if not all(name.isidentifier() for name in check["entry_point"].split(".")):
        yield "check.entry_point", f"{check['entry_point'][:60]!r} is no name of a function"
    for part in ("setup", "test", "solution"):
        if fault := _python_fault(check.get(part, "")):
            yield f"check.{part}", fault


def _python_fault(source: str) -> str:
    """Why a source is not Python, or nothing; it is not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape would warn on standard error
            ast.parse(source)
    except SyntaxError as error:
        return f"is not Python ({error.msg} in line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"is not Python ({error or type(error).__name__})"
    return ""


# ---- files -----------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[Row]:
    """Each record of a JSON list or of JSON lines, with its place."""
    text = _bytes(path).removeprefix(b"\xef\xbb\xbf").strip()
    if text.startswith(b"["):
        for number, record in enumerate(_document(path, text), 1):
            yield f"{path}:record {number}", record
        return
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", parse_json(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}; a task is one line") from None


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name one, or 'own' for the tasks here") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a file with tasks") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: broken gzip file ({error})") from None


def _document(path: Path, text: bytes) -> list[Any]:
    try:
        found: list[Any] = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    return found


def _checked(rows: list[Row]) -> list[Record]:
    """The tasks if all are right and no id comes twice; else every problem."""
    problems: list[str] = []
    first_seen: dict[str, str] = {}
    for where, task in rows:
        found = task_problems(task)
        if not found and (before := first_seen.setdefault(task["id"], where)) != where:
            found = [f"id: {task['id']!r} is the id of {before} too"]
        problems += [f"{where}: {problem}" for problem in found]
    if problems:
        raise Problems(problems)
    return [task for _, task in rows]


def _sharded(path: Path, rows: list[Row]) -> list[Record]:
    """Math and code of Lost in Conversation's form; the first sharding of each instruction."""
    made: dict[str, Row] = {}
    problems: list[str] = []
    others: Counter[str] = Counter()
    again = empty = 0
    for number, (where, record) in enumerate(rows, 1):
        if not isinstance(record, dict) or not is_sharded(record):
            problems.append(f"{where}: (record): has no shards as the records before it have")
            continue
        if (kind := kind_of(record)) not in DOMAINS:
            others[kind] += 1
            continue
        try:
            task = as_task(record, number)
        except FormError as error:
            problems.append(f"{where}: {error}")
            continue
        before = made.setdefault(task["id"], (where, task))
        if before[1] is task:
            empty += len(record["shards"]) - len(task["shards"])
        elif all(before[1][part] == task[part] for part in ("instruction", "check")):
            again += 1
        else:
            problems.append(f"{where}: task_id: {task['id']!r} is another task at {before[0]}")
    problems += [f"{at}: {one}" for at, task in made.values() for one in task_problems(task)]
    if problems:
        raise Problems(problems)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    if not made:
        raise UserError(f"{path}: has no task of math or code, whose answers are checked: {kinds}")
    _say_left_out(path, kinds, again, empty)
    return [task for _, task in made.values()]


def _say_left_out(path: Path, kinds: str, again: int, empty: int) -> None:
    if kinds:
        say(f"{path}: left out tasks of kinds that are not checked here: {kinds}")
    if again:
        say(f"{path}: left out {again:,} more shardings of tasks that it has already")
    if empty:
        say(f"{path}: left out {empty:,} shards without text")


@cache
def _own_tasks() -> str:
    """The shipped tasks as JSON, so that nobody changes those of another."""
    import yaml

    by_domain = []
    for domain in DOMAINS:
        file = yaml.safe_load((OWN / f"{domain}.yaml").read_text(encoding="utf-8"))
        shared = {"origin": file["origin"]}
        by_domain.append(
            [
                {**task, "domain": domain, "metadata": {**shared, **task.get("metadata", {})}}
                for task in file["tasks"]
            ]
        )
    tasks = [task for pair in zip(*by_domain, strict=True) for task in pair]
    return json.dumps([check(task, "task", task["id"]) for task in tasks])


def _chosen(tasks: list[Record], source: str, most: int | None, domain: str | None) -> list[Record]:
    """The first tasks of a domain; none is a `UserError`."""
    kept = [task for task in tasks if domain in (None, task["domain"])][:most]
    if not kept:
        asked = f"no {domain} task" if domain else "no task"
        raise UserError(f"{source}: has {asked} to take, of {len(tasks):,} in all")
    return kept
