"""Facts about reading: whatever holds conversations gives plain records, in order, each placed."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from toys import conversation
from userlm_synth.conversations.reading import Opened, open_records, records_in
from userlm_synth.errors import UserError
from userlm_synth.recipe import Push
from userlm_synth.records import record_problems

Json = dict[str, Any]
SIDES = {"prompt_tokens": 3, "completion_tokens": 4}


def dialogue(number: int = 0, *turns: str, **more: Any) -> Json:
    """A valid dialogue of ours."""
    said = turns or (f"hi {number}", "hello", "bye")
    return {
        **conversation(*said, number=number),
        "intent_id": f"i{number}", "seed": 7, "stop_reason": "user_ended", "user_model": "u@1",
        "assistant_model": "a@1", "guardrails": {"short": 1}, "end_probabilities": [0.25, None],
        "usage": {"user": SIDES, "assistant": SIDES}, "recipe_hash": "h", "metadata": {"k": [1]},
        **more,
    }  # fmt: skip


def jsonl(path: Path, rows: list[Any]) -> Path:
    """A JSONL file, gzipped where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows)
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())
    return path


def parquet(path: Path, rows: list[Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(opened: Opened) -> list[tuple[int, Any]]:
    """All that is in it, each block through pickle, as to another process."""
    return [
        one for block in opened.blocks() for one in records_in(pickle.loads(pickle.dumps(block)))
    ]


def records(where: Path) -> list[Any]:
    return [one for _, one in read(open_records(where))]


def test_of_a_run_folder_its_accepted_dialogues_are_read_in_order(tmp_path: Path) -> None:
    rows = [dialogue(number) for number in range(5)]
    folder = tmp_path / "mine" / "dialogues"
    jsonl(folder / "part-00000.jsonl", rows[:3])
    jsonl(folder / "part-00001.jsonl", rows[3:])
    jsonl(folder / "rejected.jsonl", [{**dialogue(9), "reason": "x"}])
    (folder / "bill.json").write_text("{}")
    jsonl(tmp_path / "mine" / "conversations" / "test.jsonl", [conversation("no")])
    for where, kind in ((tmp_path / "mine", "run"), (folder, "dialogues")):
        opened = open_records(where)
        assert (opened.name, opened.kind) == ("mine", kind)
        assert read(opened) == list(enumerate(rows))
        assert opened.rejected == folder / "rejected.jsonl"
        assert opened.bill == folder / "bill.json"
        assert read(opened) == list(enumerate(rows)), "and again"


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json"])
def test_dialogues_in_a_file_keep_every_field(tmp_path: Path, name: str) -> None:
    rows = [dialogue(number, "grüße 🙂", "ok") for number in range(3)]
    assert read(open_records(jsonl(tmp_path / name, rows))) == list(enumerate(rows))


def test_a_published_copy_gives_the_dialogues_of_all_splits_as_they_were(tmp_path: Path) -> None:
    from userlm_synth.hub.folder import build_dataset

    rows = [dialogue(number, intent=f"to do {number}") for number in range(40)]
    jsonl(tmp_path / "run" / "dialogues" / "part-00000.jsonl", rows)
    settings = Push(validation=0.3)
    build_dataset(tmp_path / "run", tmp_path / "out", settings, "toy")
    opened = open_records(tmp_path / "out")
    assert opened.kind == "published"
    assert [part.split for part in opened.parts] == ["train", "validation"]
    found = read(opened)
    assert [place for place, _ in found] == list(range(40))
    assert sorted((one for _, one in found), key=lambda one: int(one["id"][4:])) == rows
    assert not any(record_problems(one, "dialogue") for _, one in found)


def test_splits_are_read_in_the_order_in_which_people_name_them(tmp_path: Path) -> None:
    for split in ("test", "train", "extra", "validation"):
        parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet",
            [{"messages": conversation(split)["messages"]}],
        )
    found = [one["messages"][0]["content"] for one in records(tmp_path)]
    assert found == ["train", "validation", "test", "extra"]


def test_rows_without_a_conversation_say_why_and_keep_their_places(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "be kind"}]
    rows = [
        dialogue(0), "", "{broken", "[1]", dialogue(1, messages=None), dialogue(2, messages=system),
        '{"id": "\\ud800", "stop_reason": "x", "messages": [{"role": "user", "content": "a"}]}',
        dialogue(3, messages=[{"role": "elf", "content": "x"}]), {"x": 1}, dialogue(4),
    ]  # fmt: skip
    found = read(open_records(jsonl(tmp_path / "d.jsonl", rows)))
    assert [place for place, _ in found] == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [one for _, one in found if isinstance(one, dict)] == [dialogue(0), dialogue(4)]
    said = [one for _, one in found if isinstance(one, str)]
    for one, beginning in zip(
        said,
        ["not JSON (", "is a JSON object", "messages: is a list of turns, not null",
         "has no turn of a user or an assistant", "id: contains a lone surrogate",
         "messages[0].role: 'elf' is not one of", "no known form of conversations has the keys x"],
        strict=True,
    ):  # fmt: skip
        assert one.startswith(beginning)
        assert "\n" not in one


def test_system_messages_go_and_turns_in_a_row_stay(tmp_path: Path) -> None:
    said = [("system", "be kind"), ("user", "a"), ("user", "b"), ("tool", "42"), ("assistant", "c")]
    turns = [{"role": role, "content": content} for role, content in said]
    kept = [turns[1], turns[2], turns[4]]
    (ours,) = records(jsonl(tmp_path / "d.jsonl", [dialogue(0, messages=turns)]))
    assert ours == dialogue(0, messages=kept)
    (other,) = records(jsonl(tmp_path / "o.jsonl", [{"messages": turns, "topic": "x"}]))
    assert other["messages"] == kept
    assert (other["id"], other["source"], other["metadata"]) == (
        "o-0000001", "o.jsonl", {"topic": "x"},
    )  # fmt: skip


def test_other_forms_and_containers_are_read_too(tmp_path: Path) -> None:
    sharegpt = [{"id": "a", "conversations": [{"from": "human", "value": "hi"}]}]
    (tmp_path / "s.json").write_text(json.dumps(sharegpt))
    (one,) = records(tmp_path / "s.json")
    assert one["messages"] == [{"role": "user", "content": "hi"}]
    assert one["id"] == "a"
    turns = [{"content": "hi", "role": "user"}, {"content": "yo", "role": "assistant"}]
    wild = [{"conversation_hash": "w", "conversation": turns, "toxic": False, "model": "m"}]
    (one,) = records(parquet(tmp_path / "w" / "x.parquet", wild))
    assert [m["content"] for m in one["messages"]] == ["hi", "yo"]
    assert one["metadata"]["model"] == "m"
    parquet(tmp_path / "w" / "y.parquet", wild)
    (tmp_path / "w" / "card.json").write_text('{"no": "conversation"}')
    assert [place for place, _ in read(open_records(tmp_path / "w"))] == [0, 1]


def test_of_a_tree_of_messages_one_path_is_read(tmp_path: Path) -> None:
    def node(name: str, role: str, rank: int, *replies: Json) -> Json:
        return {"message_id": name, "role": role, "text": name, "rank": rank, "replies": replies}

    tree = node("q", "prompter", 0, node("worse", "assistant", 1), node("best", "assistant", 0))
    rows = [{"message_tree_id": "q", "prompt": tree}, {"message_tree_id": "r", "prompt": tree}]
    found = read(open_records(jsonl(tmp_path / "t.jsonl", rows)))
    assert [place for place, _ in found] == [0, 1]
    assert [[m["content"] for m in one["messages"]] for _, one in found] == [["q", "best"]] * 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", '{"question": "a", "answer": "b"}\n', "the keys question, answer; a conv"),
        ("x.csv", "question,answer\na,b\n", "the keys question, answer; a conversation is"),
        ("x.jsonl", "", "x.jsonl: is empty"),
        ("x.jsonl", "\n\n", "x.jsonl: is empty"),
        ("x.jsonl", "{a\n", "x.jsonl:1: not JSON"),
        ("x.parquet", "PAR1", "not a Parquet file"),
        ("x.txt", "hello", "is of no known kind"),
    ],
)
def test_what_holds_no_conversation_is_one_line(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        open_records(tmp_path / name)
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_parquet_file_without_messages_lists_its_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", [{"question": "a", "answer": "b"}])
    with pytest.raises(UserError, match="the keys question, answer; a conversation is `messages`"):
        open_records(path)


def test_a_folder_without_dialogues_or_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        open_records(tmp_path / "gone")
    (tmp_path / "dialogues").mkdir()
    with pytest.raises(UserError, match="has no dialogues in it"):
        open_records(tmp_path)


def test_places_run_over_blocks_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from userlm_synth.conversations.sources import files

    monkeypatch.setattr(files.blocks, "__defaults__", (0, 2000))
    for number in range(3):
        rows = [dialogue(number * 20 + place) for place in range(20)]
        jsonl(tmp_path / f"part-{number:05d}.jsonl", rows)
    opened = open_records(tmp_path)
    blocks = list(opened.blocks())
    assert len(blocks) > 10
    assert all(len(block.inner.payload.data) < 6000 for block in blocks)  # type: ignore[union-attr]
    found = read(opened)
    assert [place for place, _ in found] == list(range(60))
    assert [one["id"] for _, one in found] == [f"toy-{number}" for number in range(60)]
    assert opened.total_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.skipif("USERLM_SYNTH_DATA" not in os.environ, reason="USERLM_SYNTH_DATA is not set")
@pytest.mark.parametrize(
    ("name", "rows"), [("coffee", 3710), ("topical", 2156), ("oasst_en_100_trees", 100)]
)
def test_real_conversations_are_all_read(name: str, rows: int) -> None:
    found = records(Path(os.environ["USERLM_SYNTH_DATA"]) / f"{name}.jsonl.gz")
    assert len(found) == rows
    assert all(isinstance(one, dict) for one in found)
    assert len({one["id"] for one in found}) == rows
