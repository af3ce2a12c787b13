"""Facts about the forms of chats: each dataset's own layout, and rows that have none."""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import json
import math
import os
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import CHAT, Row, jsonl, parquet, put, read, stream

from userlm_synth.conversations.sources import (
    FORMS,
    BadRow,
    Fault,
    drafts,
    open_source,
    recognise,
    rows,
)
from userlm_synth.errors import UserError
from userlm_synth.recipe import Columns, Conversations

UTC = datetime.timezone.utc


# ---- forms, each in its dataset's own layout ----------------------------------------------------


def wildchat_row(number: int = 0, **more: Any) -> Row:
    at = "2023-04-09T00:02:53+00:00"
    who = {"hashed_ip": "ab12", "state": "Texas", "country": "United States"}
    head = {"accept-language": "en-US", "user-agent": "Mozilla"}
    marks = {"language": "English", "toxic": False, "redacted": False}
    return {
        "conversation_hash": f"hash{number}",
        "model": "gpt-3.5-turbo-0301",
        "timestamp": at,
        "conversation": [
            {"content": "hi", "role": "user", **who, "header": head, **marks, "timestamp": None,
             "turn_identifier": 100 + number},
            {"content": "hello", "role": "assistant", "hashed_ip": None, "state": None,
             "country": None, "header": None, **marks, "timestamp": at,
             "turn_identifier": 100 + number},
        ],
        "turn": 1, **marks,
        "openai_moderation": [{"categories": {"hate": False}, "category_scores": {"hate": 0.1},
                               "flagged": False}] * 2,
        "detoxify_moderation": [{"toxicity": 0.1}] * 2,
        **who, "header": head, **more,
    }  # fmt: skip


WILD = {
    "id": "hash0",
    "source": "wildchat",
    "user_id": "ab12 United States",
    "language": "English",
    "intent": None,
    "persona": None,
    "messages": CHAT,
    "metadata": {
        "model": "gpt-3.5-turbo-0301",
        "timestamp": "2023-04-09T00:02:53+00:00",
        "toxic": False,
        "redacted": False,
        "country": "United States",
        "turn_identifier": 100,
    },
}


def test_wildchat_rows_keep_user_country_and_flags_and_no_headers(tmp_path: Path) -> None:
    assert read(put(tmp_path / "w.jsonl", jsonl([wildchat_row()]))) == [WILD]


def test_wildchat_in_parquet_gives_the_same_though_most_columns_are_never_read(
    tmp_path: Path,
) -> None:
    values = [wildchat_row(n) for n in range(30)]
    for row in values:
        row["timestamp"] = datetime.datetime(2023, 4, 9, 0, 2, 53, tzinfo=UTC)
    path = parquet(tmp_path / "train-00000-of-00001.parquet", values)
    assert read(path)[0] == WILD
    block = next(open_source(Conversations(source=str(path))).blocks())
    (_, row), *_ = rows(block)
    assert isinstance(row, dict)
    assert not {"header", "openai_moderation", "state"} & {*row}
    assert "header" not in row["conversation"][0]


def test_the_first_wildchat_has_an_id_no_user_and_flags_in_its_turns() -> None:
    row = wildchat_row()
    for key in ("conversation_hash", "hashed_ip", "country", "toxic", "language"):
        row.pop(key)
    row["conversation"] = [
        {"role": "user", "content": "hi", "language": "English", "toxic": False},
        {"role": "assistant", "content": "hello", "language": "English", "toxic": True},
    ]
    (found,) = drafts({**row, "conversation_id": "old"}, "wildchat", ANY, "w.jsonl", 1)
    assert (found["id"], found["user_id"], found["language"]) == ("old", None, "English")
    assert found["metadata"]["toxic"] is True


ANY = Conversations(source="w.jsonl")


def test_lmsys_is_toxic_where_a_message_is_flagged(tmp_path: Path) -> None:
    row = {
        "conversation_id": "33f0", "model": "vicuna-33b", "conversation": CHAT, "turn": 1,
        "language": "English", "redacted": True,
        "openai_moderation": [{"categories": {}, "category_scores": {}, "flagged": False},
                              {"categories": {}, "category_scores": {}, "flagged": True}],
    }  # fmt: skip
    (found,) = read(put(tmp_path / "l.jsonl", jsonl([row])))
    assert found["metadata"] == {"model": "vicuna-33b", "redacted": True, "toxic": True}
    assert (found["id"], found["source"], found["user_id"]) == ("33f0", "lmsys", None)
    quiet = [{**one, "flagged": False} for one in row["openai_moderation"]]
    (found,) = drafts({**row, "openai_moderation": quiet}, "lmsys", ANY, "w.jsonl", 1)
    assert found["metadata"]["toxic"] is False


def test_prism_goes_on_with_the_chosen_reply_of_each_turn(tmp_path: Path) -> None:
    def reply(turn: int, which: int, chosen: bool) -> Row:
        return {
            "turn": turn, "role": "model", "content": f"m{turn}{which}", "within_turn_id": which,
            "model_name": f"model-{which}", "score": 90 - which, "if_chosen": chosen,
        }  # fmt: skip

    history = [
        {"turn": 0, "role": "user", "content": "u0"},
        *[reply(0, which, which == 2) for which in range(4)],
        {"turn": 1, "role": "user", "content": "u1"},
        *[reply(1, which, which == 1) for which in range(2)],
    ]
    row = {
        "conversation_id": "c1", "user_id": "user1", "conversation_type": "unguided",
        "opening_prompt": "u0", "conversation_turns": 2, "conversation_history": history,
        "performance_attributes": {"fluency": 90}, "open_feedback": "fine",
    }  # fmt: skip
    (found,) = read(put(tmp_path / "conversations.jsonl", jsonl([row])))
    assert [m["content"] for m in found["messages"]] == ["u0", "m02", "u1", "m11"]
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"] * 2
    assert (found["user_id"], found["source"]) == ("user1", "prism")
    assert found["metadata"] == {"conversation_type": "unguided", "model": "model-1"}
    assert read(parquet(tmp_path / "p" / "0.parquet", [row])) == [found]


def message(name: str, parent: str | None, role: str, **more: Any) -> Row:
    return {
        "message_id": name, "parent_id": parent, "user_id": f"by-{name}", "text": f"text {name}",
        "created_date": "2023-02-05T14:23:50", "role": role, "lang": "en", "review_count": 3,
        "review_result": True, "deleted": False, "rank": None, "synthetic": False,
        "model_name": None, "message_tree_id": "r", "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [1]}, "labels": None, **more,
    }  # fmt: skip


TREE = [
    message("r", None, "prompter"),
    message("a", "r", "assistant", rank=1),
    message("b", "r", "assistant", rank=0, synthetic=True),
    message("b1", "b", "prompter"),
    message("b2", "b", "prompter", deleted=True),
    message("b2x", "b2", "assistant"),
    message("b1a", "b1", "assistant"),
]
PATHS = [["r", "b", "b1", "b1a"], ["r", "a"]]


def nested(tree: list[Row], at: Row) -> Row:
    below = [nested(tree, one) for one in tree if one["parent_id"] == at["message_id"]]
    kept = {k: v for k, v in at.items() if k not in ("user_id", "message_tree_id", "tree_state")}
    return {**kept, "replies": below}


def test_oasst_trees_give_every_path_or_the_best_and_nothing_deleted(tmp_path: Path) -> None:
    row = {
        "message_tree_id": "r",
        "tree_state": "ready_for_export",
        "prompt": nested(TREE, TREE[0]),
    }
    path = put(tmp_path / "oasst.trees.jsonl.gz", jsonl([row]))
    found = read(path)
    assert [[m["content"] for m in one["messages"]] for one in found] == [
        [f"text {name}" for name in names] for names in PATHS
    ]
    assert found[0]["messages"][1]["role"] == "assistant"
    assert [(one["id"], one["user_id"]) for one in found] == [("b1a", "r"), ("a", "r")]
    assert [one["metadata"]["synthetic"] for one in found] == [True, False]
    assert found[0]["language"] == "en"
    assert read(path, paths="best") == found[:1]


def test_the_flat_oasst_table_gives_the_same_paths_and_the_prompters_id(tmp_path: Path) -> None:
    path = parquet(tmp_path / "train-00000-of-00001.parquet", TREE, row_group_size=2)
    found = read(path)
    tree = {"message_tree_id": "r", "prompt": nested(TREE, TREE[0])}
    same = read(put(tmp_path / "t.jsonl", jsonl([tree])))
    assert found == [{**one, "user_id": "by-r"} for one in same]
    assert read(path, paths="best") == found[:1]


def flat_trees(count: int) -> list[Row]:
    renamed = {"message_id", "parent_id", "message_tree_id"}
    return [
        {key: f"{value}-{n}" if key in renamed and value else value for key, value in one.items()}
        for n in range(count)
        for one in TREE
    ]


def test_no_tree_is_cut_between_blocks_and_numbers_go_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userlm_synth.conversations.sources.grouping.MESSAGES", 20)
    source = open_source(Conversations(source=str(put(tmp_path / "f.jsonl", jsonl(flat_trees(9))))))
    blocks = list(source.blocks())
    assert len(blocks) == 3
    assert [b.number for b in blocks] == [0, 1, 2]
    assert [[len(row["flat"]) for _, row in rows(b)] for b in blocks] == [[7, 7, 7]] * 3
    assert [number for b in blocks for number, _ in rows(b)] == [1 + 7 * n for n in range(9)]
    for start in range(4):
        assert list(source.blocks(start)) == blocks[start:]


def test_a_tree_that_goes_on_further_down_is_a_fault_of_that_row(tmp_path: Path) -> None:
    path = put(tmp_path / "f.jsonl", jsonl([*flat_trees(2), TREE[0], flat_trees(1)[0], {"x": 1}]))
    found = stream(path)
    faults = [(number, row.reason) for _, number, row in found if isinstance(row, Fault)]
    assert [number for number, _ in faults] == [16, 17]
    assert "'r-0' stood further up" in faults[0][1]
    assert "is missing" in faults[1][1]
    assert sum(isinstance(row, dict) for *_, row in found) == 3


def test_real_message_trees_give_as_many_paths_as_a_naive_count() -> None:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA names no folder with real data")
    path = Path(folder) / "oasst_en_100_trees.jsonl.gz"

    def leaves(node: Row) -> list[list[str]]:
        below = [path for one in node["replies"] for path in leaves(one)] or [[]]
        return [[node["text"], *path] for path in below]

    with gzip.open(path) as file:
        expected = sorted(p for line in file for p in leaves(json.loads(line)["prompt"]))
    found = read(path)
    assert sorted([m["content"] for m in one["messages"]] for one in found) == expected
    assert len({one["id"] for one in found}) == len(found) > 100
    assert len(read(path, paths="best")) == 100


def test_sharegpt_sides_by_all_their_names_and_pieces_of_a_chat_share_a_user(
    tmp_path: Path,
) -> None:
    sides = [("system", "s"), ("human", "u"), ("gpt", "a"), ("user", "u2"), ("bing", "a2")]
    turns = [{"from": side, "value": said} for side, said in sides]
    values = [{"id": f"QWJhYvA_{n}", "conversations": turns} for n in (0, 17)]
    path = put(tmp_path / "ShareGPT_V3.json", json.dumps(values, indent=2).encode())
    found = read(path)
    assert [m["role"] for m in found[0]["messages"]] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert [(one["id"], one["user_id"]) for one in found] == [
        ("QWJhYvA_0", "QWJhYvA"), ("QWJhYvA_17", "QWJhYvA"),
    ]  # fmt: skip
    assert read(put(tmp_path / "own.json", path.read_bytes()))[0]["user_id"] is None


def test_hh_rlhf_is_the_chosen_transcript(tmp_path: Path) -> None:
    chosen = "\n\nHuman: What?\n\nline two\n\nAssistant: That.\n\nHuman: Ah\n\nAssistant: "
    path = put(tmp_path / "hh.jsonl.gz", jsonl([{"chosen": chosen, "rejected": "\n\nHuman: no"}]))
    (found,) = read(path)
    assert [(m["role"], m["content"]) for m in found["messages"]] == [
        ("user", "What?\n\nline two"), ("assistant", "That."), ("user", "Ah"), ("assistant", ""),
    ]  # fmt: skip
    assert (found["id"], found["source"]) == ("hh-0000001", "hh-rlhf")
    with pytest.raises(BadRow, match="begins with neither"):
        drafts({"chosen": "Once upon a time"}, "hh-rlhf", ANY, "w.jsonl", 1)


def test_messages_in_parts_tools_and_nulls_come_through(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:..."}}
    parts = [{"type": "text", "text": "what is"}, image, {"type": "text", "text": "this?"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "type": "function"}]}
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": parts, "name": "ann"},
        call,
        {"role": "tool", "content": "42", "tool_call_id": "x"},
        {"role": "assistant", "content": "a cat"},
    ]
    (found,) = read(put(tmp_path / "m.jsonl", jsonl([{"messages": messages, "lang": "en"}])))
    assert [(m["role"], m["content"]) for m in found["messages"]] == [
        ("system", "be kind"), ("user", "what is\nthis?"), ("assistant", ""), ("tool", "42"),
        ("assistant", "a cat"),
    ]  # fmt: skip
    assert found["metadata"] == {"lang": "en"}


def test_own_conversations_keep_their_fields_and_others_move_to_metadata(tmp_path: Path) -> None:
    own = {
        "id": 77, "source": "shop", "user_id": 5, "language": "en", "intent": "to buy",
        "persona": "terse", "messages": CHAT, "metadata": {"turn": 1, "model": "inner"},
    }  # fmt: skip
    path = put(tmp_path / "chats.jsonl", jsonl([{**own, "model": "outer"}, {"messages": CHAT}]))
    one, two = read(path)
    assert one == {**own, "id": "77", "user_id": "5", "metadata": own["metadata"]}
    assert (two["id"], two["source"], two["metadata"]) == ("chats-0000002", "chats.jsonl", {})


def test_metadata_out_of_parquet_is_json(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 5, 1, 12, tzinfo=UTC)
    odd = {"at": when, "day": when.date(), "price": Decimal("1.50"), "raw": b"a\xff", "score": 0.5}
    rows_ = [{"messages": CHAT, **odd, "deep": {"list": [when]}} for _ in range(2)]
    rows_[1]["score"] = math.nan
    one, two = read(parquet(tmp_path / "c.parquet", rows_))
    at = "2024-05-01T12:00:00+00:00"
    assert one["metadata"] == {
        "at": at, "day": "2024-05-01", "price": 1.5, "raw": "a\ufffd", "score": 0.5,
        "deep": {"list": [at]},
    }  # fmt: skip
    assert two["metadata"]["score"] is None


def chatgpt_node(name: str, parent: str | None, role: str, *parts: Any, **more: Any) -> Row:
    said = {
        "id": name, "author": {"role": role, "name": None, "metadata": {}}, "weight": 1.0,
        "content": {"content_type": more.pop("content_type", "text"), "parts": list(parts)},
        "recipient": "all", "metadata": {}, "status": "finished_successfully", **more,
    }  # fmt: skip
    return {"id": name, "parent": parent, "children": [], "message": said if role else None}


def chatgpt_export() -> Row:
    hidden = {"is_visually_hidden_from_conversation": True}
    picture = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
    nodes = [
        chatgpt_node("root", None, ""),
        chatgpt_node("sys", "root", "system", "", metadata=hidden),
        chatgpt_node("u1", "sys", "user", picture, "a cat?", content_type="multimodal_text"),
        chatgpt_node("old", "u1", "assistant", "first try"),
        chatgpt_node("call", "u1", "assistant", "search()", recipient="browser"),
        chatgpt_node("think", "call", "assistant", content_type="thoughts"),
        chatgpt_node("a1", "think", "assistant", "yes", metadata={"model_slug": "gpt-4o"}),
        chatgpt_node("u2", "a1", "user", "thanks"),
    ]
    return {
        "title": "Cats", "create_time": 1700000000.5, "update_time": 1700000100.0,
        "mapping": {one["id"]: one for one in nodes}, "current_node": "u2",
        "conversation_id": "6f1e", "id": "6f1e", "default_model_slug": "gpt-4",
    }  # fmt: skip


def test_a_chatgpt_export_is_its_current_branch_as_it_was_shown(tmp_path: Path) -> None:
    path = put(tmp_path / "conversations.json", json.dumps([chatgpt_export()]).encode())
    (found,) = read(path)
    assert [(m["role"], m["content"]) for m in found["messages"]] == [
        ("user", "a cat?"), ("assistant", "yes"), ("user", "thanks"),
    ]  # fmt: skip
    assert (found["id"], found["source"]) == ("6f1e", "conversations.json")
    assert found["metadata"] == {
        "title": "Cats", "model": "gpt-4o", "timestamp": "2023-11-14T22:13:20.500000+00:00",
    }  # fmt: skip


def test_a_chatgpt_mapping_that_runs_in_a_circle_is_a_bad_row() -> None:
    row = chatgpt_export()
    row["mapping"]["root"]["parent"] = "u2"
    with pytest.raises(BadRow, match="no branch leads"):
        drafts(row, "chatgpt", ANY, "w.json", 1)


def test_columns_reach_inside_and_name_the_sides(tmp_path: Path) -> None:
    columns = Columns(
        messages="data.turns", role="who", content="text.body", user=("client",),
        assistant=("agent",), id="ticket", user_id="data.person", country="land",
    )  # fmt: skip
    turns = [{"who": "client", "text.body": "hi"}, {"who": "agent", "text.body": "hello"}]
    row = {"ticket": 9, "land": "PT", "shop": "A", "data": {"person": "p1", "turns": turns}}
    (found,) = read(put(tmp_path / "t.jsonl", jsonl([row])), columns=columns)
    assert (found["id"], found["user_id"], found["messages"]) == ("9", "p1", CHAT)
    assert found["metadata"] == {"shop": "A", "country": "PT"}
    row["data"]["turns"][0]["who"] = "bot"
    wanted = Conversations(source="t.jsonl", columns=columns)
    with pytest.raises(BadRow, match=r"data\.turns\[0\]\.who: 'bot' is not one of .*client"):
        drafts(row, "columns", wanted, "t.jsonl", 1)


def test_columns_of_a_csv_hold_json_text_or_a_prompt_and_a_response(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["chat", "q", "a"])
        table.writerow([json.dumps(CHAT), "hi,\n\u2028there", 'say "x"'])
    (found,) = read(path, columns=Columns(messages="chat"))
    assert found["messages"] == CHAT
    assert found["metadata"] == {"q": "hi,\n\u2028there", "a": 'say "x"'}
    (found,) = read(path, columns=Columns(prompt="q", response="a"))
    assert [m["content"] for m in found["messages"]] == ["hi,\n\u2028there", 'say "x"']


@pytest.mark.parametrize(
    ("row", "form", "says"),
    [
        ({"messages": "hi"}, "messages", "messages: is a list of turns, not text"),
        ({"messages": [3]}, "messages", r"messages\[0\]: is a turn \(an object\), not a number"),
        ({"messages": [{"content": "x"}]}, "messages", r"messages\[0\]\.role: is missing"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages", "user, assistant, system"),
        ({"messages": [{"role": "user"}]}, "messages", r"messages\[0\]\.content: is missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages", r"content: .*not a number"),
        ({"messages": CHAT, "id": 1e30}, "messages", "id: is a number that is"),
        ({"messages": CHAT, "intent": 3}, "messages", "intent: is text or null, not a number"),
        ({"messages": CHAT, "metadata": "x"}, "messages", "metadata: is an object, not text"),
        ({"id": "x"}, "messages", "messages: is missing"),
        ({"conversation": None}, "wildchat", "conversation: is a list of turns, not null"),
        ({"message_tree_id": "r", "prompt": "hi"}, "oasst", "prompt: is a message"),
        ({"flat": [TREE[1]]}, "oasst", "one message without a parent, not 0"),
        ({"flat": [TREE[0], {**TREE[1], "message_id": "r"}]}, "oasst", "two messages of tree r"),
        ({"prompt": {"role": "prompter"}}, "oasst", "text: is missing"),
        ({"mapping": [], "current_node": None}, "chatgpt", "mapping: is an object"),
    ],
)  # fmt: skip
def test_a_row_without_the_form_says_where_in_one_line(row: Row, form: str, says: str) -> None:
    with pytest.raises(BadRow, match=says) as caught:
        drafts(row, form, ANY, "w.jsonl", 1)
    assert "\n" not in str(caught.value)


KEYS = st.sampled_from(
    ["id", "messages", "role", "content", "conversation", "conversation_hash", "mapping", "a",
     "current_node", "message", "author", "parts", "content_type", "prompt", "replies", "text",
     "deleted", "rank", "flat", "parent_id", "message_id", "chosen", "metadata", "conversations",
     "from", "value", "conversation_history", "turn", "if_chosen", "openai_moderation", "user_id"]
)  # fmt: skip
WORDS = st.sampled_from(["user", "assistant", "prompter", "text", "a", "\n\nHuman: x", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400)
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.sampled_from(sorted(FORMS)))
def test_any_row_in_any_form_is_a_draft_or_a_bad_row(row: Row, form: str) -> None:
    columns = Columns(messages="conversations", user_id="metadata.user_id")
    found = []
    with contextlib.suppress(BadRow):  # nothing else
        found = drafts(row, form, replace(ANY, columns=columns), "w.jsonl", 1)
    for one in found:
        assert json.loads(json.dumps(one, allow_nan=False)) == one
        assert all(isinstance(m["content"], str) for m in one["messages"])


def test_forms_are_recognised_by_their_keys_and_strangers_are_listed() -> None:
    flat = recognise(TREE[0])
    assert (flat, recognise(wildchat_row()), recognise(chatgpt_export())) == (
        "oasst", "wildchat", "chatgpt",
    )  # fmt: skip
    assert recognise({"conversation_id": "", "model": "", "conversation": []}) == "lmsys"
    assert recognise({"prompt": "", "messages": []}) == "messages"
    assert recognise({"anything": 1}, Columns(messages="anything")) == "columns"
    with pytest.raises(UserError, match=r"keys one, two; give conversations\.format, or") as caught:
        recognise({"one": 1, "two": 2})
    assert "\n" not in str(caught.value)
