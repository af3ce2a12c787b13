"""Two processes on the CPU (gloo, FSDP2) train as one does."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import warm
from test_training import CHATS, chat_model, windows_of

from userlm_synth.recipe import Training
from userlm_synth.training.loop import Job, Trainer
from userlm_synth.training.ranks import join
from userlm_synth.user_lm import load_model

HERE = Path(__file__).resolve().parent

# 5 rows of 140 tokens at most: with 140 tokens a step one process has nothing to do, with 420 the
# rows do not go round.
SETTINGS = [(140, "token"), (420, "token"), (420, "sample")]


def one_step(batch_tokens: int, end_weight: str) -> list:
    """The gradient, losses and targets of a run's first step."""
    net, form = chat_model()
    job = Job(windows_of(form), [one["id"] for one in CHATS], form.tokenizer.pad_token_id, 0, "toy")
    options = Training(
        max_length=140, batch_tokens=batch_tokens, micro_batch_tokens=140, end_weight=end_weight,
        clip=1e9, precision="fp32", learning_rate=1e-2,
    )  # fmt: skip
    trainer, kept = Trainer(net, job, options, join()), []

    def keep() -> None:
        for parameter in net.parameters():
            whole = parameter.grad
            whole = whole.full_tensor() if hasattr(whole, "full_tensor") else whole
            kept.extend(whole.flatten().tolist())

    trainer.optimizer.step = keep
    line = trainer.step(0)
    return [kept, line["loss"], line["targets"]]


SCRIPT = f"""
import json, sys, torch
sys.path.insert(0, {str(HERE)!r})
from test_ranks import SETTINGS, join, one_step
torch.set_num_threads(1)
found = [one_step(*settings) for settings in SETTINGS]
if join().first:
    open(sys.argv[1], "w").write(json.dumps(found))
join().leave()
"""


@dataclass(frozen=True)
class Done:
    """How some processes ended and what they said together."""

    returncodes: list[int | None]
    stdout: str
    stderr: str


def launch(world: int, code: str, *arguments: object, fails: bool = False, **more: str) -> Done:
    """What `code` did in as many processes; `test_launch.py` has a real torchrun."""
    if world == 1:
        children = [warm.start(code, *arguments, **more).wait()]
    else:
        children = warm.ranks(world, code, *arguments, **more)
    done = Done(
        [one.returncode for one in children],
        "".join(one.stdout for one in children),
        "".join(one.stderr for one in children),
    )
    assert any(done.returncodes) == fails, done
    return done


@pytest.mark.slow
def test_the_gradient_of_two_processes_is_the_mean_over_all_targets(tmp_path):
    launch(2, SCRIPT, tmp_path / "out.json")
    for settings, two in zip(
        SETTINGS, json.loads((tmp_path / "out.json").read_text()), strict=True
    ):
        one = one_step(*settings)
        size = sum(x * x for x in one[0]) ** 0.5
        error = sum((x - y) ** 2 for x, y in zip(one[0], two[0], strict=True)) ** 0.5
        assert error / size < 1e-5, settings
        assert two[1:] == pytest.approx(one[1:], rel=1e-5), settings


RECIPE = """
name: two
conversations: {source: quickstart, count: 120, clean: null, dedup: null}
base:
  scratch: {vocabulary: 400, hidden: 16, layers: 2, heads: 1}
  train:
    {epochs: 0.5, learning_rate: 1e-2, max_length: 128, batch_tokens: 512, precision: fp32}
train:
  max_steps: 8
  learning_rate: 1e-2
  max_length: 256
  batch_tokens: 1024
  micro_batch_tokens: 256
  intent_dropout: 0.1
  precision: fp32
  checkpoint_minutes: 1e-9
  validation_conversations: 4
"""


def losses(out: Path) -> list[float]:
    lines = (out / "user_lm" / "training_log.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What trains, and the run folder of one process."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "two.yaml").write_text(RECIPE)
    command = [warm.PROGRAM, "train", folder / "two.yaml", "--out"]
    launch(1, *command, folder / "run")
    return command, folder / "run"


@pytest.mark.slow
def test_two_processes_make_the_model_of_one(alone, tmp_path):
    command, run1 = alone
    cache = {"USERLM_SYNTH_CACHE": str(tmp_path / "cache")}  # so that it makes the base, too
    done = launch(2, *command, tmp_path / "run2", **cache)
    assert done.stdout.count("user LM: ") == 1  # the first alone speaks
    assert done.stderr.count("checked against the schemas") == 1
    again = launch(2, *command, tmp_path / "run2", **cache)
    assert "user_lm: up to date" in again.stderr
    one, two = losses(run1), losses(tmp_path / "run2")
    assert len(one) == 8
    assert two == pytest.approx(one, rel=1e-4)
    first, second = (load_model(str(run / "user_lm")) for run in (run1, tmp_path / "run2"))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    assert not list((tmp_path / "run2").glob(".user_lm*"))


@pytest.mark.slow
def test_what_two_processes_began_one_can_finish(alone, tmp_path):
    command, whole = alone
    dying = (
        "import os, signal\n"
        "from userlm_synth.training import checkpoints\n"
        "finish = checkpoints._finish\n"
        "def dying(part, path, about):\n"
        "    finish(part, path, about)\n"
        "    if about['step'] == 4 and 'user_lm' in str(path):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoints._finish = dying\n"
    )
    dead = launch(2, dying + command[0], *command[1:], tmp_path / "run", fails=True)
    assert -signal.SIGKILL in dead.returncodes
    done = launch(1, *command, tmp_path / "run")
    assert "continues at step 4 of 8" in done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.slow
def test_a_faulty_recipe_is_said_once(tmp_path):
    done = launch(2, warm.PROGRAM, "train", "quickstart", "train.epochs=many", fails=True)
    assert set(done.returncodes) <= {1, -signal.SIGKILL}  # the second may be killed with the first
    assert done.stderr.count("train.epochs: 'many' is not a number") == 1
    assert "Traceback" not in done.stderr
