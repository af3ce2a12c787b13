"""Training: one pass is the K+1 samples, packs are their members, resume is exact."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toys import conversation, model, tokenizer
from userlm_synth.flip import flip
from userlm_synth.recipe import Training
from userlm_synth.training import loss as loss_module
from userlm_synth.training.batches import collate, pack
from userlm_synth.training.checkpoints import States
from userlm_synth.training.loop import fit, learning_rate, plan, wants_bf16
from userlm_synth.training.loss import token_losses, weights
from userlm_synth.user_lm import END, encode_texts, open_chat, render

TOK = tokenizer()
CHATS = [
    conversation("a latte please", "here or to go?", "to go", "five minutes.", number=0),
    conversation("hi", "hello", "what is in a mocha?", number=1),
    conversation("do you have tea", "Yes!", number=2),
    conversation("one mocha", "sure", "and a tea", "ok", "that is all", "bye", number=3),
]


def chat_model(dtype=torch.float32, seed=0):
    net = model(TOK, seed)
    form = open_chat(net, TOK, "user")
    return net.to(dtype), form


def sequences_of(form, chats=CHATS):
    return [window for one in chats for window in render(form, one, max_length=512)]


def gradients(net):
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def sample_by_sample(net, form):
    """The plain way: K+1 prompts with completions, one forward each, summed."""
    total = torch.zeros((), dtype=next(net.parameters()).dtype)
    for one in CHATS:
        for sample in flip(one):
            prompt = form.prompt(sample["prompt"])
            text = sample["completion"][0]["content"]
            own = (
                [form.end_id]
                if sample["end"]
                else [*encode_texts(TOK, [text])[0], form.turn_end_id]
            )
            logits = net(torch.tensor([prompt + own])).logits[0, len(prompt) - 1 : -1]
            total = total + torch.nn.functional.cross_entropy(
                logits, torch.tensor(own), reduction="sum"
            )
    return total


@pytest.mark.parametrize(
    ("dtype", "loss_error", "gradient_error"),
    [(torch.float64, 1e-10, 1e-7), (torch.float32, 1e-5, 1e-5)],
)
@pytest.mark.parametrize("room", [512, 140])
def test_one_packed_pass_equals_the_k_plus_1_samples(dtype, loss_error, gradient_error, room):
    net, form = chat_model(dtype)
    expected = sample_by_sample(net, form)
    expected.backward()
    wanted = gradients(net)
    net.zero_grad()
    sequences = sequences_of(form)
    rows = pack([len(one.ids) for one in sequences], room)
    assert any(len(row) > 1 for row in rows)
    total = token_losses(net, collate(sequences, rows, TOK.pad_token_id)).sum()
    total.backward()
    assert abs((total - expected).item()) / expected.item() <= loss_error
    assert float((gradients(net) - wanted).norm() / wanted.norm()) <= gradient_error


def test_an_all_ones_mask_would_let_packed_conversations_see_each_other():
    net, form = chat_model()
    with torch.no_grad():  # random weights hardly attend; these do
        for parameter in net.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    sequences = sequences_of(form)
    batch = collate(sequences, [list(range(len(sequences)))], TOK.pad_token_id)
    apart = [
        token_losses(net, collate(sequences, [[i]], TOK.pad_token_id))
        for i in range(len(sequences))
    ]
    packed = token_losses(net, batch)
    assert torch.allclose(packed, torch.cat(apart), atol=1e-4)
    width = batch.ids.shape[1]
    batch.mask = torch.ones(width, width, dtype=torch.bool).tril()[None, None]
    assert (token_losses(net, batch) - packed).abs().max() > 0.05


def test_losses_in_chunks_are_the_losses_at_once(monkeypatch):
    net, form = chat_model(torch.float64)
    sequences = sequences_of(form)
    batch = collate(sequences, [[i] for i in range(len(sequences))], TOK.pad_token_id)
    whole = token_losses(net, batch)
    whole.sum().backward()
    wanted = gradients(net)
    net.zero_grad()
    monkeypatch.setattr(loss_module, "CHUNK", 7)
    chunked = token_losses(net, batch)
    chunked.sum().backward()
    assert torch.allclose(chunked, whole, atol=1e-12)
    assert torch.allclose(gradients(net), wanted, atol=1e-12)


def test_the_end_weight_counts_at_the_end_token_only():
    _, form = chat_model()
    sequences = sequences_of(form)
    batch = collate(sequences, [[i] for i in range(len(sequences))], TOK.pad_token_id)
    scale = weights(batch, 5.0)
    assert scale[batch.kinds == END].tolist() == [5.0] * 3
    assert set(scale[batch.kinds != END].tolist()) == {1.0}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 120))
def test_packing_keeps_every_sequence_once_and_no_row_overflows(lengths, room):
    rows = pack(lengths, room)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    sizes = [sum(lengths[index] for index in row) for row in rows]
    assert all(size <= room for size in sizes)
    assert len(rows) == 1 or sum(sorted(sizes)[:2]) > room  # no two rows could be one


def test_an_epoch_shows_each_row_once_and_the_next_in_another_order():
    rows = [[number] for number in range(40)]
    steps = plan(rows, Training(epochs=2, max_length=32, batch_tokens=128), seed=1)
    flat = [row[0] for step in steps for row in step]
    assert sorted(flat[:40]) == sorted(flat[40:]) == list(range(40))
    assert flat[:40] != flat[40:]
    assert plan(rows, Training(epochs=2, max_length=32, batch_tokens=128), seed=1) == steps


def test_the_learning_rate_warms_up_peaks_and_ends_at_its_share():
    options = Training(learning_rate=1.0, warmup=0.1, final_learning_rate=0.1)
    rates = [learning_rate(step, 100, options) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def run(tmp_path, name, steps_before_crash=None, seed=0):
    net, form = chat_model(seed=3)
    options = Training(
        epochs=12, learning_rate=1e-2, max_length=140, batch_tokens=140,
        micro_batch_tokens=140, checkpoint_minutes=1e-9, precision="fp32",
    )  # fmt: skip
    arguments = {
        "stage": "toy", "states": tmp_path / name, "start": "s",
        "pad": TOK.pad_token_id, "seed": seed,
    }  # fmt: skip
    if steps_before_crash is not None:
        saved, count = States.save, 0

        def save_then_crash(self, step, state):
            nonlocal count
            saved(self, step, state)
            count += 1
            if count == steps_before_crash:
                raise KeyboardInterrupt

        States.save = save_then_crash
        try:
            with pytest.raises(KeyboardInterrupt):
                fit(net, sequences_of(form), options, **arguments)
        finally:
            States.save = saved
        net, form = chat_model(seed=3)
    log = fit(net, sequences_of(form), options, **arguments)
    return net, log


@pytest.mark.parametrize("crash", random.Random(5).sample(range(1, 20), 5))
def test_an_interrupted_training_ends_with_the_same_weights_bit_for_bit(tmp_path, crash):
    whole, log = run(tmp_path, "whole")
    resumed, resumed_log = run(tmp_path, "resumed", crash)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed_log == log
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_a_torn_state_is_skipped_and_another_runs_state_is_ignored(tmp_path, capsys):
    states = States(tmp_path, "mine")
    states.save(1, {"x": torch.ones(2)})
    (tmp_path / "step-00000009.pt").write_bytes(b"torn")
    assert states.latest()["step"] == 1
    assert "step-00000009.pt: skipped" in capsys.readouterr().err
    assert States(tmp_path, "other").latest() is None


def test_bf16_is_used_only_where_asked_for_or_native():
    cpu = torch.device("cpu")
    assert wants_bf16(Training(precision="bf16"), cpu)
    assert not wants_bf16(Training(precision="fp32"), cpu)
    assert isinstance(wants_bf16(Training(precision="auto"), cpu), bool)
