"""Sharded instructions as Lost in Conversation (arXiv 2505.06120) publishes them, made into tasks.

An object each: `task_id`, `task` (its kind), `shards` of `shard_id` and `shard`, and by kind
- math: `question`, and `answer` with the number after `####`;
- code: `prompt` (HumanEval) or `question_content` and `starter_code` (LiveCodeBench), the name in
  `metadata.func_name`, and tests: `public_test_cases` and `private_test_cases`, JSON texts of
  `{input, output}` with an argument a line, or HumanEval's `test`.
"""

from __future__ import annotations

import ast
import base64
import io
import pickle
import zlib
from collections.abc import Iterator
from typing import Any

from userlm_synth.records import Record, parse_json

UNPACKED = 256 << 20  # bytes of a task's packed tests, at most

#: LiveCodeBench's solutions may use these without an import, as on the sites of its problems.
IMPORTS = """\
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict, defaultdict, deque
from functools import cache, cmp_to_key, lru_cache, reduce
from heapq import heapify, heappop, heappush, heappushpop, heapreplace, nlargest, nsmallest
from itertools import accumulate, chain, combinations, groupby, pairwise, permutations, product
from math import ceil, comb, floor, gcd, inf, isqrt, lcm, sqrt
from typing import *
"""


class FormError(ValueError):
    """What is wrong in a record, as `path: what`."""


class TextOnly(pickle.Unpickler):
    """LiveCodeBench packs text as a pickle; one that names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Nothing is looked up, so that nothing runs."""
        raise pickle.UnpicklingError(f"{module}.{name} in packed text")


def is_sharded(record: Record) -> bool:
    """Whether a record is in this form."""
    shards = record.get("shards")
    if not isinstance(shards, list) or "instruction" in record:
        return False
    fields = set(shards[0]) if shards and isinstance(shards[0], dict) else set()
    return bool({"task", "question"} & set(record) or "shard" in fields)


def kind_of(record: Record) -> str:
    """`math`, `code`, or another kind, which has no check here."""
    kind = record.get("task")
    if isinstance(kind, str):
        return kind
    if "answer" in record:
        return "math"
    return "code" if {"public_test_cases", "test"} & set(record) else "unnamed"


def as_task(record: Record, number: int) -> Record:
    """A math or code record as a task, its shards without text left out; raises FormError."""
    kind = kind_of(record)
    instruction, check = _math(record) if kind == "math" else _code(record)
    metadata = {"form": "Lost in Conversation"}
    if isinstance(record.get("source"), str):
        metadata["source"] = record["source"]
    return {
        "id": str(record.get("task_id", f"task-{number}")),
        "domain": kind,
        "instruction": instruction,
        "shards": list(_shards(record)),
        "check": check,
        "metadata": metadata,
    }


def _shards(record: Record) -> Iterator[Record]:
    for place, shard in enumerate(record["shards"]):
        if not isinstance(shard, dict):
            raise FormError(f"shards[{place}]: is no object with 'shard_id' and 'shard'")
        text = shard.get("shard", shard.get("shard_text"))  # its README says the latter
        if not isinstance(text, str):
            raise FormError(f"shards[{place}].shard: is missing; a shard is a text")
        if text.strip():
            found: Record = {"id": str(shard.get("shard_id", place + 1)), "text": text}
            if isinstance(shard.get("required"), bool):
                found["required"] = shard["required"]
            yield found


def _text(record: Record, field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise FormError(f"{field}: is missing or empty; a {kind_of(record)} record needs the text")
    return value


# ---- math ------------------------------------------------------------------------------------


def _math(record: Record) -> tuple[str, Record]:
    answer = record.get("answer")
    if isinstance(answer, (int, float)):
        return _text(record, "question"), {"answer": str(answer)}
    whole = _text(record, "answer")
    _, mark, number = whole.rpartition("####")
    check = {"answer": number.strip(), "solution": whole} if mark else {"answer": whole.strip()}
    return _text(record, "question"), check


# ---- code ------------------------------------------------------------------------------------


def _code(record: Record) -> tuple[str, Record]:
    check: Record = {"entry_point": _entry_point(record)}
    if cases := list(_cases(record)):
        check["cases"] = cases
    else:
        check["test"] = _text(record, "test" if "test" in record else "public_test_cases")
    if "prompt" in record:
        prompt = check["setup"] = _text(record, "prompt")  # its imports, and what it defines before
        if isinstance(record.get("canonical_solution"), str):
            check["solution"] = prompt + record["canonical_solution"]
        return f"Complete this Python function:\n\n```python\n{prompt.rstrip()}\n```", check
    check["setup"] = IMPORTS
    question, starter = _text(record, "question_content"), record.get("starter_code")
    if isinstance(starter, str) and starter.strip():
        question += f"\n\nBegin with this code:\n\n```python\n{starter.rstrip()}\n```"
    return question, check


def _entry_point(record: Record) -> str:
    """The function's name, with its class where the code to begin with has one."""
    metadata = record.get("metadata")
    if isinstance(metadata, str):
        metadata = _parsed(metadata, "metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    name = name or record.get("entry_point")
    if not isinstance(name, str):
        raise FormError("metadata.func_name: is missing; the function's name is needed")
    starter = record.get("starter_code")
    in_class = isinstance(starter, str) and "class Solution" in starter
    return f"Solution.{name}" if in_class and "." not in name else name


def _cases(record: Record) -> Iterator[Record]:
    for field in ("public_test_cases", "private_test_cases"):
        for place, case in enumerate(_case_list(record.get(field), field)):
            where = f"{field}[{place}]"
            if not isinstance(case, dict) or not {"input", "output"} <= set(case):
                raise FormError(f"{where}: is no object with 'input' and 'output'")
            if case.get("testtype", "functional") != "functional":
                raise FormError(f"{where}: tests a program with input and output, not a function")
            lines = [line for line in str(case["input"]).splitlines() if line.strip()]
            args = [_value(line, f"{where}.input") for line in lines]
            yield {"args": args, "expected": _value(str(case["output"]), f"{where}.output")}


def _case_list(given: Any, field: str) -> list[Any]:
    """A list, JSON text of one, or such text pickled, packed by zlib and written in base 64."""
    if isinstance(given, str) and given.strip():
        packed = not given.lstrip().startswith("[")
        given = _parsed(_unpacked(given, field) if packed else given, field)
    if not given:
        return []
    if not isinstance(given, list):
        raise FormError(f"{field}: is no list of test cases")
    return given


def _unpacked(text: str, field: str) -> str:
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(text, validate=True), UNPACKED)
        if unzip.unconsumed_tail:
            raise FormError(f"{field}: unpacks to more than {UNPACKED >> 20} MiB")
        found = TextOnly(io.BytesIO(data)).load()
    except FormError:
        raise
    except Exception as error:  # bytes of any kind: pickle fails in as many ways
        raise FormError(f"{field}: cannot be unpacked ({error})") from None
    if not isinstance(found, str):
        raise FormError(f"{field}: is packed, and not as text")
    return found


def _parsed(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise FormError(f"{where}: {error}") from None


def _value(text: str, where: str) -> Any:
    """An argument or a result: JSON, or else a Python literal of what JSON can hold."""
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        return _plain(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise FormError(f"{where}: {shown!r} is neither JSON nor a plain Python value") from None


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(one) for key, one in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError
