"""Facts about record files: what is written is read back, what is broken is refused and named."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toys import conversation
from userlm_synth.errors import UserError
from userlm_synth.records import (
    file_problems,
    guess_schema,
    load_schema,
    read_lines,
    read_records,
    record_problems,
    schema_names,
    stable_hash,
    write_bytes,
    write_records,
)

GOOD = conversation("hi", "hello", "bye")
text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
filled = text.map(lambda s: f"x{s}")
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def in_turn(contents: list[str]) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[place % 2], "content": content}
        for place, content in enumerate(contents)
    ]


conversations = st.fixed_dictionaries(
    {
        "id": filled,
        "source": filled,
        "user_id": st.none() | text,
        "language": st.none() | text,
        "intent": st.none() | filled,
        "persona": st.none() | text,
        "messages": st.lists(filled, min_size=1, max_size=5).map(in_turn),
        "metadata": st.dictionaries(text, plain, max_size=3),
    }
)


@settings(max_examples=60)
@given(st.lists(conversations, min_size=1, max_size=3, unique_by=lambda r: r["id"]), st.booleans())
def test_what_is_written_is_read_back_equal(records: list[Any], packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("c.jsonl.gz" if packed else "c.jsonl")
        assert write_records(path, records, "conversation") == len(records)
        assert read_records(path, "conversation") == records
        assert [p.name for p in Path(folder).iterdir()] == [path.name]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["user", "assistant", "system", "tool"]), max_size=6))
def test_exactly_the_records_with_alternating_roles_pass(roles: list[str]) -> None:
    record = {**GOOD, "messages": [{"role": role, "content": "x"} for role in roles]}
    alternating = ["user", "assistant"] * 3
    good = bool(roles) and roles == alternating[: len(roles)]
    assert (not record_problems(record, "conversation")) == good


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"messages": in_turn(["a"]) * 2}, "messages[1].role: two user turns in a row"),
        ({"messages": in_turn(["a", "b"])[1:]}, "messages[0].role: the user opens a conversation"),
        ({"messages": []}, "messages: needs at least 1 item"),
        ({"messages": None}, "messages: null is not of type 'array'"),
        ({"messages": in_turn(["  \n"])}, "messages[0].content: is empty"),
        ({"intent": ""}, "intent: is empty; give it some text"),
        ({"messages": in_turn(["a\0b"])}, "messages[0].content: contains a NUL character"),
        ({"persona": "\udc80"}, "persona: contains a lone surrogate"),
        ({"metadata": {"\ud800": "\0"}}, "metadata.?: contains a lone surrogate"),
        ({"metadata": {"a": [1, float("nan")]}}, "metadata.a[1]: nan is not a JSON number"),
        ({"id": 5}, "id: 5 is not of type 'string'"),
        ({"colour": "red"}, "(record): unknown 'colour' (extra fields go under 'metadata')"),
    ],
)
def test_a_problem_is_named_with_its_path(change: dict[str, Any], said: str) -> None:
    problems = record_problems({**GOOD, **change}, "conversation")
    assert problems
    assert problems[0].startswith(said)
    for problem in problems:
        problem.encode()  # printable


def test_a_record_without_a_field_says_which() -> None:
    record = {key: value for key, value in GOOD.items() if key not in ("id", "intent")}
    assert record_problems(record, "conversation") == ["(record): missing 'id', 'intent'"]


def test_a_record_nested_a_thousand_deep_is_a_problem_and_no_crash() -> None:
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    problem = record_problems({**GOOD, "metadata": {"x": deep}}, "conversation")
    assert problem == ["(record): nested too deeply"]


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_number_that_json_does_not_have_is_never_written(tmp_path: Path, number: float) -> None:
    with pytest.raises(UserError, match="is not a JSON number"):
        write_records(tmp_path / "c.jsonl", [{**GOOD, "metadata": {"x": number}}], "conversation")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_json_does_not_have_is_never_read(tmp_path: Path, number: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({**GOOD, "metadata": {"x": 7}}).replace("7", number) + "\n")
    with pytest.raises(UserError, match=r"c\.jsonl:1: .*not "):
        read_records(path, "conversation")


def test_a_bad_record_leaves_the_former_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    write_records(path, [GOOD], "conversation")
    former = path.read_bytes()
    with pytest.raises(UserError, match=r"c\.jsonl:2: messages\[0\]"):
        write_records(path, [GOOD, {**GOOD, "messages": in_turn([""])}], "conversation")
    assert path.read_bytes() == former
    assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Any:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "c.jsonl", chunks())
    assert list(tmp_path.iterdir()) == []


def test_gzip_files_have_no_date_in_them(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_records(tmp_path / name, [GOOD], "conversation")
    one, two = ((tmp_path / name).read_bytes() for name in ("a.jsonl.gz", "b.jsonl.gz"))
    assert one == two
    assert gzip.decompress(one).count(b"\n") == 1


def test_a_line_separator_inside_a_text_does_not_split_the_record(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\x85d\r\ne\x0bf\x0c\x1e"
    path = tmp_path / "c.jsonl"
    write_records(path, [conversation(odd)], "conversation")
    assert path.read_bytes().count(b"\n") == 1
    assert read_records(path, "conversation")[0]["messages"][0]["content"] == odd


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\n  \n")
    assert read_records(path, "conversation") == [GOOD]


def test_line_numbers_count_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("\n\n{broken\n")
    with pytest.raises(UserError, match=r"c\.jsonl:3: not JSON"):
        list(read_lines(path))


def test_ids_are_unique_in_a_file_and_both_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD)}\n")
    count, problems = file_problems(path, "conversation")
    assert count == 2
    assert problems == [f"{path}:3: id: 'toy-0' is on line 1 too"]


def test_records_without_ids_can_stand_in_lines(tmp_path: Path) -> None:
    manifest = {"recipe": "r", "recipe_hash": "h", "version": "0", "stages": {}}
    path = tmp_path / "manifests.jsonl"
    path.write_text(f"{json.dumps(manifest)}\n{json.dumps(manifest)}\n")
    assert file_problems(path) == (2, [])


@pytest.mark.parametrize(
    ("record", "name", "schema"),
    [
        (GOOD, "", "conversation"),
        ({"id": "1", "intent": "x"}, "", "intent"),
        ({"messages": [], "stop_reason": "x"}, "", "dialogue"),
        ({"messages": [], "stop_reason": "x", "reason": "y"}, "", "rejected"),
        ({"prompt": [], "completion": []}, "", "sample"),
        ({"shards": []}, "", "task"),
        ({}, "report.json", "report"),
        ({}, "evaluation.json", "evaluation"),
        ([], "", "conversation"),
    ],
)
def test_a_record_is_recognised_by_its_keys_or_its_files_name(
    record: Any, name: str, schema: str
) -> None:
    assert guess_schema(record, name) == schema


def test_the_stable_hash_is_the_same_in_every_process() -> None:
    digest = stable_hash({"b": [2.5, "é"], "a": None}, 7)
    assert digest == "ff0c678640da8248791a4c4807373a1e05bd2052c4cae5d5c20ec8296d906b78"


def test_every_schema_is_a_valid_one_and_describes_itself() -> None:
    import jsonschema

    assert set(schema_names()) >= {
        "conversation", "dialogue", "evaluation", "intent", "manifest", "rejected", "report",
        "sample", "task",
    }  # fmt: skip
    for name in schema_names():
        schema = load_schema(name)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$schema"].endswith("2020-12/schema")
        assert schema["title"]


def test_an_unknown_schema_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no schema named 'chat'; there are: benchmark, card, "):
        load_schema("chat")
