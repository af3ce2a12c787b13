"""A look at the model while it trains: its figures are evaluation's, and it changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from userlm_synth.evaluation.scoring import Model, score
from userlm_synth.recipe import Training
from userlm_synth.training.attention import use_packed_attention
from userlm_synth.training.loop import Job, fit
from userlm_synth.training.loss import objective
from userlm_synth.training.ranks import join
from userlm_synth.training.tokens import Windows
from userlm_synth.training.validation import Validation
from userlm_synth.user_lm import ChatFormat, load_model, load_tokenizer, render_all
from userlm_synth.user_lm.chat_format import Speaker
from userlm_synth.world import make_conversations

CHATS = make_conversations(12, 5)
OPTIONS = Training(
    max_length=1024, batch_tokens=1024, micro_batch_tokens=1024, precision="fp32", max_steps=4,
    learning_rate=1e-2, validation_conversations=9,
)  # fmt: skip


def opened(folder: Path, speaker: Speaker = "user"):
    """A toy LM, and its turn format."""
    net = load_model(str(folder))
    use_packed_attention(net)
    return net, ChatFormat.probe(load_tokenizer(str(folder)), speaker)


def test_perplexity_and_ends_found_are_those_of_evaluation(toy_models):
    net, form = opened(toy_models / "user_lm")
    look = Validation(form, CHATS, OPTIONS, 0, join())
    assert len(look.conversations) == 9
    figures, _ = look(objective(net).train())
    model = Model(str(toy_models / "user_lm"))
    shown, hidden = (score(model, look.conversations, "chat", way, 4096) for way in (True, False))
    for name, scores in (("perplexity", shown), ("perplexity_no_intent", hidden)):
        wanted = math.exp(scores.nats.sum() / scores.tokens.sum())
        assert figures[name] == pytest.approx(wanted, rel=1e-5)
    left = shown.places.leaves[shown.places.ended]
    assert figures["end_found"] == pytest.approx(sum(left) / len(left))


def test_an_assistant_is_scored_on_its_own_words_without_the_intent(toy_models):
    net, form = opened(toy_models / "assistant_lm", "assistant")
    figures, sample = Validation(form, CHATS, OPTIONS, 0, join())(objective(net))
    assert set(figures) == {"perplexity"}
    said = {m["content"] for one in CHATS for m in one["messages"] if m["role"] == "assistant"}
    persons = [x for x in sample.splitlines() if x.startswith("person: ")]
    assert persons
    assert {" ".join(x.split()) for x in said} >= {x.removeprefix("person: ") for x in persons}


def test_looking_does_not_change_the_training(toy_models, tmp_path):
    def weights(validate: bool):
        net, form = opened(toy_models / "user_lm")
        net.config.attention_dropout = 0.1  # so that random numbers matter
        job = Job(Windows.of(render_all(form, CHATS, max_length=1024)),
                  [one["id"] for one in CHATS], form.tokenizer.pad_token_id, 0, "toy")  # fmt: skip
        look = Validation(form, CHATS, OPTIONS, 0, join()) if validate else None
        states = tmp_path / f"states-{validate}"
        log = fit(net, job, OPTIONS, stage="toy", states=states, validate=look)
        assert sum("validation" in line for line in log) == (OPTIONS.validations if look else 0)
        return list(net.parameters())

    for one, other in zip(weights(True), weights(False), strict=True):
        assert torch.equal(one, other)


class Sure:
    """In place of a model: says `words`, then stops with `last`."""

    training = False

    def __init__(self, form, words: str, last: int) -> None:
        self.ids = [*form.tokenizer.encode(words, add_special_tokens=False), last]
        self.size, self.said = len(form.tokenizer), 0

    def eval(self):
        return self

    train = lambda self, mode=True: self  # noqa: E731

    def __call__(self, batch, scale, logits=False):
        if not logits:
            count = len(batch.labels)
            return SimpleNamespace(each=torch.ones(count), hits=torch.zeros(count, dtype=bool))
        row = torch.full((1, self.size), -100.0)
        row[0, self.ids[self.said % len(self.ids)]] = 100.0
        self.said += 1
        return row


def test_a_sample_has_the_persons_turns_beside_the_models_and_says_where_it_leaves(toy_models):
    _, form = opened(toy_models / "user_lm")
    look = Validation(form, CHATS, OPTIONS, 0, join())
    one = look.conversations[0]
    _, sample = look(Sure(form, "my cat", form.turn_end_id))
    lines = sample.splitlines()
    opening = next(m["content"] for m in one["messages"] if m["role"] == "user")
    assert lines[0].startswith(f"system: {one['intent']}")
    assert lines[1] == f"person: {opening}"
    assert lines[2] == "model: my cat"
    assert form.end_id is not None
    figures, sample = look(Sure(form, "", form.end_id))
    assert "model: (leaves)" in [" ".join(line.split()) for line in sample.splitlines()]
    assert figures["perplexity"] == pytest.approx(math.e)
