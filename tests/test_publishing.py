"""Facts about `report` and `push`: what lies in a folder, what is made of it, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome

from toys import conversation
from userlm_synth.publishing import is_model, is_release
from userlm_synth.records import write_records

Cli = Callable[..., Outcome]
MODELS = 'push.models={u@1: "apache-2.0", a@1: "MIT"}'
RIGHTS = ["push.license=cc-by-4.0", MODELS, "push.sources={toys: cc0-1.0}"]


def dialogue(number: int) -> dict[str, Any]:
    """A dialogue of two turns, each different."""
    texts = [f"how do i plant {number} roses in row {number * 7}?", "Dig a hole first."]
    roles = ("user", "assistant")
    side = {"prompt_tokens": 5, "completion_tokens": 5}
    return {
        **{"id": f"d{number}", "source": "userlm_synth", "user_id": None, "language": "en"},
        **{"intent": f"plant roses, case {number % 9}", "persona": None, "metadata": {}},
        "messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)],
        **{"intent_id": f"i{number % 9}", "seed": number, "stop_reason": "user_ended"},
        **{"user_model": "u@1", "assistant_model": "a@1", "guardrails": {}},
        **{"end_probabilities": [0.1], "usage": {"user": side, "assistant": side}},
        "recipe_hash": "0" * 16,
    }


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "part-00000.jsonl"
    write_records(path, [dialogue(number) for number in range(40)], "dialogue")
    return path.parent


def test_a_release_is_made_here_and_is_valid(cli: Cli, dialogues: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    done = cli("push", dialogues, "--to", out, *RIGHTS)
    assert done.code == 0, done.err
    assert "nothing was sent" in done.out
    assert "has no report" in done.err
    assert is_release(out)
    assert "40 records, all valid" in cli("validate", out).out


def test_a_report_beside_the_dialogues_is_in_the_release(
    cli: Cli, dialogues: Path, tmp_path: Path
) -> None:
    done = cli("report", dialogues, "--out", dialogues / "report")
    assert done.code == 0, done.err
    report = json.loads((dialogues / "report" / "report.json").read_text())
    assert any("reference" in line for line in report["cannot_say"])
    done = cli("push", dialogues, "--to", tmp_path / "release", *RIGHTS)
    assert done.code == 0, done.err
    assert "has no report" not in done.err
    assert (tmp_path / "release" / "index.html").is_file()


def test_unknown_rights_are_refused_a_line_each_and_nothing_is_made(
    cli: Cli, dialogues: Path, tmp_path: Path
) -> None:
    done = cli("push", dialogues, "--to", tmp_path / "release")
    assert done.code == 1
    for path in ("push.license", "push.sources", "push.models"):
        assert f"error: {path}:" in done.err
    assert not (tmp_path / "release").exists()


def test_a_dry_run_needs_no_repository_and_no_network(cli: Cli, dialogues: Path) -> None:
    done = cli("push", dialogues, "--dry-run", *RIGHTS)
    assert done.code == 0, done.err
    assert "would send" in done.out
    assert "README.md" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["push", "{here}"], "name a REPO_ID"),
        (["push", "{here}/missing", "me/x"], "no such folder"),
        (["push", "{here}", "me/x", "me/y"], "one REPO_ID, not 2"),
        (["push", "{here}", "me/x", "push.licence=mit"], "push.licence"),
        (["report", "{here}/missing", "--out", "{here}/r"], "missing"),
        (["report", "{here}", "--out", "{here}/r", "report.sample=1"], "report.sample"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    cli: Cli, dialogues: Path, arguments: list[str], said: str
) -> None:
    done = cli(*(one.replace("{here}", str(dialogues)) for one in arguments))
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err
    assert sum(line.startswith("error:") for line in done.err.splitlines()) == 1


def test_a_run_brings_its_people_and_its_training_conversations(
    cli: Cli, dialogues: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "conversations").mkdir(parents=True)
    dialogues.rename(run / "dialogues")
    for split in ("train", "test"):
        chats = [conversation(f"{split} {at}", "Yes.", number=at) for at in range(12)]
        write_records(run / "conversations" / f"{split}.jsonl", chats, "conversation")
    done = cli("report", run, "--out", tmp_path / "report")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["reference"]["available"] == 12
    assert report["training"]["available"] == 12


def test_two_sets_stand_side_by_side(cli: Cli, dialogues: Path, tmp_path: Path) -> None:
    done = cli("report", dialogues, "--compare", dialogues, "--out", tmp_path / "report")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert len(report["sets"]) == 2
    first = report["compare"]["figures"]["words_per_user_turn"]
    assert (first["difference"]["value"], first["beyond_chance"]) == (0, False)


def test_a_checkpoint_is_a_model_and_dialogues_are_none(dialogues: Path, tmp_path: Path) -> None:
    (tmp_path / "user_lm").mkdir()
    (tmp_path / "user_lm" / "config.json").write_text("{}")
    assert is_model(tmp_path / "user_lm")
    assert not is_model(dialogues)
