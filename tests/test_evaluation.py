"""Evaluation: the packed figures are those of one conversation at a time."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from toys import INTENT, conversation, trained_user_lm
from userlm_synth.errors import UserError
from userlm_synth.evaluation import (
    Model,
    Scores,
    evaluate,
    gap,
    perplexity,
    score,
    termination,
)
from userlm_synth.recipe import Evaluate
from userlm_synth.records import record_problems, write_records
from userlm_synth.user_lm import CONTEXT, END, WORD, render

CHATS = [
    conversation("a small latte please", "Sure! Is that all?", "yes", "Ready soon.", number=0),
    conversation("could i get a latte", "to go?", "to go, thanks", "ok", number=1),
    conversation("hi", "hello", "a latte", number=2),
    conversation("thanks", "It will be ready in five minutes.", number=3),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    trained_user_lm(root, CHATS, epochs=40)
    write_records(root / "test.jsonl", CHATS, "conversation")
    return root


@pytest.mark.parametrize("with_intent", [False, True])
def test_packed_scores_are_those_of_one_conversation_at_a_time(folder, with_intent):
    scored = Model(str(folder / "user_lm"))
    packed = score(scored, CHATS, "chat", with_intent, batch_tokens=512)
    for index, one in enumerate(CHATS):
        (window,) = render(scored.chat, one, max_length=512, with_intent=with_intent)
        with torch.inference_mode():
            logits = scored.model(torch.tensor([window.ids])).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits, torch.tensor(window.ids[1:]), reduction="none"
        )
        words = torch.tensor([kind == WORD for kind in window.kinds[1:]])
        assert packed.nats[index] == pytest.approx(float(losses[words].sum()), abs=1e-4)
        assert packed.tokens[index] == int(words.sum())
        assert packed.bytes[index] == sum(
            len(m["content"].encode()) for m in one["messages"] if m["role"] == "user"
        )
        first = [
            place
            for place, (kind, turn) in enumerate(zip(window.kinds, window.turns, strict=True))
            if kind != CONTEXT and turn not in window.turns[:place]
        ]
        mine = [place for place, owner in enumerate(packed.owner) if owner == index]
        assert [packed.ended[i] for i in mine] == [window.kinds[p] == END for p in first]
        chances = logits.softmax(-1)[[p - 1 for p in first], scored.chat.end_id]
        assert [packed.probability[i] for i in mine] == pytest.approx(chances.tolist(), abs=1e-5)
        best = logits[[p - 1 for p in first]].argmax(-1) == scored.chat.end_id
        assert [packed.leaves[i] for i in mine] == best.tolist()


def scores(nats, tokens, **more):
    base = {"ended": [], "leaves": [], "probability": [], "owner": []}
    return Scores("chat", np.array(nats), np.array(tokens), np.array(tokens) * 4.0, **(base | more))


def test_perplexity_is_exp_of_the_mean_over_all_tokens():
    result = perplexity(scores([2.0, 6.0], [1.0, 3.0]), samples=100, seed=0)
    assert result["value"] == pytest.approx(math.exp(8 / 4))
    assert result["bits_per_byte"] == pytest.approx(8 / math.log(2) / 16)
    low, high = result["interval"]
    assert low <= result["value"] <= high


def test_a_gap_is_outside_only_where_its_paired_interval_excludes_1():
    rng = np.random.default_rng(0)
    hard = rng.uniform(1, 3, 200)  # conversations differ a lot, the models by little but always
    tokens = np.ones(200)
    clear = gap(scores(hard + 0.1, tokens), scores(hard, tokens), samples=500, seed=0)
    assert clear["outside"]
    assert clear["ratio"] == pytest.approx(math.exp(0.1))
    same = gap(
        scores(hard + rng.normal(0, 1, 200), tokens), scores(hard, tokens), samples=500, seed=0
    )
    assert not same["outside"]


def test_termination_counts_hits_misses_and_false_alarms():
    some = scores(
        [1.0, 1.0], [1.0, 1.0],
        ended=[False, True, False, True], leaves=[False, True, True, False],
        probability=[0.0, 0.9, 0.6, 0.3], owner=[0, 0, 1, 1],
    )  # fmt: skip
    result = termination(some, samples=100, seed=0)
    assert (result["precision"], result["recall"], result["f1"]) == (50.0, 50.0, 50.0)
    assert (result["n"], result["ends"]) == (4, 2)
    assert result["mean_probability_at_end"] == pytest.approx(0.6)
    assert result["mean_probability_elsewhere"] == pytest.approx(0.3)


def test_a_base_is_scored_in_three_forms_and_its_best_counts(folder):
    result = evaluate(
        [str(folder / "base"), str(folder / "user_lm")],
        [folder / "test.jsonl"],
        folder / "out",
        Evaluate(first_turns=4, bootstrap=100),
    )
    assert not record_problems(result, "evaluation")
    assert json.loads((folder / "out/evaluation.json").read_text()) == result
    base, user_lm = result["results"]
    assert len(base["other_forms"]) == 4
    best = base["perplexity"]["with_intent"]["value"]
    assert all(one["value"] >= best for one in base["other_forms"] if one["intent"])
    assert base["termination"] is None
    assert user_lm["perplexity"]["with_intent"]["value"] < best
    assert user_lm["termination"]["ends"] == 3  # one conversation closes on a user turn
    assert user_lm["first_turns"]["diversity"]["n"] == 4
    assert any(name.endswith("/ this, with intent") for name in user_lm["gaps"])


def test_conversations_without_intents_are_scored_without_one_only(folder, capsys):
    bare = [{**one, "intent": None} for one in CHATS]
    write_records(folder / "bare.jsonl", bare, "conversation")
    result = evaluate(
        [str(folder / "user_lm")], [folder / "bare.jsonl"], folder / "bare", Evaluate(bootstrap=100)
    )
    assert list(result["results"][0]["perplexity"]) == ["without_intent"]
    assert "4 conversations have no intent" in capsys.readouterr().err


def test_the_persona_reaches_the_model_beside_the_intent(folder):
    scored = Model(str(folder / "user_lm"))
    with_persona = [{**one, "persona": "A person in a hurry."} for one in CHATS]
    windows = scored.render("chat", with_persona[0], True)
    assert f"{INTENT}\n\nA person in a hurry." in scored.tokenizer.decode(windows[0].ids)


@pytest.mark.parametrize("name", ["openai:m@http://localhost:1/v1", "scripted:x.json"])
def test_a_model_that_gives_no_probabilities_is_refused_in_one_line(folder, name):
    with pytest.raises(UserError, match="only models in process"):
        evaluate([name], [folder / "test.jsonl"], folder / "no", Evaluate())
