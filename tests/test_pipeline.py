"""Facts about `run`: each stage once, what a change redoes, what a killed run loses (nothing)."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm

from userlm_synth.recipe import load_recipe
from userlm_synth.records import Record, file_problems, parse_json, read_records, sha256_file

Cli = Callable[..., Any]
STAGES = [
    "conversations", "base", "user_lm", "assistant_lm", "evaluation", "dialogues", "report",
    "dataset",
]  # fmt: skip


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def did(done: Any) -> dict[str, str]:
    """What a run said of each stage: `up to date`, `...`, `done again, ...`."""
    assert done.code == 0, done.err
    lines = [line.partition(": ") for line in done.err.splitlines()]
    return {name: said for name, _, said in lines if name in STAGES}


def manifest(out: Path) -> Record:
    return parse_json((out / "manifest.json").read_bytes())


def weights(out: Path, model: str = "user_lm") -> bytes:
    return (out / model / "model.safetensors").read_bytes()


def dialogues(out: Path) -> list[Record]:
    files = sorted((out / "dialogues").glob("part-*.jsonl"))
    return [r for file in files for r in read_records(file, "dialogue")]


def held(out: Path) -> list[tuple[str, str, int]]:
    """(id, intent, seed) of every dialogue that was held, rejected ones too, in order."""
    rejected = out / "dialogues" / "rejected.jsonl"
    refused = read_records(rejected, "rejected") if rejected.stat().st_size else []
    return sorted((r["id"], r["intent"], r["seed"]) for r in [*dialogues(out), *refused])


# ---- one run ---------------------------------------------------------------------------------


def test_a_run_does_every_stage_and_says_where_things_are(finished_run: Path) -> None:
    assert list(manifest(finished_run)["stages"]) == STAGES
    said = (finished_run / "stderr.txt").read_text()
    assert "records, all valid" in said.splitlines()[-1]
    shown = (finished_run / "stdout.txt").read_text()
    for stage in STAGES:
        assert str(finished_run / stage) in shown
    assert "Dialogue termination" in shown
    assert len(dialogues(finished_run)) >= 4


def test_the_manifest_is_valid_and_its_hashes_are_true(finished_run: Path) -> None:
    assert file_problems(finished_run / "manifest.json") == (1, [])
    seen = set()
    for name, stage in manifest(finished_run)["stages"].items():
        assert stage["outputs"], name
        for file, digest in stage["outputs"].items():
            assert sha256_file(finished_run / file) == digest
            seen.add(file)
    assert {"user_lm/model.safetensors", "report/index.html", "dataset/README.md"} <= seen


def test_the_recipe_in_the_folder_makes_the_same_run(finished_run: Path, toy_recipe: Path) -> None:
    resolved = load_recipe(str(finished_run / "recipe.yaml"))
    assert resolved == load_recipe(str(toy_recipe))
    rows = {r["recipe_hash"] for r in dialogues(finished_run)}
    assert rows == {resolved.hash} == {manifest(finished_run)["recipe_hash"]}


def test_a_finished_run_leaves_nothing_half_made(finished_run: Path) -> None:
    hidden = [p.name for p in finished_run.rglob(".*")]
    assert hidden == []


# ---- run again -------------------------------------------------------------------------------


def test_a_second_run_finds_every_stage_up_to_date(
    cli: Cli, run_copy: Path, toy_recipe: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in run_copy.rglob("*.safetensors")}
    done = cli("run", toy_recipe, "--out", run_copy)
    assert did(done) == dict.fromkeys(STAGES, "up to date")
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.slow
def test_other_epochs_redo_the_user_lm_and_what_is_made_from_it(
    cli: Cli, run_copy: Path, toy_recipe: Path
) -> None:
    former, first = weights(run_copy), dialogues(run_copy)
    done = cli("run", toy_recipe, "--out", run_copy, "train.epochs=1")
    assert did(done) == {
        "conversations": "up to date",
        "base": "up to date",
        "user_lm": "done again, its settings (train) changed",
        "assistant_lm": "up to date",
        "evaluation": "done again, because user_lm changed",
        "dialogues": "done again, because user_lm changed",
        "report": "done again, because dialogues changed",
        "dataset": "done again, because dialogues and report changed",
    }
    assert weights(run_copy) != former
    kept = run_copy / "dialogues.old-1"
    assert f"kept in {kept}" in done.err
    assert read_records(kept / "part-00000.jsonl", "dialogue") == first
    assert {r["user_model"] for r in dialogues(run_copy)} != {r["user_model"] for r in first}


def test_a_missing_file_is_made_again(cli: Cli, run_copy: Path, toy_recipe: Path) -> None:
    former = (run_copy / "report" / "report.json").read_bytes()
    (run_copy / "report" / "report.json").unlink()
    said = did(cli("run", toy_recipe, "--out", run_copy))
    assert said.pop("report") == "done again, report/report.json is missing"
    assert set(said.values()) == {"up to date"}
    assert (run_copy / "report" / "report.json").read_bytes() == former


def test_changed_chats_are_prepared_again(
    cli: Cli, run_copy: Path, toy_recipe: Path, tmp_path: Path
) -> None:
    lines = (run_copy / "conversations" / "train.jsonl").read_bytes().splitlines(keepends=True)
    chats = tmp_path / "chats.jsonl"
    only = [
        "--out", tmp_path / "chats", f"conversations.source={chats}",
        *(f"{section}=null" for section in ("base", "train", "assistant", "evaluate", "generate")),
        "report=null", "push=null",
        "conversations.train=1", "conversations.validation=0", "conversations.test=0",
    ]  # fmt: skip
    for some, said in ((lines, "..."), (lines, "up to date"), (lines[1:], "done again, its")):
        chats.write_bytes(b"".join(some))
        assert did(cli("run", toy_recipe, *only))["conversations"].startswith(said)


def test_changed_intents_extend_the_dialogues(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('["a"]')
    intents = tmp_path / "i.jsonl"
    recipe = tmp_path / "r.yaml"
    spec = f"scripted:{tmp_path / 's.json'}"
    recipe.write_text(
        f"name: r\nassistant: {{model: '{spec}'}}\n"
        f"generate: {{user: '{spec}', intents: '{intents}', max_turns: 1}}\n"
    )
    for count, said in ((1, "..."), (1, "up to date"), (3, "done again, its settings")):
        lines = (f'{{"id": "i{n}", "intent": "goal {n}"}}\n' for n in range(count))
        intents.write_text("".join(lines))
        done = cli("run", recipe, "--out", tmp_path / "out")
        assert did(done)["dialogues"].startswith(said)
        assert len(dialogues(tmp_path / "out")) == count


@pytest.fixture(scope="module")
def larger_run(cli: Cli, finished_run: Path, toy_recipe: Path, tmp_path_factory: Any) -> Path:
    """The finished run, extended to 24 dialogues."""
    out = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("larger") / "run"))
    said = did(cli("run", toy_recipe, "--out", out, "generate.num=24"))
    assert said.pop("dialogues") == "done again, its settings (generate) changed"
    assert (said.pop("report"), said.pop("dataset")) == (
        "done again, because dialogues changed",
        "done again, because dialogues and report changed",
    )
    assert set(said.values()) == {"up to date"}
    return out


def test_a_larger_number_keeps_the_former_dialogues_and_adds_to_them(
    finished_run: Path, larger_run: Path
) -> None:
    former, now = (
        (out / "dialogues" / "part-00000.jsonl").read_bytes() for out in (finished_run, larger_run)
    )
    assert now.startswith(former)
    assert len(held(larger_run)) == 24
    assert set(held(finished_run)) < set(held(larger_run))
    assert not (larger_run / "dialogues.old-1").exists()


def test_the_base_is_taken_from_the_cache_by_the_next_run(
    cli: Cli, finished_run: Path, toy_recipe: Path, tmp_path: Path, own_cache: Path
) -> None:
    later = ("train", "assistant", "evaluate", "generate", "report", "push")
    without = [f"{section}=null" for section in later]
    first = cli("run", toy_recipe, "--out", tmp_path / "first", *without)
    assert weights(tmp_path / "first", "base") == weights(finished_run, "base"), first.err
    done = cli("run", toy_recipe, "--out", tmp_path / "one", *without)
    assert did(done)["base"] == "..."
    assert f"trained before: from {own_cache}" in done.err
    assert weights(tmp_path / "one", "base") == weights(finished_run, "base")
    other = cli("run", toy_recipe, "--out", tmp_path / "two", *without, "base.train.epochs=1")
    assert "trained before" not in other.err
    assert weights(tmp_path / "two", "base") != weights(finished_run, "base")


def test_other_intents_are_another_base(cli: Cli, tmp_path: Path) -> None:
    from toys import conversation
    from userlm_synth.recipe import Scratch, Training
    from userlm_synth.training.base import train_base

    options = Training(max_length=128, batch_tokens=256, precision="fp32", epochs=0.5)
    shape = Scratch(vocabulary=300, hidden=8, layers=1, heads=1)
    made = [
        train_base([conversation("hi", "yes", intent=intent)], shape, options, tmp_path / "b", 0)
        for intent in ("to greet", "to greet", "to leave")
    ]
    assert [one["trained"] for one in made] == [True, False, True]


# ---- killed ----------------------------------------------------------------------------------


def kill_when(command: list[Any], ready: Callable[[], bool]) -> str:
    """Start a run and kill -9 it as soon as `ready`; returns what it had said."""
    run = warm.program(*command)
    limit = time.monotonic() + 120
    while run.returncode is None and not ready() and time.monotonic() < limit:
        time.sleep(0.003)
    run.kill()
    assert run.returncode == -signal.SIGKILL, f"it was done before it was killed: {run.stderr}"
    return run.stderr


def rows(store: Path) -> int:
    if not store.exists():
        return 0
    try:
        connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT count(*) FROM dialogues").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:  # not a table yet
        return 0


@pytest.mark.slow
def test_a_run_that_was_killed_twice_ends_like_one_that_was_not(
    toy_recipe: Path, larger_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    states = out / ".user_lm.training"
    command = [
        "run", toy_recipe, "--out", out,
        "train.checkpoint_minutes=1e-9", "generate.num=24", "generate.concurrency=2",
    ]  # fmt: skip

    kill_when(command, lambda: any(int(p.name[5:]) >= 9 for p in states.glob("step-????????")))
    assert not (out / "user_lm").exists()
    assert "user_lm" not in manifest(out)["stages"]

    store = out / "dialogues" / "store.sqlite"
    said = kill_when(command, lambda: rows(store) >= 4)
    assert "base: up to date" in said
    assert "user LM: continues at step " in said
    assert weights(out) == weights(larger_run), "bit for bit"
    assert 4 <= rows(store) < 24
    assert not list((out / "dialogues").glob("part-*.jsonl"))

    last = warm.program(*command).wait()
    assert last.returncode == 0, last.stderr
    assert "user_lm: up to date" in last.stderr
    assert "of 24 are done already" in last.stderr
    assert held(out) == held(larger_run)
    assert len({one for one, _, _ in held(out)}) == 24
    assert str(out / "report" / "index.html") in last.stdout
    assert weights(out, "assistant_lm") == weights(larger_run, "assistant_lm")
