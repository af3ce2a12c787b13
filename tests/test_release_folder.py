"""Facts about a release: rights have to be known, bytes are the same again, large sets stream."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import hub_process
import pytest
import yaml
from test_simulate import a_record

from userlm_synth.errors import Problems, UserError
from userlm_synth.hub import build_dataset, rows
from userlm_synth.hub.licences import families, model, named, naming_problem, of_folder
from userlm_synth.recipe import Push
from userlm_synth.records import Record, sha256_file, to_line, write_records

KNOWN = Push(
    license="cc-by-4.0", sources={"my intents": "cc0-1.0"}, models={"u": "mit", "a": "apache-2.0"}
)


def dialogues(count: int, **changes: Any) -> list[Record]:
    return [{**a_record(n, False), "intent": f"intent {n // 3}", **changes} for n in range(count)]


def folder_of(path: Path, records: list[Record]) -> Path:
    """A bare dialogues folder."""
    write_records(path / "part-00000.jsonl", records, "dialogue")
    return path


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def refused(run: Path, settings: Push) -> list[str]:
    with pytest.raises(Problems) as found:
        build_dataset(run, run.parent / "out", settings, "x", strict=True)
    assert not (run.parent / "out").exists()
    return found.value.lines


# ---- rights ------------------------------------------------------------------------------------


def test_nothing_is_published_while_a_licence_or_terms_are_not_known(tmp_path: Path) -> None:
    lines = refused(folder_of(tmp_path / "d", dialogues(9)), Push())
    assert [line.split(":")[0] for line in lines] == [
        "push.license",
        "push.sources",
        "push.models",
        "push.models",
    ]
    assert lines[2].endswith('give them, as push.models="{u: LICENCE_OR_TERMS}"')
    out = tmp_path / "local"
    build_dataset(tmp_path / "d", out, Push(), "x")
    card = (out / "README.md").read_text("utf-8")
    assert card.count("not stated") == 4


def test_what_the_recipe_says_of_rights_is_published(tmp_path: Path) -> None:
    run = folder_of(tmp_path / "d", dialogues(9))
    build_dataset(run, tmp_path / "out", KNOWN, "x", strict=True)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["license"] == "cc-by-4.0"
    assert [(one["name"], one["license"]) for one in manifest["sources"]] == [
        ("my intents", "cc0-1.0")
    ]
    assert [(one["role"], one["license"]) for one in manifest["models"]] == [
        ("user", "mit"), ("assistant", "apache-2.0"),
    ]  # fmt: skip


def test_unknown_is_no_licence_and_other_needs_a_name_and_a_link(tmp_path: Path) -> None:
    run = folder_of(tmp_path / "d", dialogues(9))
    settings = Push(license="other", sources={"s": "unknown"}, models={"u": "", "a": "mit"})
    assert [line.split(":")[0] for line in refused(run, settings)] == [
        "push.license_name", "push.sources", "push.models",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "name", "revision"),
    [
        ("user_lm#79580be2ee83", "user_lm", "79580be2ee83"),
        ("microsoft/UserLM-8b@0f3a", "microsoft/UserLM-8b", "0f3a"),
        ("prompted:openai:gpt-4o", "gpt-4o", None),
        ("user_lm#79580be2ee83+persona#aa", "user_lm", "79580be2ee83"),
        ("openai:Qwen/Qwen3-8B", "Qwen/Qwen3-8B", None),
    ],
)
def test_a_model_of_a_row_is_taken_apart(row: str, name: str, revision: str | None) -> None:
    assert named(row) == (name, revision)


@pytest.mark.parametrize(
    ("row", "license", "begins"),
    [
        ("meta-llama/Llama-3.2-1B@0123abc", "llama3.2", "Llama"),
        ("openai:meta-llama/Meta-Llama-3.1-70B-Instruct", "llama3.1", "Llama"),
        ("meta-llama/Meta-Llama-3-8B", "llama3", "Llama 3"),
        ("unsloth/llama-3.3-70b", "llama3.3", "Llama"),
        ("google/gemma-3-4b-it", "gemma", None),
        ("google/gemma-2b", "gemma", None),
        ("Qwen/Qwen2.5-1.5B", "apache-2.0", None),
        ("Qwen/Qwen2.5-3B-Instruct", "qwen-research", None),
        ("Qwen/Qwen3-8B", "apache-2.0", None),
        ("openai:gpt-4o", "OpenAI's terms", None),
        ("openai:gpt-oss-20b", "apache-2.0", None),
        ("microsoft/UserLM-8b", "mit", None),
        ("google/gemma-4-12b", "apache-2.0", None),
        ("openai:qwen3-max", None, None),
        ("somebody/their-model", None, None),
    ],
)
def test_known_families_of_models(row: str, license: str | None, begins: str | None) -> None:
    found = model(row, "user", None, Push())
    assert (found.license, found.begins) == (license, begins)
    assert found.known == (license is not None)
    said = model(row, "user", None, Push(models={row: "mine: only for my tests"}))
    assert (said.license, said.terms) == ("mine", "only for my tests")


def test_every_family_says_its_licence_and_where_it_stands() -> None:
    keys = {"name", "match", "license", "terms", "link", "begins", "notice"}
    for one in families():
        assert {"name", "match", "license", "link"} <= set(one) <= keys
        assert one["link"].startswith("https://")


def test_a_user_lm_made_here_has_the_licence_of_its_base(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = {"user_model": "user_lm#0123456789ab", "assistant_model": "openai:gpt-4o"}
    folder_of(run / "dialogues", dialogues(9, **record))
    (run / "user_lm").mkdir()
    (run / "recipe.yaml").write_text("base: {model: meta-llama/Llama-3.2-1B}\n")
    (run / "user_lm" / "README.md").write_text(
        "---\nlicense: llama3.2\nbase_model: meta-llama/Llama-3.2-1B\n---\n"
    )
    build_dataset(run, tmp_path / "out", KNOWN, "x", strict=True)
    user, assistant = json.loads((tmp_path / "out" / "manifest.json").read_text())["models"]
    assert (user["name"], user["revision"]) == ("user_lm", "0123456789ab")
    assert (user["license"], user["base"]) == ("llama3.2", "meta-llama/Llama-3.2-1B")
    assert "Built with Llama" in user["terms"]
    assert "compete with OpenAI" in assistant["terms"]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Built with Llama" in card
    assert "Copyright \u00a9 Meta Platforms" in card


def test_a_licence_alone_brings_its_terms(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: llama3.1\n---\n")
    assert of_folder(tmp_path, "base").begins == "Llama"
    assert of_folder(tmp_path / "nothing", "base").known is False


@pytest.mark.parametrize("name", ["Llama-3.2-1B-coffee", "llama-user", "Llama_user"])
def test_a_llama_may_be_called_llama(name: str) -> None:
    assert naming_problem(model("meta-llama/Llama-3.2-1B", "base", None, Push()), name) is None


def test_a_llama_may_not_be_called_anything_else() -> None:
    rights = model("meta-llama/Llama-3.2-1B", "base", None, Push())
    problem = naming_problem(rights, "coffee")
    assert problem is not None
    assert "begins with 'Llama'" in problem
    assert "Llama-coffee" in problem
    three = model("meta-llama/Meta-Llama-3-8B", "base", None, Push())
    assert naming_problem(three, "Llama-user") is not None
    assert naming_problem(three, "Llama-3-user") is None


def test_the_source_of_a_run_is_that_of_its_data_card(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder_of(run / "dialogues", dialogues(9))
    (run / "conversations").mkdir()
    source = {"name": "allenai/WildChat-1M", "revision": "abc", "license": None, "format": "w",
              "where": "https://huggingface.co/datasets/allenai/WildChat-1M"}  # fmt: skip
    card: Record = {"source": source, "languages": {"en": 980, "de": 15, "zh-Hant": 5}}
    (run / "conversations" / "card.json").write_text(json.dumps(card))
    settings = Push(license="mit", models={"u": "mit", "a": "mit"})
    assert refused(run, settings) == [
        "push.sources: the licence of allenai/WildChat-1M is not known here; give it, as "
        'push.sources="{allenai/WildChat-1M: LICENCE}"'
    ]
    source["license"] = "odc-by"
    (run / "conversations" / "card.json").write_text(json.dumps(card))
    build_dataset(run, tmp_path / "out", settings, "x", strict=True)
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text("utf-8").split("---\n")[1])
    assert front["source_datasets"] == ["allenai/WildChat-1M"]
    assert front["language"] == ["en", "de"]


def test_a_report_of_other_dialogues_is_not_published(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder_of(run / "dialogues", dialogues(9))
    (run / "report").mkdir()
    (run / "report" / "report.json").write_text('{"version": 2, "sets": [{"available": 8}]}')
    with pytest.raises(UserError, match=r"is of 8 dialogues, and there are 9; make it again"):
        build_dataset(run, tmp_path / "out", KNOWN, "x", strict=True)


def test_no_path_of_the_machine_is_published(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder_of(run / "dialogues", dialogues(9))
    recipe = "generate: {intents: /home/jo/secret plan/intents.jsonl, user: hf:/home/jo/lm}\n"
    (run / "recipe.yaml").write_text(recipe)
    build_dataset(
        run, tmp_path / "out", Push(), "x", command=f"userlm-synth push {run} me/x push.license=mit"
    )
    published = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert published == {"generate": {"intents": "intents.jsonl", "user": "lm"}}
    for file in ("README.md", "manifest.json", "recipe.yaml"):
        text = (tmp_path / "out" / file).read_text("utf-8")
        assert "/home" not in text
        assert str(tmp_path) not in text
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["command"] == "userlm-synth push run me/x push.license=mit"


# ---- files -------------------------------------------------------------------------------------


def test_run_folder_dialogues_folder_and_file_give_the_same_rows(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder_of(run / "dialogues", dialogues(30))
    places = (run, run / "dialogues", run / "dialogues" / "part-00000.jsonl")
    for number, place in enumerate(places):
        build_dataset(place, tmp_path / f"out{number}", Push(), "x")
    first, second, third = (sums(tmp_path / f"out{n}") for n in range(3))
    assert first == second == third


def test_the_same_dialogues_give_the_same_bytes(tmp_path: Path) -> None:
    run = folder_of(tmp_path / "d", dialogues(40))
    for name in ("one", "two"):
        build_dataset(run, tmp_path / name, KNOWN, "x", strict=True)
    assert sums(tmp_path / "one") == sums(tmp_path / "two")


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder_of(tmp_path / "d", dialogues(1_200))
    build_dataset(run, tmp_path / "one", Push(), "x")
    monkeypatch.setattr(rows, "SMALL", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    build_dataset(run, tmp_path / "two", Push(), "x")
    assert sums(tmp_path / "one") == sums(tmp_path / "two")


def test_shards_are_closed_when_full_and_count_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(rows, "SHARD", 2_000)
    monkeypatch.setattr(rows, "GROUP_ROWS", 100)
    monkeypatch.setattr(rows, "BLOCK", 50)
    run = folder_of(tmp_path / "d", dialogues(1_000))
    build_dataset(run, tmp_path / "out", Push(validation=0.2), "x")
    train = sorted((tmp_path / "out" / "data").glob("train-*"))
    assert len(train) >= 3
    assert train[1].name == f"train-00001-of-{len(train):05d}.parquet"
    ids = [one for file in sorted((tmp_path / "out" / "data").iterdir())
           for one in pq.read_table(file).column("id").to_pylist()]  # fmt: skip
    assert sorted(ids) == sorted(f"d{n}" for n in range(1_000))


def test_one_intent_is_one_split_and_that_is_train(tmp_path: Path) -> None:
    for number in range(12):
        run = folder_of(tmp_path / f"{number}", dialogues(2, intent=f"the goal {number}"))
        out = tmp_path / f"out{number}"
        assert build_dataset(run, out, Push(validation=0.5), "x") == {"train": 2}


BUILD_TWICE = """
import resource, sys
from pathlib import Path
from userlm_synth.hub import build_dataset, rows
from userlm_synth.recipe import Push
rows.SMALL = 1 << 60
rows.BLOCK, rows.GROUP_ROWS = 50, 100  # what is held at once, so that less is much more than it
folder = Path(sys.argv[1])
for count in (1_000, 7_000):
    build_dataset(folder / f"{count}.jsonl", folder / f"out{count}", Push(), "x")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dialogues(tmp_path: Path) -> None:
    for count in (1_000, 7_000):
        file = tmp_path / f"{count}.jsonl"
        text = "some words that a user may well write in a turn of a dialogue " * 12
        with file.open("w") as opened:
            for number, record in enumerate(dialogues(count)):
                said = [
                    {"role": ("user", "assistant")[at % 2], "content": f"{number} {text}"}
                    for at in range(4)
                ]
                opened.write(to_line({**record, "messages": said}))
    done = hub_process.start(BUILD_TWICE, tmp_path).wait()
    assert done.returncode == 0, done.stderr
    few, many = (int(line) / 1024 for line in done.stdout.splitlines()[-2:])
    assert many - few < 10, (few, many)  # MB; 6,000 dialogues alone have 18 MB of text
