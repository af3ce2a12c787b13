"""Facts about output folders: whose they are, and what a full disk does to them."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli import recipe_file

from toys import conversation
from userlm_synth.locks import locked
from userlm_synth.records import END_TOKEN, read_records

Cli = Callable[..., Any]
Write = Callable[..., Path]
GOOD = conversation("hi", "hello", number=1)
LINE = json.dumps(GOOD).encode() + b"\n"


# ---- output folders --------------------------------------------------------------------------

SMALL = {"source": "quickstart", "count": 60, "train": 0.6, "validation": 0.2, "test": 0.2}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_of_another_recipe_is_refused_and_stays_as_it_was(
    cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = recipe_file(tmp_path, conversations=SMALL)
    assert cli("run", first, "--out", out).code == 0
    before = contents(out)
    second = recipe_file(tmp_path, name="other", conversations=SMALL)
    error = cli("run", second, "--out", out).error
    assert error == f"error: {out}: belongs to the recipe 'r', not 'other'; choose another --out"
    assert contents(out) == before


def test_a_folder_with_other_files_is_refused_and_stays_as_it_was(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    path = recipe_file(tmp_path, conversations=SMALL)
    error = cli("run", path, "--out", out).error
    assert error.startswith(f"error: {out}: holds other files (thesis.txt) and no manifest.json")
    assert contents(out) == {"thesis.txt": b"precious"}


def test_an_output_folder_that_is_a_file_or_has_an_odd_manifest_is_refused(
    cli: Cli, tmp_path: Path
) -> None:
    path = recipe_file(tmp_path, conversations=SMALL)
    assert "is a file; name a folder" in cli("run", path, "--out", path).error
    for text in ("{", "[]", '{"recipe": 3}'):
        (tmp_path / "odd").mkdir(exist_ok=True)
        (tmp_path / "odd" / "manifest.json").write_text(text)
        assert "is not a manifest" in cli("run", path, "--out", tmp_path / "odd").error


def test_a_folder_where_a_run_is_at_work_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, conversations=SMALL)
    assert cli("run", path, "--out", tmp_path / "out").code == 0
    with locked(tmp_path / "out", "in use"):
        error = cli("run", path, "--out", tmp_path / "out").error
    assert "another run is at work in this folder" in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(cli: Cli, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    error = cli("prepare", "--source", "quickstart", "--out", tmp_path / "out").error
    assert error.endswith("Permission denied")


# ---- a full disk -----------------------------------------------------------------------------


def fill(folder: Path, leave: int) -> Path:
    """Fill a disk but for `leave` bytes."""
    at = os.statvfs(folder)
    path = folder / "filler"
    path.write_bytes(b"x" * max(at.f_bavail * at.f_bsize - leave, 0))
    return path


FULL = "the disk is full; free some space and run the same command again"


def test_prepare_on_a_full_disk_writes_nothing_and_works_once_there_is_room(
    cli: Cli, small_disk: Callable[[str], Path]
) -> None:
    out = small_disk("256k") / "out"
    whole = ["conversations.clean=null", "conversations.dedup=null"]
    command = ["prepare", "--source", "quickstart", "--out", out, *whole]
    assert FULL in cli(*command).error
    assert contents(out) == {}
    small_disk("20m")
    assert cli(*command).code == 0
    files = [out / f"{name}.jsonl" for name in ("train", "validation", "test")]
    assert cli("validate", *files).out == "3,000 records, all valid\n"


@pytest.mark.slow
def test_training_on_a_full_disk_continues_from_its_checkpoint_once_there_is_room(
    cli: Cli, small_disk: Callable[[str], Path], toy_recipe: Path
) -> None:
    disk = small_disk("4m")
    out = disk / "out"
    command = ["train", toy_recipe, "--out", out, "train.checkpoint_minutes=1e-9"]
    later = ("train", "assistant", "evaluate", "generate", "report", "push")
    done = cli("run", toy_recipe, "--out", out, *(f"{section}=null" for section in later))
    assert done.code == 0, done.err
    filler = fill(disk, 500_000)  # room for two states, not for four
    done = cli(*command)
    assert FULL in done.error
    assert "base: up to date" in done.err
    assert not (out / "user_lm").exists()
    assert list((out / ".user_lm.training").glob("step-????????"))
    filler.unlink()
    again = cli(*command)
    assert again.code == 0, again.err
    assert "user LM: continues at step" in again.err
    assert not (out / ".user_lm.training").exists()
    assert not list(out.glob("**/*.part"))


def test_dialogues_on_a_full_disk_are_kept_and_the_rest_follow_once_there_is_room(
    cli: Cli, small_disk: Callable[[str], Path], tmp_path: Path, write_jsonl: Write
) -> None:
    disk = small_disk("6m")
    words = [f"turn {n} " + "word " * 400 for n in range(4)]
    (tmp_path / "user.json").write_text(json.dumps([*words, END_TOKEN]))
    (tmp_path / "assistant.json").write_text(json.dumps(words))
    intents = write_jsonl(tmp_path / "i.jsonl", [{"id": "a", "intent": "to talk"}])
    command = [
        "generate", "--user", f"scripted:{tmp_path / 'user.json'}", "--intents", intents,
        "--assistant", f"scripted:{tmp_path / 'assistant.json'}", "--num", 60, "--out", disk / "d",
        "--concurrency", 2,
    ]  # fmt: skip
    filler = fill(disk, 600_000)
    assert FULL in cli(*command).error
    assert not list((disk / "d").glob("*.jsonl"))
    filler.unlink()
    rows = sqlite3.connect(disk / "d" / "store.sqlite")
    (kept,) = rows.execute("SELECT count(*) FROM dialogues").fetchone()
    rows.close()
    assert 0 < kept < 60
    done = cli(*command)
    assert done.code == 0, done.err
    assert f"{kept} of 60 are done already" in done.err
    held = read_records(disk / "d" / "part-00000.jsonl", "dialogue")
    assert len({one["id"] for one in held}) == 60
