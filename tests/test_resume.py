"""A training that was killed ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toys import conversation, model, tokenizer
from userlm_synth.recipe import Training
from userlm_synth.training import checkpoints
from userlm_synth.training.checkpoints import States
from userlm_synth.training.loop import Job, Trainer, fit
from userlm_synth.training.ranks import join
from userlm_synth.training.tokens import Windows
from userlm_synth.user_lm import open_chat, render_all

CHATS = [
    conversation("a latte please", "here or to go?", "to go", "five minutes.", number=0),
    conversation("hi", "hello", "what is in a mocha?", number=1),
    conversation("do you have tea", "Yes!", number=2),
    conversation("one mocha", "sure", "and a tea", "ok", "that is all", "bye", number=3),
]
OPTIONS = Training(
    epochs=12, learning_rate=1e-2, max_length=140, batch_tokens=140, micro_batch_tokens=140,
    checkpoint_minutes=1e-9, precision="fp32",
)  # fmt: skip


def toy(seed: int = 3):
    torch.set_num_threads(1)
    tok = tokenizer()
    net = model(tok, seed)
    net.config.attention_dropout = 0.1  # so that random numbers matter
    form = open_chat(net, tok, "user")
    windows = Windows.of(render_all(form, CHATS, max_length=512))
    return net, Job(windows, [one["id"] for one in CHATS], tok.pad_token_id, seed, "toy")


def train(folder: Path, die_at: int | None = None, where: str = "") -> None:
    """Train to the end and write the weights; or kill this process in a step or in a save."""
    if die_at is not None:
        _arrange_death(die_at, where)
    net, job = toy()
    log = fit(net, job, OPTIONS, stage="toy", states=folder / "states")
    torch.save(net.state_dict(), folder / "weights.pt")
    (folder / "log.json").write_text(json.dumps([line["loss"] for line in log]))


def _arrange_death(die_at: int, where: str) -> None:
    if where == "in a step":
        step = torch.optim.AdamW.step

        def dying(self, *arguments):
            step(self, *arguments)
            dying.count = getattr(dying, "count", 0) + 1
            if dying.count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

        torch.optim.AdamW.step = dying
        return
    finish = checkpoints._finish

    def dying_finish(part, path, about):
        if about["step"] == die_at:
            if where == "before it is whole":
                os.kill(os.getpid(), signal.SIGKILL)
            finish(part, path, about)
            os.kill(os.getpid(), signal.SIGKILL)
        finish(part, path, about)

    checkpoints._finish = dying_finish


#: What a child would import on its way; the server that they fork from has it.
PRELOAD = [
    "test_resume",
    "torch.distributed.checkpoint",
    "transformers.models.llama.modeling_llama",
]


def in_a_process(*arguments: object) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    child = context.Process(target=train, args=arguments)
    child.start()
    child.join()
    return child.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert in_a_process(folder) == 0
    return folder


POINTS = random.Random(7).sample(range(1, 24), 5)
PLACES = ("in a step", "before it is whole", "after a save")


@pytest.mark.slow
@pytest.mark.parametrize(("die_at", "where"), [(at, PLACES[n % 3]) for n, at in enumerate(POINTS)])
def test_kill_9_and_run_again_gives_the_same_weights(whole, tmp_path, die_at, where):
    assert in_a_process(tmp_path, die_at, where) == -signal.SIGKILL
    assert not (tmp_path / "weights.pt").exists()
    assert in_a_process(tmp_path) == 0
    one, other = (torch.load(folder / "weights.pt") for folder in (whole, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)
    log = json.loads((whole / "log.json").read_text())
    assert json.loads((tmp_path / "log.json").read_text()) == log
    assert len(log) == 24
    assert log[-1] < 0.8 * log[0]


def trained(tmp_path, steps: int = 2, key: str = "mine", options: Training = OPTIONS):
    """A trainer after some steps, and its states."""
    net, job = toy()
    trainer, states = Trainer(net, job, options, join()), States(tmp_path, key, join())
    for number in range(steps):
        trainer.step(number)
        states.save(number + 1, trainer.model, trainer.optimizer)
    return trainer, states


def fresh(options: Training = OPTIONS):
    """Of the same job, its weights others."""
    (net, _), (_, job) = toy(seed=4), toy()
    return Trainer(net, job, options, join())


def test_a_state_restores_weights_and_optimizer(tmp_path):
    trainer, states = trained(tmp_path)
    other = fresh()
    assert states.load(other.model, other.optimizer) == 2
    for one, two in zip(trainer.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
    moments = [list(t.optimizer.state.values()) for t in (trainer, other)]
    for one, two in zip(*moments, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in ("exp_avg", "exp_avg_sq", "step"))


@pytest.mark.slow
def test_eight_bit_adamw_trains_and_goes_on_from_a_state_as_if_never_stopped(tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed")
    options = replace(OPTIONS, optimizer="adamw_8bit")
    trainer, states = trained(tmp_path, options=options)
    kept = trainer.optimizer.state.values()
    assert "OptimState8bit" in {type(one["exp_avg"]).__name__ for one in kept}
    other = fresh(options)
    assert states.load(other.model, other.optimizer) == 2
    on, again = ([t.step(n)["loss"] for n in range(2, 12)] for t in (trainer, other))
    assert on == again
    assert on[-1] < 0.95 * on[0]


@pytest.mark.parametrize("tear", ["truncated", "no state.json", "torn state.json", "a part only"])
def test_a_torn_state_is_skipped_and_the_one_before_it_is_taken(tmp_path, capsys, tear):
    _, states = trained(tmp_path)
    newest = tmp_path / "step-00000002"
    data = next(newest.glob("*.distcp"))
    if tear == "truncated":
        data.write_bytes(data.read_bytes()[:-10])
    elif tear == "no state.json":
        (newest / "state.json").unlink()
    elif tear == "torn state.json":
        (newest / "state.json").write_text('{"key": "mi')
    else:
        newest.rename(newest.with_suffix(".part"))
    other = fresh()
    assert states.load(other.model, other.optimizer) == 1
    said = capsys.readouterr().err
    assert ("step-00000002: skipped" in said) == (tear != "a part only")


def test_a_state_of_other_settings_or_data_is_ignored(tmp_path):
    trained(tmp_path)
    other = fresh()
    assert States(tmp_path, "other", join()).load(other.model, other.optimizer) == 0


def test_two_states_are_kept(tmp_path):
    trained(tmp_path, steps=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_ctrl_c_saves_the_step_and_the_next_run_goes_on_from_it(tmp_path, monkeypatch, capsys):
    net, job = toy()
    options = replace(OPTIONS, checkpoint_minutes=60)
    step = Trainer.step

    def interrupted(self, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, number)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(net, job, options, stage="toy", states=tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "step-00000006").is_dir()
    net, job = toy()
    log = fit(net, job, options, stage="toy", states=tmp_path)
    assert "continues at step 6 of 24" in capsys.readouterr().err
    assert [line["step"] for line in log] == list(range(1, 25))
