"""Facts about the dataset folder: it loads as it is, no intent is in two splits, sums are true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_simulate import a_record

from userlm_synth.errors import Problems, UserError
from userlm_synth.hub import build_dataset, split_by_intent
from userlm_synth.recipe import Push
from userlm_synth.records import (
    Record,
    load_schema,
    read_records,
    record_problems,
    sha256_file,
    write_records,
)

ODD = 'a "quoted" | <b>bold</b> ```fence``` 🙂 שלום \u2028 end'


def dialogues(count: int) -> list[Record]:
    """Dialogues of which each three share an intent."""
    return [{**a_record(n, False), "intent": f"intent {n // 3}"} for n in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder of forty dialogues, one of them with unusual text."""
    run = tmp_path_factory.mktemp("run")
    records = dialogues(40)
    records[0]["messages"] = [{"role": "user", "content": ODD}]
    records[1]["metadata"] = {"deep": [1, {"x": None}]}
    write_records(run / "dialogues" / "part-00000.jsonl", records[:30], "dialogue")
    write_records(run / "dialogues" / "part-00001.jsonl", records[30:], "dialogue")
    (run / "recipe.yaml").write_text("name: hub\n")
    counts = build_dataset(run, run / "dataset", Push(license="mit", validation=0.3), "hub")
    assert sum(counts.values()) == 40
    return run / "dataset"


def front_matter(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    opening, front, _ = text.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(front)


def published(folder: Path) -> list[Record]:
    """The rows of all shards, train first."""
    import pyarrow.parquet as pq

    files = sorted((folder / "data").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.slow
def test_the_folder_loads_with_datasets_and_messages_come_first(
    folder: Path, tmp_path: Path
) -> None:
    import datasets

    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert set(loaded) == {"train", "validation"}
    assert loaded["train"].column_names[0] == "messages"
    rows = [row for split in loaded.values() for row in split]
    assert len(rows) == 40
    intents = [set(split["intent"]) for split in loaded.values()]
    assert all(intents)
    assert not intents[0] & intents[1], "no intent in both splits"
    by_id = {row["id"]: row for row in rows}
    assert by_id["d0"]["messages"] == [{"role": "user", "content": ODD}]
    assert json.loads(by_id["d1"]["metadata"]) == {"deep": [1, {"x": None}]}
    assert by_id["d2"]["end_probabilities"] == [None]
    assert {*by_id["d3"]} == {*load_schema("dialogue")["properties"]} - {"user_id"}


def test_the_checksums_are_true_and_of_every_file(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert set(sums) == set(files) - {"SHA256SUMS"}
    assert {name: sha256_file(files[name]) for name in sums} == sums


def test_the_manifest_is_true(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert record_problems(manifest, "release") == []
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == set(files) - {"SHA256SUMS", "manifest.json"}
    for name, facts in manifest["files"].items():
        assert facts == {"sha256": sha256_file(files[name]), "bytes": files[name].stat().st_size}
    assert sum(one["rows"] for one in manifest["splits"].values()) == 40
    assert manifest["recipe_hash"] == ["h"]
    assert [one["name"] for one in manifest["models"]] == ["u", "a"]


def test_schema_and_recipe_lie_in_the_folder(folder: Path) -> None:
    assert json.loads((folder / "dialogue.schema.json").read_text()) == load_schema("dialogue")
    assert (folder / "recipe.yaml").read_text() == "name: hub\n"


def test_an_intent_keeps_its_split_when_dialogues_are_added() -> None:
    few, many = (split_by_intent(dialogues(n), 0.4) for n in (30, 90))
    for name, part in few.items():
        assert {r["intent"] for r in part} <= {r["intent"] for r in many[name]}
    assert set(split_by_intent(dialogues(30), 0.0)) == {"train"}


def test_building_again_replaces_the_folder_and_leaves_nothing_beside_it(
    folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder.parent, run)
    (run / "dataset" / "stale.txt").write_text("old")
    build_dataset(run, run / "dataset", Push(), "hub")
    assert not (run / "dataset" / "stale.txt").exists()
    assert front_matter(run / "dataset")["license"] == "unknown"
    assert sorted(p.name for p in run.iterdir()) == ["dataset", "dialogues", "recipe.yaml"]


def test_without_an_accepted_dialogue_there_is_nothing_to_publish(tmp_path: Path) -> None:
    (tmp_path / "dialogues").mkdir()
    with pytest.raises(UserError, match="no accepted dialogue to publish"):
        build_dataset(tmp_path, tmp_path / "dataset", Push(), "x")
    (tmp_path / "dialogues" / "part-00000.jsonl").write_text("")
    with pytest.raises(UserError, match="no accepted dialogue to publish"):
        build_dataset(tmp_path, tmp_path / "dataset", Push(), "x")
    assert not (tmp_path / "dataset").exists()


def test_every_line_that_is_no_dialogue_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    file = tmp_path / "made.jsonl"
    write_records(file, dialogues(3), "dialogue")
    lines = file.read_text().splitlines()
    broken = lines[1].replace('"max_turns"', '"tired"')
    file.write_text("\n".join([lines[0], broken, lines[2], lines[0]]) + "\n")
    with pytest.raises(Problems) as refused:
        build_dataset(file, tmp_path / "out", Push(), "x")
    first, second = refused.value.lines
    assert first.startswith(f"{file}:2: stop_reason: ")
    assert second == f"{file}:4: id: 'd0' is there twice"
    assert not (tmp_path / "out").exists()


SECRET = "hf_" + "aBcDeFgHiJkLmNoPqRsT" + "uVwXyZaBcDeFgH"
MAIL = "o'neill@acme.io"


def a_leaking_run(run: Path) -> Path:
    """Forty dialogues, of which two hold a secret or an address; the report shows one of them."""
    records = dialogues(40)
    records[3]["messages"].append({"role": "assistant", "content": f"mail {MAIL} or {MAIL}"})
    records[5]["persona"] = f"uses {SECRET}"
    records[7]["intent_id"] = "jo@acme.io"
    write_records(run / "dialogues" / "part-00000.jsonl", records, "dialogue")
    (run / "recipe.yaml").write_text("assistant: {model: 'openai:m@https://me:h4xor99@acme.io'}\n")
    (run / "report").mkdir()
    report = {"version": 2, "sets": [{"available": 40, MAIL: [{"shown": f"<b>{SECRET}"}]}]}
    (run / "report" / "report.json").write_text(json.dumps(report))
    (run / "report" / "index.html").write_text(f"{SECRET[:20]}<wbr>{SECRET[20:]}")
    return run


def test_personal_data_stops_the_push_with_counts_and_a_place_but_never_the_secret(
    tmp_path: Path,
) -> None:
    run = a_leaking_run(tmp_path / "run")
    (run / "dataset").mkdir()
    (run / "dataset" / "former.txt").write_text("former")
    with pytest.raises(UserError) as refused:
        build_dataset(run, run / "dataset", Push(), "hub")
    text = str(refused.value)
    assert "EMAIL 4, HUGGING_FACE_TOKEN 2, URL_CREDENTIALS 1" in text
    assert "dialogue 'd3', messages[1]" in text
    assert "push.redact=true" in text
    assert "--redact" in text
    assert "\n" not in text
    assert not any(secret in text for secret in (SECRET, MAIL, "h4xor99"))
    assert [p.name for p in (run / "dataset").iterdir()] == ["former.txt"], "nothing was touched"
    left = ["dataset", "dialogues", "recipe.yaml", "report"]
    assert sorted(p.name for p in run.iterdir()) == left


def test_with_redact_placeholders_are_published_and_counted_on_the_card(tmp_path: Path) -> None:
    run = a_leaking_run(tmp_path / "run")
    settings = Push(redact=True)
    build_dataset(run, run / "dataset", settings, "hub", page=json.dumps)
    by_id = {row["id"]: row for row in published(run / "dataset")}
    assert by_id["d3"]["messages"][1]["content"] == "mail [EMAIL] or [EMAIL]"
    assert by_id["d5"]["persona"] == "uses [HUGGING_FACE_TOKEN]"
    assert by_id["d7"]["intent_id"] == "[EMAIL]"
    card = (run / "dataset" / "README.md").read_text(encoding="utf-8")
    assert "placeholders instead of EMAIL 3, HUGGING_FACE_TOKEN 1, URL_CREDENTIALS 1" in card
    page = json.loads((run / "dataset" / "index.html").read_text())
    assert page["sets"] == [{"available": 40, "[EMAIL]": [{"shown": "<b>[HUGGING_FACE_TOKEN]"}]}]
    assert json.loads((run / "dataset" / "report.json").read_text()) == page
    assert "[URL_CREDENTIALS]@acme.io" in (run / "dataset" / "recipe.yaml").read_text()
    for file in (run / "dataset").rglob("*"):
        held = file.read_bytes() if file.is_file() else b""
        assert SECRET.encode() not in held
        assert b"neill@" not in held
    kept = read_records(run / "dialogues" / "part-00000.jsonl", "dialogue")
    assert kept[5]["persona"] == f"uses {SECRET}", "the run's own files stay as they are"


def test_a_page_that_cannot_be_made_again_is_left_out_where_its_report_held_a_secret(
    tmp_path: Path,
) -> None:
    run = a_leaking_run(tmp_path / "run")
    build_dataset(run, run / "dataset", Push(redact=True), "hub")
    assert not (run / "dataset" / "index.html").exists()
    assert (run / "dataset" / "report.json").exists()


def test_two_ids_that_are_addresses_stay_two_ids(tmp_path: Path) -> None:
    records = [{**one, "id": f"{n}jo@acme.io"} for n, one in enumerate(dialogues(6))]
    write_records(tmp_path / "part-00000.jsonl", records, "dialogue")
    build_dataset(tmp_path, tmp_path / "out", Push(redact=True), "x")
    ids = [row["id"] for row in published(tmp_path / "out")]
    assert len(set(ids)) == 6
    assert not any("@" in one for one in ids)


def test_intents_that_become_one_by_redaction_are_in_one_split(tmp_path: Path) -> None:
    records = [{**one, "intent": f"write to {n}jo@acme.io"} for n, one in enumerate(dialogues(60))]
    write_records(tmp_path / "part-00000.jsonl", records, "dialogue")
    counts = build_dataset(tmp_path, tmp_path / "out", Push(redact=True, validation=0.5), "x")
    assert counts == {"train": 60}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {name: one["rows"] for name, one in manifest["splits"].items()} == counts


def test_a_clean_set_says_on_its_card_that_nothing_was_found(folder: Path) -> None:
    assert "and passwords: none found" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_pipelines_dataset_is_its_accepted_dialogues(finished_run: Path) -> None:
    accepted = read_records(finished_run / "dialogues" / "part-00000.jsonl", "dialogue")
    ids = [row["id"] for row in published(finished_run / "dataset")]
    assert sorted(ids) == sorted(r["id"] for r in accepted)
    named = {p.name for p in (finished_run / "dataset").iterdir()}
    assert named - {"plots"} == {
        "README.md", "SHA256SUMS", "data", "dialogue.schema.json", "index.html", "manifest.json",
        "recipe.yaml", "report.json",
    }  # fmt: skip
