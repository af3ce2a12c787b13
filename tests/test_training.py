"""Training: one pass is the K+1 samples, packs are their members, the head's memory is bounded."""

from __future__ import annotations

import copy
import math
import sys

import pytest
import torch
import warm

from toys import conversation, model, tokenizer
from userlm_synth.errors import UserError
from userlm_synth.flip import flip
from userlm_synth.recipe import Training
from userlm_synth.training import loss as loss_module
from userlm_synth.training.attention import use_packed_attention
from userlm_synth.training.batches import collate, pack
from userlm_synth.training.loop import Job, Trainer, fit, learning_rate, wants_bf16
from userlm_synth.training.loss import batch_losses
from userlm_synth.training.ranks import join
from userlm_synth.training.stopping import explain_out_of_memory
from userlm_synth.training.tokens import Windows
from userlm_synth.user_lm import END, encode_texts, open_chat, render_all

PLAIN = tokenizer()
CHATS = [
    conversation("a latte please", "here or to go?", "to go", "five minutes.", number=0),
    conversation("hi", "hello", "what is in a mocha?", number=1),
    conversation("do you have tea", "Yes!", number=2),
    conversation("one mocha", "sure", "and a tea", "ok", "that is all", "bye", number=3),
]


def chat_model(dtype=torch.float32, seed=0):
    tok = copy.deepcopy(PLAIN)  # which open_chat gives new tokens
    net = model(tok, seed)
    form = open_chat(net, tok, "user")
    assert use_packed_attention(net)
    return net.to(dtype), form


def windows_of(form, chats=CHATS):
    return Windows.of(render_all(form, chats, max_length=512))


def gradients(net):
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def sample_by_sample(net, form):
    """The plain way: K+1 prompts with completions, one forward each, summed."""
    net.set_attn_implementation("eager")
    total = torch.zeros((), dtype=next(net.parameters()).dtype)
    for one in CHATS:
        for sample in flip(one):
            prompt = form.prompt(sample["prompt"])
            text = sample["completion"][0]["content"]
            own = (
                [form.end_id]
                if sample["end"]
                else [*encode_texts(form.tokenizer, [text])[0], form.turn_end_id]
            )
            logits = net(torch.tensor([prompt + own])).logits[0, len(prompt) - 1 : -1]
            total = total + torch.nn.functional.cross_entropy(
                logits, torch.tensor(own), reduction="sum"
            )
    use_packed_attention(net)
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
    windows = windows_of(form)
    rows = pack(windows.lengths, room)
    assert any(len(row) > 1 for row in rows)
    total = torch.zeros((), dtype=dtype)
    for row in rows:
        losses = batch_losses(net, collate(windows, row, form.tokenizer.pad_token_id))
        losses.total.backward()
        total += losses.total.detach()
    assert abs((total - expected).item()) / expected.item() <= loss_error
    assert float((gradients(net) - wanted).norm() / wanted.norm()) <= gradient_error


def test_the_gradient_of_a_pack_is_the_sum_of_its_members_alone():
    net, form = chat_model(torch.float64)
    windows = windows_of(form)
    for index in range(len(windows)):
        batch_losses(net, collate(windows, [index], 0)).total.backward()
    apart = gradients(net)
    net.zero_grad()
    batch_losses(net, collate(windows, range(len(windows)), 0)).total.backward()
    assert torch.allclose(gradients(net), apart, atol=1e-10)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_losses_in_chunks_are_those_of_plain_autograd(monkeypatch, softcap):
    net, form = chat_model(torch.float64)
    net.config.final_logit_softcapping = softcap
    windows = windows_of(form)
    batch = collate(windows, range(len(windows)), 0, windows.weights(3.0))
    hidden = loss_module.hidden_at_targets(net, batch)
    plain = torch.nn.functional.cross_entropy(
        loss_module.logits_of(net, hidden), batch.labels, reduction="none"
    )
    (plain * batch.weights).sum().backward()
    wanted = gradients(net)
    for rows in (16, 10**6):
        net.zero_grad()
        monkeypatch.setattr(loss_module, "CHUNK_BYTES", 4 * rows * len(form.tokenizer))
        losses = batch_losses(net, batch)
        losses.total.backward()
        assert torch.allclose(losses.each, plain.detach(), atol=1e-12)
        assert torch.allclose(gradients(net), wanted, atol=1e-12)


def test_head_and_loss_of_128k_words_and_2048_targets_stay_below_300_mib():
    # Narrow states spare arithmetic; all the logits at once would be 1 GiB at any width.
    code = """
import resource, torch
from userlm_synth.training.loss import _head_and_loss
head = torch.nn.Linear(64, 128_256, bias=False)
hidden = torch.randn(2048, 64, requires_grad=True)
labels = torch.randint(128_256, (2048,))
run, ones = _head_and_loss(), torch.ones(2048)
run(hidden[:16], head.weight[:1000], None, labels[:16] % 1000, ones[:16], None, True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total, each, _ = run(hidden, head.weight, None, labels, ones, None, True)
total.backward()
assert abs(float(each.mean()) - 12) < 1 and head.weight.grad.abs().sum() > 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = warm.start(code).wait()
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 300


def test_the_end_weight_counts_at_the_end_token_only():
    _, form = chat_model()
    windows = windows_of(form)
    batch = collate(windows, range(len(windows)), 0, windows.weights(5.0))
    assert batch.weights[batch.kinds == END].tolist() == [5.0] * 3
    assert set(batch.weights[batch.kinds != END].tolist()) == {1.0}


def test_sample_mean_gives_each_turn_and_each_end_the_same_weight():
    _, form = chat_model()
    windows = windows_of(form)
    batch = collate(windows, range(len(windows)), 0, windows.weights("sample"))
    samples = list(zip(batch.owners.tolist(), batch.turns.tolist(), strict=True))
    for one in set(samples):
        here = torch.tensor([sample == one for sample in samples])
        assert float(batch.weights[here].sum()) == pytest.approx(1.0)
    assert batch.weights[batch.kinds == END].tolist() == [1.0] * 3
    assert float(batch.weights.sum()) == pytest.approx(sum(len(list(flip(c))) for c in CHATS))


def trainer_of(tmp_path, seed=0, **more):
    net, form = chat_model(seed=seed)
    options = Training(
        **{"max_length": 140, "batch_tokens": 560, "micro_batch_tokens": 280, "precision": "fp32",
           "learning_rate": 1e-2, **more}
    )  # fmt: skip
    job = Job(windows_of(form), [one["id"] for one in CHATS], form.tokenizer.pad_token_id, 0, "toy")
    return net, job, options


@pytest.mark.parametrize("end_weight", ["token", "sample", 7.0])
def test_a_steps_gradient_is_the_weighted_mean_over_all_its_targets(tmp_path, end_weight):
    net, job, options = trainer_of(tmp_path, end_weight=end_weight, clip=1e9)
    trainer = Trainer(net, job, options, join())
    kept = {}
    trainer.optimizer.step = lambda: kept.update(grad=gradients(net))
    line = trainer.step(0)
    members = [index for row in trainer.steps[0] for index in row]
    weights = job.windows.weights(end_weight)
    batch = collate(job.windows, members, 0, weights)
    net.zero_grad()
    losses = batch_losses(net, batch)
    (losses.total / batch.weights.sum()).backward()
    assert torch.allclose(gradients(net), kept["grad"], atol=1e-6)
    assert line["loss"] == pytest.approx(float(losses.each.mean()), rel=1e-5)
    ends = batch.kinds == END
    assert line["end_loss"] == pytest.approx(float(losses.each[ends].mean()), rel=1e-5)
    assert line["ends"] == int(ends.sum())


def test_a_target_is_hit_where_it_is_the_most_likely_token():
    net, form = chat_model()
    head = net.get_output_embeddings().weight
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3 if parameter.ndim == 2 else 1)
    windows = windows_of(form)
    batch = collate(windows, range(len(windows)), 0)
    hidden = loss_module.hidden_at_targets(net, batch)
    best = (hidden @ head.T).argmax(-1)
    batch.labels[::2] = best[::2]
    hits = batch_losses(net, batch).hits
    assert hits.tolist() == (best == batch.labels).tolist()
    assert len(hits) // 2 <= int(hits.sum()) < len(hits)


@pytest.mark.parametrize(
    "more",
    [
        {"gradient_checkpointing": True},
        {"micro_batch_tokens": 140},
        pytest.param({"compile": True}, marks=pytest.mark.minutes),
    ],
)
def test_memory_and_speed_settings_do_not_change_the_training(tmp_path, more):
    ways = []
    for settings in ({}, more):
        net, job, options = trainer_of(tmp_path, epochs=3, **settings)
        ways.append(fit(net, job, options, stage="toy", states=tmp_path / "states")[-1]["loss"])
    assert ways[0] == pytest.approx(ways[1], rel=1e-4)


def test_eight_bit_adamw_without_its_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    net, job, options = trainer_of(tmp_path, optimizer="adamw_8bit")
    with pytest.raises(UserError, match=r"pip install 'userlm-synth\[train-gpu\]'"):
        Trainer(net, job, options, join())


def test_a_loss_that_is_not_a_number_stops_and_names_the_conversation(tmp_path):
    net, job, options = trainer_of(tmp_path, epochs=3, checkpoint_minutes=1e-9)
    net.lm_head.weight = torch.nn.Parameter(net.lm_head.weight.detach().clone())
    ids = [
        set(job.windows.ids[start:stop].tolist())
        for start, stop in zip(job.windows.starts[:-1], job.windows.starts[1:], strict=True)
    ]
    (own, *_) = ids[3] - ids[0] - ids[1] - ids[2]
    with torch.no_grad():
        net.get_input_embeddings().weight[own] = math.nan
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(UserError, match=r"step 1: the loss .* the conversations toy-3; "):
        fit(net, job, options, stage="toy", states=tmp_path / "states")
    for old, new in zip(before, net.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num())


def test_memory_that_ran_out_is_one_line_that_says_what_to_lower():
    with pytest.raises(UserError, match="micro_batch_tokens"), explain_out_of_memory():
        torch.empty(10**15)
    with pytest.raises(RuntimeError, match="multiplied"), explain_out_of_memory():
        torch.ones(2) @ torch.ones(3, 3)


def test_the_learning_rate_warms_up_peaks_and_ends_at_its_share():
    options = Training(learning_rate=1.0, warmup=0.1, final_learning_rate=0.1)
    rates = [learning_rate(step, 100, options) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_bf16_is_used_only_where_asked_for_or_native():
    cpu = torch.device("cpu")
    assert wants_bf16("bf16", cpu)
    assert not wants_bf16("fp32", cpu)
    assert isinstance(wants_bf16("auto", cpu), bool)
