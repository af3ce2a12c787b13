"""A release pushed to a Hub of our own comes back equal, trains, validates and is reported on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_process
import pytest
import warm
from hub_client import REPO, Pusher, state_of
from hub_server import client_environment, serving
from hub_state import Hub
from test_simulate import a_record

import toys
from userlm_synth.hub import build_dataset
from userlm_synth.recipe import Push
from userlm_synth.records import Record, write_records
from userlm_synth.user_lm.checkpoint import save_checkpoint

pytestmark = pytest.mark.slow
COUNT = 1000
DRINKS = ("latte", "green tea", "flat white", "cocoa", "lemonade", "cold brew", "mocha")

LOAD = """
import json, sys
from datasets import load_dataset
plain = load_dataset(sys.argv[1])
rows = {split: list(data) for split, data in plain.items()}
flow = {split: list(data) for split, data in load_dataset(sys.argv[1], streaming=True).items()}
assert flow == rows, "streamed rows are the plain rows"
json.dump({"columns": plain["train"].column_names, "rows": rows}, sys.stdout)
"""

TRAIN = """
import json, sys
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
model, out = sys.argv[2:]
settings = SFTConfig(out, max_steps=2, per_device_train_batch_size=2, max_length=64,
                     report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True)
data = load_dataset(sys.argv[1], split="train")
trainer = SFTTrainer(model=model, args=settings, train_dataset=data)
trainer.train()
print(json.dumps({"steps": trainer.state.global_step, "rows": len(data)}))
"""


def dialogue(number: int) -> Record:
    """A dialogue of four turns; each three share an intent."""
    drink = DRINKS[number % len(DRINKS)]
    texts = (
        f"could i get a {drink} for table {number}",
        "Sure! Is that for here or to go?",
        f"to go please, number {number} 🙂",
        f"One {drink}, ready in five minutes.",
    )
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    intent = f"You are a user who orders a {drink}, order {number // 3}."
    more = {"messages": messages, "intent": intent, "language": "en"}
    return {**a_record(number, False), **more, "end_probabilities": [0.1, 0.9]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """The release folder of the dialogues, and the dialogues."""
    run = tmp_path_factory.mktemp("run")
    records = [dialogue(number) for number in range(COUNT)]
    write_records(run / "dialogues" / "part-00000.jsonl", records, "dialogue")
    build_dataset(run, run / "dataset", Push(license="mit", validation=0.2), "talks")
    return run / "dataset", records


@pytest.fixture(scope="module")
def published(
    made: tuple[Path, list[Record]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Hub, Path]]:
    """A Hub that holds the release, and the home of its clients."""
    home = tmp_path_factory.mktemp("home")
    with serving(Hub(tmp_path_factory.mktemp("hub"))) as hub:
        done = Pusher(hub, home)(made[0], tag="v1.0")
        assert done.code == 0, done.err
        yield hub, home


def run(published: tuple[Hub, Path], code: str, *arguments: object) -> warm.Child:
    """A Python process for which the Hub is ours; it has to succeed."""
    environment = client_environment(*published)
    done = hub_process.start(code, *arguments, torch=True, **environment).wait()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def test_main_is_the_folder(made: tuple[Path, list[Record]], published: tuple[Hub, Path]) -> None:
    assert published[0].states(REPO) == [{}, state_of(made[0])]


def test_load_dataset_gives_back_every_row_plain_and_streamed(
    made: tuple[Path, list[Record]], published: tuple[Hub, Path]
) -> None:
    back: dict[str, Any] = json.loads(run(published, LOAD, REPO).stdout)
    assert back["columns"][0] == "messages"
    assert set(back["rows"]) == {"train", "validation"}
    rows = {row["id"]: row for split in back["rows"].values() for row in split}
    assert len(rows) == sum(map(len, back["rows"].values())) == COUNT
    for record in made[1]:
        row = rows[record["id"]]
        for key in ("messages", "intent", "intent_id", "stop_reason", "seed", "user_model"):
            assert row[key] == record[key], key
        assert row["end_probabilities"] == record["end_probabilities"]
        assert json.loads(row["usage"]) == record["usage"]


def test_trl_trains_two_steps_on_it_with_no_conversion(
    published: tuple[Hub, Path], tmp_path: Path
) -> None:
    pytest.importorskip("trl", reason="TRL is not installed")
    tok = toys.tokenizer()
    tok.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    )
    save_checkpoint(toys.model(tok), tok, tmp_path / "tiny", {})
    done = run(published, TRAIN, REPO, tmp_path / "tiny", tmp_path / "out")
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["steps"] == 2
    assert 0 < facts["rows"] < COUNT


def test_validate_reads_the_published_copy(published: tuple[Hub, Path]) -> None:
    said = run(published, warm.PROGRAM, "validate", f"hf://datasets/{REPO}@v1.0").stdout
    assert f"{COUNT:,} records, all valid" in said


def test_report_reads_the_published_copy(
    made: tuple[Path, list[Record]], published: tuple[Hub, Path], tmp_path: Path
) -> None:
    address, out = f"hf://datasets/{REPO}", tmp_path / "report"
    run(published, warm.PROGRAM, "report", address, "--out", out)
    assert (out / "index.html").stat().st_size > 1000
    shown = json.loads((out / "report.json").read_text())
    assert shown["version"] == 2
    assert shown["sets"][0]["available"] == COUNT == len(made[1])
