"""One record: its schema, the rules beside it, and what is wrong with it in a few words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, TypedDict

from userlm_synth.errors import Problems, UserError
from userlm_synth.resources import data_folder

Record = dict[str, Any]
Role = Literal["system", "user", "assistant"]
END_TOKEN = "<|endconversation|>"
INTENT_OPENING = "You are a user chatting with an assistant language model to"


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


def user_turns(messages: Sequence[Message] | Sequence[Record]) -> list[str]:
    """The user's utterances, in order."""
    return [message["content"] for message in messages if message["role"] == "user"]


# ---- the two layers ----------------------------------------------------------------------------


@cache
def schema_names() -> tuple[str, ...]:
    """The shipped schemas' names: conversation, dialogue, ..."""
    files = data_folder("schemas").glob("*.schema.json")
    return tuple(sorted(file.name.removesuffix(".schema.json") for file in files))


@cache
def load_schema(name: str) -> Record:
    """A shipped JSON Schema (draft 2020-12) by name."""
    if name not in schema_names():
        raise UserError(f"no schema named {name!r}; there are: {', '.join(schema_names())}")
    text = (data_folder("schemas") / f"{name}.schema.json").read_text(encoding="utf-8")
    schema: Record = json.loads(text)
    return schema


@cache
def _fast_validator(name: str) -> Any:
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(load_schema(name))


@cache
def _explaining_validator(name: str) -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(load_schema(name))


def json_path(parts: Iterable[str | int]) -> str:
    """`messages[2].role`, or `(record)` for the record itself."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "(record)"


def record_problems(record: Any, schema: str) -> list[str]:
    """Every problem of one record as `json.path: what is wrong and what to do`."""
    try:
        found = []
        if not _encodes(record):
            found = [f"{path}: {what}" for path, what in bad_values(record)]
    except RecursionError:
        return ["(record): nested too deeply"]
    if found:  # a validator may refuse such text altogether
        return found
    if not _fast_validator(schema).is_valid(record):
        found_errors = _explaining_validator(schema).iter_errors(record)
        errors = sorted(
            (leaf for error in found_errors for leaf in _leaves(error)),
            key=lambda error: str(error.absolute_path),
        )
        lines = [f"{json_path(error.absolute_path)}: {_plainly(error)}" for error in errors]
        found = list(dict.fromkeys(lines))  # one line for all missing fields
    return found or [f"{path}: {what}" for path, what in rule_problems(record)]


def has_form(record: Any, schema: str) -> bool:
    """The quick half of `record_problems`: schema and rules, without a look at the text."""
    return _fast_validator(schema).is_valid(record) and not any(rule_problems(record))


def _leaves(error: Any) -> Iterator[Any]:
    """What is really wrong under an `anyOf` whose other branch is null."""
    inner = [one for one in error.context or () if one.validator_value != "null"]
    if error.validator != "anyOf" or not inner:
        yield error
    else:
        for one in inner:
            yield from _leaves(one)


def _plainly(error: Any) -> str:
    """A validation error in a few words, without the whole value in it."""
    value = error.instance
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in value]
        return f"missing {', '.join(map(repr, missing))}"
    if error.validator == "additionalProperties":
        extra = sorted(set(value) - set(error.schema.get("properties", {})))
        return f"unknown {', '.join(map(repr, extra))} (extra fields go under 'metadata')"
    if error.validator == "pattern":
        return "is empty; give it some text"
    if error.validator == "minItems":
        return f"needs at least {error.validator_value} item(s)"
    shown = json.dumps(value, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{shown} {error.message.removeprefix(repr(value)).strip()}"[:200]


def _encodes(record: Any) -> bool:
    """The quick look that nearly every record passes: UTF-8 without NUL, and no NaN."""
    import orjson

    try:
        return b"\\u0000" not in orjson.dumps(record) and bool(json.dumps(record, allow_nan=False))
    except (TypeError, ValueError):
        return False


def bad_values(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, str]]:
    """NUL and lone surrogates, which no tokenizer, database or Parquet file takes; NaN."""
    if isinstance(value, str):
        if "\0" in value:
            yield json_path(path), "contains a NUL character (U+0000); remove it"
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            yield json_path(path), "contains a lone surrogate (broken text); mend or remove it"
    elif isinstance(value, float) and not math.isfinite(value):
        yield json_path(path), f"{value} is not a JSON number; remove it"
    elif isinstance(value, dict):
        for key, item in value.items():
            shown = (*path, key.encode(errors="replace").decode())
            yield from bad_values(key, shown)
            yield from bad_values(item, shown)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from bad_values(item, (*path, index))


def rule_problems(record: Record) -> Iterator[tuple[str, str]]:
    """Rules beside the schema: roles alternate and the user opens; ends where it may."""
    messages = record.get("messages") or []
    if messages and messages[0]["role"] != "user":
        yield "messages[0].role", f"the user opens a conversation, not the {messages[0]['role']}"
        return
    for index in range(1, len(messages)):
        if messages[index]["role"] == messages[index - 1]["role"]:
            role = messages[index]["role"]
            yield (
                f"messages[{index}].role",
                f"two {role} turns in a row; merge them (roles alternate from user)",
            )
    if record.get("end") is True and record["completion"][0]["content"] != END_TOKEN:
        yield "completion[0].content", f"an end sample's content is {END_TOKEN}"


def check(record: Record, schema: str, where: str) -> Record:
    """`record` if it is valid; else `Problems`, each line opening with `where`."""
    problems = record_problems(record, schema)
    if problems:
        raise Problems(f"{where}: {problem}" for problem in problems)
    return record


def guess_schema(record: Any, name: str = "") -> str:
    """Which schema a record is meant for, from its file's name and its keys."""
    by_name = {
        "card.json": "card",
        "manifest.json": "manifest",
        "evaluation.json": "evaluation",
        "utility.json": "utility",
        "benchmark.json": "benchmark",
        "report.json": "report",
    }
    if name == "manifest.json" and isinstance(record, dict) and "splits" in record:
        return "release"
    if name in by_name:
        return by_name[name]
    if name.endswith((".yaml", ".yml")):
        return "recipe"
    keys = set(record) if isinstance(record, dict) else set()
    for schema, marks in {
        "rejected": {"stop_reason", "reason"},
        "dialogue": {"stop_reason"},
        "sample": {"completion"},
        "conversation": {"messages"},
        "task": {"shards"},
        "manifest": {"stages"},
    }.items():
        if marks <= keys:
            return schema
    if "persona" in keys and keys <= {"id", "persona", "weight", "metadata"}:
        return "persona"
    return "intent" if "intent" in keys else "conversation"


# ---- the quick way -----------------------------------------------------------------------------


def quickly_passed(line: bytes, schema: str) -> Record | None:
    """The record of a JSONL line that is plainly good; None is for the slow path to explain.

    orjson refuses what is no UTF-8, lone surrogates, NaN and numbers too large for a double. An
    integer beyond 64 bits becomes a float in it, so such a number goes the slow way too.
    """
    import orjson

    if b"\\u0000" in line:
        return None
    try:
        record: Record = orjson.loads(line)
    except ValueError:
        return None
    if not is_plain(record) or not has_form(record, schema):
        return None
    return record


def is_plain(record: Any, depth: int = 64) -> bool:
    """Whether no number in it may have lost digits, and it is nested `depth` deep at most."""
    level = [[record]]
    for _ in range(depth):
        below: list[Any] = []
        for values in level:
            for value in values:
                kind = type(value)
                if kind is dict:
                    below.append(value.values())
                elif kind is list:
                    below.append(value)
                elif kind is float and not -(2.0**63) < value < 2.0**63:
                    return False
        if not below:
            return True
        level = below
    return False
