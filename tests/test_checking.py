"""Facts about `validate` of datasets: which form they have, and where what is wrong.

Datasets on the Hub are read by the real clients from the little Hub of `hub_server`, in one process
of its own: the clients read the address when they are imported.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import hub_process
import pytest
from hub_server import Hub, client_environment, serving
from test_reading import Json, dialogue, jsonl, parquet

from toys import conversation
from userlm_synth.conversations.checking import Summary, check_dataset, is_dataset, turn_problems
from userlm_synth.errors import UserError

HF = "hf://datasets/"


def published(rows: list[Json], split: str, folder: Path) -> Path:
    """Rows as a published copy holds them: `messages` first, open-ended objects as JSON text."""
    as_text = [
        {
            "messages": row["messages"],
            **{key: value for key, value in row.items() if key not in ("messages", "user_id")},
            **{key: json.dumps(row[key]) for key in ("metadata", "guardrails", "usage")},
        }
        for row in rows
    ]
    return parquet(folder / "data" / f"{split}-00000-of-00001.parquet", as_text)


def seal(folder: Path, **rows: int) -> None:
    """Manifest and checksums as a release has them."""
    splits = {split: {"rows": count, "bytes": 1} for split, count in rows.items()}
    (folder / "manifest.json").write_text(json.dumps({"splits": splits}))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in files
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def release(folder: Path) -> Path:
    """A good published copy of five dialogues."""
    published([dialogue(number) for number in range(3)], "train", folder)
    published([dialogue(number) for number in range(3, 5)], "validation", folder)
    (folder / "dialogue.schema.json").write_text("{}")
    seal(folder, train=3, validation=2)
    return folder


def text(summary: Summary) -> str:
    return "\n".join(summary.lines())


# ---- local folders and files -----------------------------------------------------------------


def test_a_good_published_copy_has_nothing_wrong_with_it(tmp_path: Path) -> None:
    summary = check_dataset(str(release(tmp_path)))
    assert summary.problems == []
    assert summary.count == 0
    assert summary.lines() == [
        str(tmp_path),
        "  form: userlm_synth dialogues 5",
        "  rows: 5 (train 3, validation 2)",
        "  turns: 3.0 a conversation, 3 to 3; roles: user 10, assistant 5",
        "  TRL: `messages` is the first column; every row is ready for SFTTrainer",
    ]


def test_a_published_copy_is_held_against_schema_ids_manifest_and_checksums(tmp_path: Path) -> None:
    release(tmp_path)
    rows = [dialogue(7), {**dialogue(7), "seed": -1}, dialogue(7), dialogue(8, "a", "  ")]
    path = published(rows, "train", tmp_path)
    (tmp_path / "dialogue.schema.json").unlink()
    summary = check_dataset(str(tmp_path))
    assert summary.problems == [
        f"{path}:2: seed: -1 is less than the minimum of 0",
        f"{path}:3: id: 'toy-7' is at {path}:1 too",
        f"{path}:4: messages[1].content: is empty; give it some text",
        f"{tmp_path} manifest.json: says 3 rows of train, and there are 4; a file is missing or "
        "from another release",
        f"{path}: is not what it was when SHA256SUMS was made; make the folder again",
        f"{tmp_path / 'dialogue.schema.json'}: is missing, and SHA256SUMS has it",
    ]
    assert summary.count == 6


def test_the_first_places_of_a_kind_are_named_and_all_are_counted(tmp_path: Path) -> None:
    turns = conversation("a", "b")["messages"]
    rows: list[Any] = [{"messages": turns}] * 2 + [{"messages": turns * 2 + turns[1:]}] * 7
    rows += [{"messages": [{"role": "elf", "content": "x"}]}, {"messages": None}, "{broken"]
    path = jsonl(tmp_path / "d.jsonl", rows)
    summary = check_dataset(str(path))
    assert summary.rows == 12
    assert summary.count == 10
    assert summary.problems == [
        *(
            f"{path}:{line}: messages[4]: two assistant turns in a row; merge them"
            for line in (3, 4, 5)
        ),
        f"{path}:10: messages[0].role: 'elf' is not one of user, assistant, system, tool",
        f"{path}:11: messages: is a list of turns, not null",
        f"{path}:12: not JSON (Expecting property name enclosed in double quotes at column 2); "
        "mend or remove it",
    ]
    said = text(summary)
    assert "wrong: messages[...]: two assistant turns in a row: 7, " in said
    assert "`messages` is the first column; 2 of 12 rows are ready for SFTTrainer" in said
    assert "roles: assistant 23, user 16, elf 1" in said


def test_another_form_is_named_and_what_trainers_need_is_said(tmp_path: Path) -> None:
    rows = [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]
    summary = check_dataset(str(parquet(tmp_path / "x.parquet", rows * 4)))
    assert summary.problems == []
    said = text(summary)
    assert "form: sharegpt 4" in said
    assert "roles: human 4, gpt 4" in said
    assert "TRL: not as it is; `userlm-synth prepare` makes `messages` of sharegpt" in said


def test_conversations_of_ours_are_held_against_their_schema(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [conversation("a"), {**conversation("b"), "intent": ""}])
    summary = check_dataset(str(tmp_path))
    assert summary.problems == [
        f"{tmp_path / 'train.jsonl'}:2: intent: is empty; give it some text"
    ]
    assert "form: userlm_synth conversations 2" in text(summary)


def test_of_a_dialogues_folder_the_rejected_ones_are_checked_too(tmp_path: Path) -> None:
    jsonl(tmp_path / "part-00000.jsonl", [dialogue(0)])
    jsonl(tmp_path / "part-00001.jsonl", [dialogue(0)])
    rejected = jsonl(tmp_path / "rejected.jsonl", ["{}"])
    first, second = (f"{tmp_path}/part-0000{number}.jsonl:1" for number in (0, 1))
    problems = check_dataset(str(tmp_path)).problems
    assert problems[0] == f"{second}: id: 'toy-0' is at {first} too"
    assert problems[1].startswith(f"{rejected}:1: (record): missing 'id'")
    assert len(problems) == 2


def test_rows_of_no_known_form_among_others_are_named(tmp_path: Path) -> None:
    turns = conversation("a", "b")["messages"]
    path = jsonl(tmp_path / "d.jsonl", [{"x": 1}, {"topic": "t", "messages": turns}])
    (tmp_path / "d.jsonl").rename(tmp_path / "e.jsonl")
    jsonl(path, [{"topic": "t", "messages": turns}])
    summary = check_dataset(str(tmp_path))
    assert summary.problems == [
        f"{tmp_path / 'e.jsonl'}:1: no known form of conversations has the keys x"
    ]
    assert "TRL: `messages` is column 2; 2 of 3 rows are ready for SFTTrainer" in text(summary)


def test_a_schema_that_is_asked_for_is_every_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", [{"messages": conversation("a")["messages"]}])
    summary = check_dataset(str(path), "dialogue")
    assert summary.problems[0].startswith(f"{path}:1: (record): missing 'id', 'source'")
    with pytest.raises(UserError, match="no schema named 'x'"):
        check_dataset(str(path), "x")


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        (["user", "assistant"], []),
        (["system", "user", "assistant", "tool", "assistant", "user"], []),
        (["user"], []),
        (["assistant", "user"], ["m[0]: the user opens a conversation, not the assistant"]),
        (["user", "user"], ["m[1]: two user turns in a row; merge them"]),
        (["user", "system"], ["m[1]: a system message that is not the first"]),
        (["system"], ["m: has no turn of a user or an assistant"]),
        ([], ["m: has no turn of a user or an assistant"]),
    ],
)
def test_sides_take_turns_around_system_and_tool_messages(
    roles: list[str], found: list[str]
) -> None:
    assert turn_problems([{"role": role, "content": "x"} for role in roles], "m") == found


def test_datasets_are_told_from_record_files(tmp_path: Path) -> None:
    own = jsonl(tmp_path / "own.jsonl", [conversation("a")])
    broken = jsonl(tmp_path / "broken.jsonl", [{"messages": "none of ours"}])
    intents = jsonl(tmp_path / "intents.jsonl", [{"id": "a", "intent": "b"}])
    sharegpt = jsonl(tmp_path / "s.jsonl", [{"conversations": []}])
    (tmp_path / "report.json").write_text('{"conversations": []}')
    (tmp_path / "r.yaml").write_text("conversations: {}")
    (tmp_path / "t.csv").write_text("a,b\n")
    assert [one for one in (own, broken, intents, tmp_path / "report.json", tmp_path / "r.yaml",
                            tmp_path / "gone.jsonl") if is_dataset(str(one))] == []  # fmt: skip
    for one in (sharegpt, tmp_path / "t.csv", tmp_path, f"{HF}me/x", "wildchat"):
        assert is_dataset(str(one))


# ---- on the Hub ------------------------------------------------------------------------------

CHECK = """
import json, os, sys
from userlm_synth.conversations.checking import check_dataset
from userlm_synth.conversations.reading import open_records, records_in
from userlm_synth.conversations.sources import hub
from userlm_synth.errors import UserError

hub.ROWS = 4

def check(address):
    try:
        summary = check_dataset(address)
        return [summary.lines(), summary.problems, summary.count]
    except UserError as error:
        return [[], [str(error)], -1]

def read(address):
    try:
        return [one for block in open_records(address).blocks() for one in records_in(block)]
    except UserError as error:
        return str(error)

print(json.dumps({one: [check(one), read(one)] for one in sys.argv[1:]}))
"""
NAMES = (
    "ours",
    "lied",
    "chats",
    "configs",
    "foreign",
    "broken",
    "script",
    "gated",
    "gone",
    "empty",
)
CHATS = [{"messages": conversation("a", "b", number=n)["messages"], "note": n} for n in range(9)]
CONFIGS = b"""---
configs:
- config_name: survey
  data_files: survey.jsonl
- config_name: talks
  data_files:
  - split: test
    path: talks.jsonl
---
"""


def table(rows: list[Json], folder: Path) -> bytes:
    return parquet(folder / "table.parquet", rows).read_bytes()


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What checking and reading said of each dataset: [[lines, problems, count], records]."""
    folder = tmp_path_factory.mktemp("hub")
    ours = {
        path.relative_to(folder / "ours").as_posix(): path.read_bytes()
        for path in release(folder / "ours").rglob("*")
        if path.is_file()
    }
    bad = [*CHATS[:5], {"messages": CHATS[0]["messages"] * 2 + CHATS[0]["messages"][1:], "note": 5}]
    with serving(Hub(folder / "state")) as hub:
        hub.put("me/ours", ours)
        lied = {**ours, "manifest.json": b'{"splits": {"train": {"rows": 9}}}'}
        hub.put("me/lied", lied)
        train = "data/train-00000-of-00001.parquet"
        hub.put("me/chats", {train: table(bad, folder), "data/test-00000-of-00001.parquet":
                             table(CHATS[:2], folder)})  # fmt: skip
        talks = {"survey.jsonl": lines([{"age": 3}]), "talks.jsonl": lines(CHATS[:3])}
        hub.put("me/configs", {"README.md": CONFIGS, **talks})
        hub.put("me/foreign", {train: table([{"x": 1, "y": 2}], folder)})
        hub.put("me/broken", {train: table(CHATS, folder)[:-900] + b"\0" * 900})
        hub.put("me/script", {"script.py": b"import datasets\n", "README.md": b"hi\n"})
        hub.put("me/empty", {"README.md": b"nothing here\n"})
        hub.put("me/gated", {train: table(CHATS, folder)}, private=True)
        addresses = [*(f"{HF}me/{name}" for name in NAMES), f"{HF}me/ours@v9"]
        environment = client_environment(hub, folder / "home", token="")
        done = hub_process.start(CHECK, *addresses, torch=True, **environment).wait()
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of(answers: dict[str, Any], name: str) -> tuple[str, list[str], Any]:
    (said, problems, _), found = answers[f"{HF}me/{name}"]
    assert not any("\n" in one for one in problems)
    return "\n".join(said), problems, found


def test_our_dataset_on_the_hub_is_read_and_checked_in_all_its_splits(
    answers: dict[str, Any],
) -> None:
    said, problems, found = of(answers, "ours")
    assert problems == []
    assert "form: userlm_synth dialogues 5\n  rows: 5 (train 3, validation 2)" in said
    assert said.splitlines()[0].startswith(f"{HF}me/ours@")
    assert found == [[number, dialogue(number)] for number in range(5)]


def test_a_manifest_on_the_hub_that_says_otherwise_is_a_problem(answers: dict[str, Any]) -> None:
    _, problems, _ = of(answers, "lied")
    assert [one.partition("manifest.json: ")[2][:46] for one in problems] == [
        "says 9 rows of train, and there are 3; a file ",
        "says 0 rows of validation, and there are 2; a ",
    ]


def test_a_row_on_the_hub_is_named_with_commit_split_and_number(answers: dict[str, Any]) -> None:
    said, (problem,), found = of(answers, "chats")
    address = said.splitlines()[0]
    assert problem == (
        f"{address} train row 6: messages[4]: two assistant turns in a row; merge them"
    )
    assert "rows: 8 (train 6, test 2)" in said
    assert "form: messages 8" in said
    assert [place for place, _ in found] == list(range(6)), "the default split alone"


def test_a_configuration_without_conversations_is_named_and_the_other_read(
    answers: dict[str, Any],
) -> None:
    said, problems, found = of(answers, "configs")
    assert problems == []
    assert "no conversations in survey/train: " in said
    assert "the keys age; " in said
    assert "rows: 3 (talks/test 3)" in said
    assert len(found) == 3


def test_a_dataset_without_conversations_lists_its_columns(answers: dict[str, Any]) -> None:
    said, (problem,), found = of(answers, "foreign")
    assert "form: no conversations" in said
    assert "no known form of conversations has the keys x, y; a conversation is `mess" in problem
    assert "the keys x, y; a conversation is" in found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", "arquet"),
        ("script", "me/script: "),
        ("gated", "there is no such dataset, or it is private"),
        ("gone", "there is no such dataset, or it is private"),
        ("empty", "doesn't contain any data files"),
        ("ours@v9", "has no revision 'v9'"),
    ],
)
def test_what_cannot_be_had_is_one_line(answers: dict[str, Any], name: str, words: str) -> None:
    _, problems, _ = of(answers, name)
    assert len(problems) == 1
    assert words in problems[0]
