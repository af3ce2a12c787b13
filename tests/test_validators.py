"""Facts about the two validators: the quick one lets through exactly what the explaining one does.

Records are mutated with a seed, one to three times each, about half of them into bad ones. The same
holds of whole lines: what the quick path of a file passes is what the slow one finds nothing in.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reading import Json, dialogue

from toys import conversation
from userlm_synth.records import (
    END_TOKEN,
    file_problems,
    load_schema,
    parse_json,
    quickly_passed,
    read_records,
    record_problems,
)
from userlm_synth.records.checks import _explaining_validator, _fast_validator

TURNS = ("could i get a latte", "Sure, here or to go?", "to go, 谢谢 🙂", "Done.", "bye")
SAMPLE = {
    "id": "s-0", "conversation_id": "c-0", "turn": 1, "end": True,
    "prompt": [{"role": "system", "content": "You are"}, {"role": "user", "content": "hi"}],
    "completion": [{"role": "user", "content": END_TOKEN}],
}  # fmt: skip
SEEDS: dict[str, Json] = {
    "dialogue": dialogue(0, *TURNS, persona="Writes short lines.", user_id="u1"),
    "conversation": conversation(*TURNS),
    "intent": {"id": "i-0", "intent": "You are a user", "persona": None, "metadata": {"n": 1}},
    "sample": SAMPLE,
}
ODD: list[Any] = [
    None, True, False, 0, 1, -1, -7, 1.0, 2.5, 0.0, -0.0, 1e300, 2**63, 2**64, -(2**63) - 1,
    10**30, "", " ", "\n\t", "\u2003", "\u200b", "user", "assistant", "system", "tool", "é", "🙂",
    "\u202e", "max_turns", END_TOKEN, [], {}, [None], [[]], {"": ""}, {"role": "user"},
    [0.5, 2], [1e-300, 1], [{"role": "user", "content": "x"}],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a record, its own included."""
    found, items = [path], list[Any]()
    if isinstance(value, (dict, list)):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, item in items:
        found += places(item, (*path, key))
    return found


def inside(record: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        record = record[key]
    return record


def mutate(record: Json, rng: random.Random) -> Json:
    """One change somewhere: harmless, or not."""
    path = rng.choice(places(record)[1:])
    parent, key = inside(record, path[:-1]), path[-1]
    kind = rng.choice(
        ("drop", "odd", "extra", "move", "number", "text", "role", "metadata", "empty")
    )
    if kind == "drop":
        del parent[key]
    elif kind == "empty":
        filled = [p for p in places(record)[1:] if isinstance(inside(record, p), (str, list, dict))]
        one = rng.choice(filled or [path])
        inside(record, one[:-1])[one[-1]] = type(inside(record, one))()
    elif kind == "odd":
        parent[key] = copy.deepcopy(rng.choice(ODD))
    elif kind == "extra":
        target = parent if isinstance(parent, dict) else record
        target[rng.choice(("colour", "name", "", "id", "reason"))] = copy.deepcopy(rng.choice(ODD))
    elif kind == "move":
        parent[key] = copy.deepcopy(inside(record, rng.choice(places(record)[1:])))
    elif kind == "number":
        for one in [p for p in places(record) if type(inside(record, p)) in (int, float)][:1]:
            value = rng.choice((0, 3, 3.0, -3, True, 2**53, 2**64, 1.5, 10**25))
            inside(record, one[:-1])[one[-1]] = value
    elif kind == "text":
        texts = [p for p in places(record) if isinstance(inside(record, p), str) and p]
        one = rng.choice(texts)
        inside(record, one[:-1])[one[-1]] += rng.choice(("!", " ", "é", "\u2028", "\x7f"))
    elif kind == "role" and isinstance(record.get("messages"), list):
        for message in record["messages"][:1]:
            if isinstance(message, dict):
                message["role"] = rng.choice(("user", "assistant", "User", "system", None, 1))
    elif isinstance(record.get("metadata", {}), dict):
        record["metadata"] = {"a": copy.deepcopy(rng.choice(ODD)), "b": {"c": [1, None]}}
    return record


@cache
def corpus(schema: str, count: int) -> list[Json]:
    """Good and bad records in about equal numbers."""
    rng = random.Random(0)
    made = []
    for number in range(count):
        record = copy.deepcopy(SEEDS[schema])
        for _ in range(rng.choice((1, 1, 2, 3)) if number % 4 else 0):
            record = mutate(record, rng)
            if len(places(record)) < 2:
                break
        made.append(record)
    return made


@cache
def explained(schema: str, count: int) -> list[list[str]]:
    """For each record of the corpus the keywords of the schema that it breaks, by `jsonschema`."""
    slow = _explaining_validator(schema)
    return [[error.validator for error in slow.iter_errors(one)] for one in corpus(schema, count)]


@pytest.mark.parametrize(
    ("schema", "count"),
    [("dialogue", 5000), ("conversation", 1000), ("intent", 1000), ("sample", 1000)],
)
def test_both_validators_agree_on_every_mutated_record(schema: str, count: int) -> None:
    records, broken = corpus(schema, count), explained(schema, count)
    fast = _fast_validator(schema)
    apart = [one for one, by in zip(records, broken, strict=True) if fast.is_valid(one) == bool(by)]
    assert apart == []
    good = sum(not by for by in broken)
    assert 0.3 * count < good < 0.7 * count, "both verdicts are frequent"


def test_the_corpus_is_varied() -> None:
    assert len({json.dumps(one, sort_keys=True) for one in corpus("dialogue", 5000)}) > 2000
    kinds = Counter(kind for broken in explained("dialogue", 5000) for kind in broken)
    every = "required additionalProperties type enum minimum pattern minItems minLength anyOf"
    assert min(kinds[kind] for kind in every.split()) >= 5


@pytest.mark.parametrize(
    ("path", "weaker"),
    [
        (("properties", "seed", "minimum"), -10),
        (("properties", "seed", "type"), "number"),
        (("properties", "messages", "items", "properties", "content", "pattern"), ""),
        (("properties", "messages", "minItems"), 0),
        (("properties", "messages", "items", "additionalProperties"), True),
        (("properties", "intent", "anyOf"), [{"type": "string"}, {"type": "null"}]),
        (("additionalProperties",), True),
    ],
)
def test_a_validator_that_is_a_little_too_kind_is_noticed(
    path: tuple[str, ...], weaker: Any
) -> None:
    import jsonschema_rs

    schema = copy.deepcopy(load_schema("dialogue"))
    inside(schema, path[:-1])[path[-1]] = weaker
    weak = jsonschema_rs.Draft202012Validator(schema)
    pairs = zip(corpus("dialogue", 5000), explained("dialogue", 5000), strict=True)
    assert any(weak.is_valid(one) == bool(broken) for one, broken in pairs)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(
        st.characters(exclude_categories=("Cs",)), max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_both_validators_agree_on_any_value_in_any_place(data: st.DataObject) -> None:
    schema = data.draw(st.sampled_from(sorted(SEEDS)))
    record = copy.deepcopy(SEEDS[schema])
    path = data.draw(st.sampled_from(places(record)[1:]))
    inside(record, path[:-1])[path[-1]] = data.draw(values)
    slow = _explaining_validator(schema).is_valid(record)
    assert _fast_validator(schema).is_valid(record) == slow


# ---- whole lines -----------------------------------------------------------------------------

LINE = json.dumps(SEEDS["dialogue"], ensure_ascii=False).encode()
SPLICES = (
    b"\x00", b"\\u0000", b"\\ud800", b"\xed\xa0\x80", b"\xff", b"\xef\xbb\xbf", b"NaN", b"1e999",
    b"-0", b"01", b"18446744073709551616", b"123456789012345678901234567890", b"1" * 400, b"1.",
    b"[" * 40 + b"]" * 40, b"[" * 300 + b"]" * 300, b"\t", b"\r", b"\x0b", b",", b"}", b'"', b"\\",
    b'"id":"twice",', b'"seed":1.0,', b'"seed":1e2,', b'"seed":99999999999999999999,', b" ",
    b'"metadata":{"a":18446744073709551616},',
)  # fmt: skip


def slowly(line: bytes, schema: str) -> tuple[Any, list[str]]:
    try:
        record = parse_json(line)
    except ValueError as error:
        return None, [str(error)]
    return record, record_problems(record, schema)


def spliced(rng: random.Random) -> bytes:
    """A line with some bytes put in, out or over."""
    line = LINE
    for _ in range(rng.choice((1, 1, 2))):
        at = 1 if rng.random() < 0.3 else rng.randrange(len(line) + 1)
        what = rng.choice((rng.choice(SPLICES), bytes([rng.randrange(256)])))
        line = line[:at] + what + line[at + rng.choice((0, 0, 1, len(what))) :]
    return line


def test_a_line_passes_quickly_only_where_the_slow_path_finds_nothing_and_reads_the_same() -> None:
    rng = random.Random(0)
    passed = refused = 0
    for number in range(6000):
        line = spliced(rng) if number % 4 else LINE
        quick = quickly_passed(line, "dialogue")
        record, problems = slowly(line, "dialogue")
        if quick is not None:
            assert problems == []
            assert quick == record
            assert json.dumps(quick) == json.dumps(record), "types and order too"
        passed += quick is not None
        refused += bool(problems)
    assert passed > 1500
    assert refused > 1500


def test_a_good_line_takes_the_quick_path() -> None:
    assert quickly_passed(LINE, "dialogue") == SEEDS["dialogue"]
    assert quickly_passed(b" " + LINE + b"\r\n", "dialogue") == SEEDS["dialogue"]


def test_a_rule_that_no_schema_says_holds_on_the_quick_path_too() -> None:
    turns = SEEDS["dialogue"]["messages"]
    for messages in (turns[1:], turns[:1] * 2, turns[:2] + turns[1:]):
        record = {**SEEDS["dialogue"], "messages": messages}
        assert _fast_validator("dialogue").is_valid(record)
        assert quickly_passed(json.dumps(record).encode(), "dialogue") is None


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**25])
def test_an_integer_beyond_64_bits_keeps_its_digits(tmp_path: Path, number: int) -> None:
    path = tmp_path / "d.jsonl"
    record = dialogue(0, metadata={"a": [{"b": number}]})
    path.write_text(json.dumps(record) + "\n")
    (found,) = read_records(path, "dialogue")
    assert found["metadata"]["a"][0]["b"] == number


def test_of_a_file_only_ids_are_kept(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "d.jsonl"
    with path.open("w") as file:
        for number in range(2000):
            file.write(json.dumps(dialogue(number, "x" * 4000)) + "\n")
    file_problems(path, "dialogue")  # what is imported and built once
    tracemalloc.start()
    assert file_problems(path, "dialogue") == (2000, [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 8_000_000
    assert peak < 3_000_000


def test_a_bad_line_amid_good_ones_is_named_with_all_that_follow(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [dialogue(number) for number in range(4)]
    rows[1]["seed"] = -1
    rows[3]["id"] = "toy-0"
    rows[1]["id"] = "toy-2"  # of a record that is bad, so that it is not taken
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    count, problems = file_problems(path)
    assert count == 4
    assert [one.removeprefix(f"{path}:")[:30] for one in problems] == [
        "2: seed: -1 is less than the m", "4: id: 'toy-0' is on line 1 to",
        "5: not JSON (Expecting propert",
    ]  # fmt: skip
