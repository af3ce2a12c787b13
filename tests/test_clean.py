"""Cleaning: what comes out is valid, what is dropped has a reason, and nothing else changes."""

from __future__ import annotations

import copy
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from userlm_synth.conversations.clean import Cleaner, mended, opening_key, writable
from userlm_synth.conversations.excluded import read_ids
from userlm_synth.errors import UserError
from userlm_synth.recipe.sections import Clean
from userlm_synth.records import Record, record_problems

LONG = "please write a letter to my landlord about the heating, it has been cold for three weeks"


def draft(*turns: tuple[str, str], **fields: Any) -> Record:
    """A draft with these turns, and these fields in place of the usual ones."""
    usual = {
        "id": "c1", "source": "toy", "user_id": "u1", "language": "English", "intent": None,
        "persona": None, "metadata": {},
    }  # fmt: skip
    messages = [{"role": role, "content": content} for role, content in turns]
    return {**usual, "messages": messages, **fields}


def clean(given: Record, excluded: set[str] | None = None, **settings: Any) -> Any:
    return Cleaner(Clean(**settings), frozenset(excluded or ()))(given)


def turns_of(record: Record | None) -> list[tuple[str, str]]:
    assert record is not None
    return [(turn["role"], turn["content"]) for turn in record["messages"]]


HELLO = (("user", "hello"), ("assistant", "Hi!"))

# ---- properties ------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        "\0", "\r", "\r\n", "\x0b", "\x85", "\x1f", "\x7f", "\ufeff", "\ufffd", "\u200b", "\xa0",
        " ", "\n", "\ud83d", "\ude00", "\ud83d\ude00", "😀", "a", "é", "…",
        "Ã©", "Ã", "Â", "Â ", "â€™", "вЂ™", "СЂ", "Р",
    ]
)  # fmt: skip
texts = (
    st.text()
    | st.text(st.characters())  # lone surrogates too
    | st.lists(pieces, max_size=8).map("".join)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
drafts = st.fixed_dictionaries(
    {
        "id": st.none() | texts,
        "source": texts,
        "user_id": st.none() | texts,
        "language": st.none() | texts | st.sampled_from(["English", "de"]),
        "intent": st.none() | texts,
        "persona": st.none() | texts,
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "user", "assistant", "system", "tool"]),
                    "content": texts,
                }
            ),
            max_size=6,
        ),
        "metadata": st.none() | st.dictionaries(texts, values, max_size=3),
    }
)


@given(drafts)
@example(draft(("user", " Â b")))
@example(draft(("user", "Ã\0©"), ("user", "\ud83d"), ("user", "\ude00")))
def test_what_comes_out_is_valid_or_dropped_and_a_second_cleaning_changes_nothing(
    given: Record,
) -> None:
    cleaner = Cleaner(Clean())
    before = copy.deepcopy(given)
    record, reason, changed = cleaner(given)
    assert repr(given) == repr(before), "the draft itself is left alone"
    if record is None:
        assert reason
        assert changed == []
        return
    assert reason is None
    assert record_problems(record, "conversation") == []
    assert cleaner(record) == (record, None, [])


plain = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1)


numbers = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(plain, min_size=1, max_size=6), st.dictionaries(plain, numbers | plain))
def test_a_clean_draft_comes_out_as_it_went_in(contents: list[str], metadata: Record) -> None:
    sides = ("user", "assistant")
    turns = [(sides[place % 2], text) for place, text in enumerate(contents)]
    metadata = {key: value for key, value in metadata.items() if key not in ("toxic", "redacted")}
    given = draft(*turns, language="en", intent="to be done", metadata=metadata)
    assert clean(given) == (given, None, [])


@given(texts)
def test_mended_text_has_nothing_left_to_mend(text: str) -> None:
    after = mended(text.strip())
    assert mended(after) is after
    assert after == after.strip()
    assert after.encode().decode() == after
    assert not any(character < " " and character not in "\n\t" for character in after)


# ---- turns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "left", "changed"),
    [
        ([("system", "be nice"), *HELLO], HELLO, ["system turns removed"]),
        ([HELLO[0], ("tool", "{}"), HELLO[1]], HELLO, ["tool turns removed"]),
        ([*HELLO, ("user", " \n")], HELLO, ["whitespace trimmed", "empty turns removed"]),
        ([*HELLO, ("user", "\u200b")], HELLO, ["empty turns removed"]),
        ([*HELLO, ("user", "\0")], HELLO, ["text repaired", "empty turns removed"]),
        ([("assistant", "Welcome"), *HELLO], HELLO, ["leading assistant turns removed"]),
        (
            [("user", "hello"), ("user", "there")],
            [("user", "hello\n\nthere")],
            ["neighbours of one role merged"],
        ),
        (  # the assistant failed: two user turns are neighbours now
            [("user", "hello"), ("assistant", ""), ("user", "anybody?")],
            [("user", "hello\n\nanybody?")],
            ["empty turns removed", "neighbours of one role merged"],
        ),
        ([("user", "hello\n"), HELLO[1]], HELLO, ["whitespace trimmed"]),
    ],
)
def test_turns_alternate_from_the_user_and_each_change_is_named(
    turns: list[tuple[str, str]], left: list[tuple[str, str]], changed: list[str]
) -> None:
    record, _, found = clean(draft(*turns))
    assert turns_of(record) == list(left)
    assert found == changed


@pytest.mark.parametrize(
    ("given", "settings", "reason"),
    [
        (draft(), {}, "no user turn"),
        (draft(("assistant", "Hi!"), ("user", " ")), {}, "no user turn"),
        (draft(*HELLO, metadata={"toxic": True}), {}, "flagged toxic"),
        (draft(*HELLO, metadata={"toxic": True}), {"drop_toxic": False}, None),
        (draft(*HELLO, metadata={"redacted": True}), {}, "flagged redacted"),
        (draft(*HELLO, metadata={"redacted": True}), {"drop_redacted": False}, None),
        (draft(*HELLO, metadata={"toxic": False, "redacted": None}), {}, None),
        (draft(*HELLO * 3), {"max_turns": 5}, "too many turns"),
        (draft(*HELLO * 3), {"max_turns": 6}, None),
        (draft(*HELLO * 2), {"min_user_turns": 3}, "too few user turns"),
        (draft(*HELLO * 2, ("user", "bye")), {"min_user_turns": 3}, None),
        (draft(*HELLO), {"min_characters": 6}, "first turn too short"),
        (draft(*HELLO), {"min_characters": 5}, None),
        (draft(*HELLO, ("user", "x" * 11)), {"max_characters": 10}, "a turn too long"),
        (draft(*HELLO, ("user", "x" * 10)), {"max_characters": 10}, None),
        (draft(("user", "x" * 9), ("user", "x" * 9)), {"max_characters": 10}, "a turn too long"),
        (draft(("user", "caf\ufffd, na\ufffdve, \ufffd"), HELLO[1]), {}, "broken text"),
        (draft(HELLO[0], ("assistant", "Well \ufffd\ufffd\ufffd" + "x" * 300)), {}, None),
        (draft(("user", "hi \ufffd"), HELLO[1]), {}, None),
        (draft(*HELLO), {"languages": ("en",)}, None),
        (draft(*HELLO), {"languages": ("English", "pt-BR")}, None),
        (draft(*HELLO), {"languages": ("de", "pt")}, "other language"),
        (draft(*HELLO, language=None), {}, None),
        (draft(*HELLO, language=None), {"languages": ("en",)}, "language not recognised"),
        (draft(("user", LONG), language=None), {"languages": ("en",)}, None),
        (draft(("user", LONG), language="unknown"), {"languages": ("en",)}, None),
        (draft(("user", LONG), language=None), {"languages": ("de",)}, "other language"),
    ],
)
def test_a_conversation_is_dropped_for_the_reason_that_is_true(
    given: Record, settings: Record, reason: str | None
) -> None:
    record, found, _ = clean(given, **settings)
    assert found == reason
    assert (record is None) == (reason is not None)


def test_the_language_of_a_record_is_a_code_or_null() -> None:
    assert clean(draft(*HELLO))[0]["language"] == "en"
    assert clean(draft(*HELLO, language="unknown"))[0]["language"] is None
    assert clean(draft(("user", LONG), language=None), languages=("en",))[0]["language"] == "en"


def test_the_language_is_that_of_the_user_not_of_the_assistant() -> None:
    german = "Natürlich, hier ist der Brief an Ihren Vermieter: Sehr geehrte Damen und Herren, " * 9
    given = draft(("user", LONG), ("assistant", german), language=None)
    assert clean(given, languages=("en",))[1] is None


def test_no_language_is_looked_for_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    monkeypatch.setattr("userlm_synth.conversations.clean.detect", refuse)
    assert clean(draft(("user", LONG), language=None))[0]["language"] is None


def test_an_unknown_language_in_the_recipe_is_said_at_once() -> None:
    with pytest.raises(UserError, match=r"^conversations.clean.languages: 'Elvish' is not a known"):
        Cleaner(Clean(languages=("en", "Elvish")))


# ---- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("one\r\ntwo\rthree\x0cfour", "one\ntwo\nthree\nfour"),
        ("a\0b\x07c\x7f\td\ne", "abc\td\ne"),
        ("\ufeffhello", "hello"),
        ("\ud83d\ude00 hi", "😀 hi"),
        ("\ud83d hi", "\ufffd hi"),
        ("l'Ã©tÃ© Ã  Paris", "l'été à Paris"),
        ("donâ€™t worry", "don’t worry"),
        ("РџСЂРёРІРµС‚, РјРёСЂ", "Привет, мир"),
        ("dinner\x85 at eight", "dinner… at eight"),
        ("a good line — 漢字\nbad lineâ€™s end", "a good line — 漢字\nbad line’s end"),
    ],
)
def test_broken_text_is_mended(raw: str, text: str) -> None:
    assert mended(raw) == text
    record, _, changed = clean(draft(("user", raw)))
    assert turns_of(record) == [("user", text)]
    assert changed == ["text repaired"]


@pytest.mark.parametrize(
    "text",
    [
        "It’s “fine” — really… 20 € or £15, 3×4 m², 25 °C, ½ cup",
        "C'était l’été… « déjà » à Noël, où ça ? Garçon, œuf, naïve",
        "Виїхав він у Київ, Січень і Світ. Съешь ещё этих булок",
        "Řekl, že máš přijít dřív; Łódź, żółć, ąę; Țară și Ăștia",
        "MANHÃ e amanhã, João, ações, coração; ¿qué? ¡Ñandú!",
        "Größe, Äpfel, Öl, Übung; Ålesund Ærø Øl; þú, ð",
        "Ελλάδα, Γεια σου· ώρα",
        "日本語、中文。한국어 ไทย हिन्दी עברית العربية فارسی\u200cها",
        "👩\u200d👩\u200d👧 ❤️ 🇵🇹",
        "cafe\u0301 is not composed, and stays so",
        "\u202bright to left\u202c stays",
    ],
)
def test_good_text_in_any_script_stays_as_it_is(text: str) -> None:
    assert mended(text) is text
    assert clean(draft(("user", text)))[2] == []


def test_what_is_beside_the_turns_is_made_writable() -> None:
    metadata = {
        "a\0": ["\ud800x", math.nan, {"b": -math.inf}], "n": 10**30, "ok": [None, True, 1.5, "é"],
    }  # fmt: skip
    given = draft(*HELLO, metadata=metadata, intent="buy\0 tea", persona=" ", user_id="")
    record, _, changed = clean(given)
    assert changed == ["fields beside the turns repaired"]
    assert record["metadata"] == {
        "a": ["\ufffdx", None, {"b": None}], "n": str(10**30), "ok": [None, True, 1.5, "é"],
    }  # fmt: skip
    assert (record["intent"], record["persona"], record["user_id"]) == ("buy tea", None, None)


def test_metadata_nested_without_end_is_a_reason_and_no_crash() -> None:
    reasons = []
    for levels in (90, 110, 5000):
        deep: list[Any] = []
        for _ in range(levels):
            deep = [deep]
        reasons.append(clean(draft(*HELLO, metadata={"deep": deep}))[1])
    assert reasons == [None, "metadata nested too deeply", "metadata nested too deeply"]


def test_a_draft_without_an_id_gets_one_from_its_text() -> None:
    ids = {clean(draft(("user", text), id=None))[0]["id"] for text in ("one", "two", "one")}
    assert len(ids) == 2


def test_a_message_of_fifty_megabytes_is_dropped_without_work() -> None:
    class Watched(str):
        def strip(self, *_: Any) -> str:
            raise AssertionError("looked at")

    assert clean(draft(("user", Watched("é" * 50_000_000))))[1] == "a turn too long"


def test_writable_text_is_the_same_object() -> None:
    text = "plain"
    assert writable(text) is text


# ---- conversations to leave out --------------------------------------------------------------


def test_listed_ids_are_dropped_by_id_and_by_conversation_hash() -> None:
    assert clean(draft(*HELLO), {"c1"})[1] == "in the list of excluded ids"
    hashed = draft(*HELLO, metadata={"conversation_hash": "h1", "toxic": True})
    assert clean(hashed, {"h1"})[1] == "in the list of excluded ids"
    assert clean(draft(*HELLO, metadata={"conversation_hash": ["h1"]}), {"h1"})[1] is None
    assert clean(draft(*HELLO), {"c2"})[1] is None


def test_a_conversation_that_opens_like_a_listed_one_is_dropped(
    tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    rows = [  # as in WildBench
        {"id": 0, "session_id": "s0", "conversation_input": [{"role": "user", "content": LONG}]},
        {"id": 1, "session_id": "s1", "conversation_input": [{"role": "user", "content": "hi"}]},
    ]
    excluded = read_ids(write_jsonl(tmp_path / "bench.jsonl", rows))
    assert excluded == {"s0", "s1", opening_key(LONG)}
    again = "  " + LONG.capitalize().replace(" ", "\n", 1)
    assert clean(draft(("user", again)), excluded)[1] == "opens like an excluded conversation"
    assert clean(draft(("user", "hi")), excluded)[1] is None
    assert clean(draft(("user", LONG + "!")), excluded)[1] is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "a\n\n b \r\nc"),
        ("ids", "a\nb\nc\n"),
        ("ids.txt", "\ufeffa\nb\nc\n"),
        ("ids.jsonl", '{"id": "a"}\n\n{"session_id": "b", "id": 7}\n{"conversation_hash": "c"}\n'),
        ("ids.jsonl", '"a"\n"b"\n"c"\n'),
        ("ids.json", '["a", "b", {"conversation_id": "c"}]'),
        ("ids.csv", "n,session_id\n1,a\n2,b\n3,c\n"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_ids_are_read_from_lines_or_a_column(
    tmp_path: Path, name: str, text: str, packed: bool
) -> None:
    data = text.encode()
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read_ids(path) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", b"\n", "holds no ids"),
        ("half.txt.gz", gzip.compress(b"a\n" * 999, mtime=0)[:-9], "broken gzip file"),
        ("not.txt.gz", b"a\nb\n", "broken gzip file"),
        ("half.jsonl.gz", gzip.compress(b'"a"\n' * 999, mtime=0)[:-9], "broken gzip file"),
        ("table.parquet", b"PAR1\xff\xfe", "not UTF-8 text (byte 4); ids are one a line"),
        ("bad.jsonl", b'{"id": "a"}\n{"id"\n', "bad.jsonl:2: not JSON"),
        ("other.jsonl", b'{"id": "a"}\n{"name": "b"}\n', "other.jsonl:2: has no session_id"),
        ("other.csv", b"name,age\nx,3\n", "other.csv:2: has no session_id"),
        ("one.json", b'{"id": "a"}', "is a list of ids or of rows, not dict"),
        ("null.json", b"[null]", "null.json: [0]: has no session_id"),
        ("bad.json", b"[", "not JSON"),
    ],
)
def test_a_file_of_ids_that_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, data: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_ids(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_instead_of_a_file_of_ids_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_ids(tmp_path)


def test_cleaned_records_are_written_as_they_are(tmp_path: Path) -> None:
    record, _, _ = clean(draft(("user", "\ud83d\ude00 caf\u00e9\0"), metadata={"x": math.inf}))
    assert json.loads(json.dumps(record, allow_nan=False).encode()) == record
