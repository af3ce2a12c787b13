"""The tiny base model: from scratch, shipped or cached, and never mistaken for another."""

from __future__ import annotations

import pytest

from toys import conversation
from userlm_synth.conversations import prepare
from userlm_synth.recipe import Scratch, Training, load_recipe
from userlm_synth.records import read_records
from userlm_synth.training import base
from userlm_synth.user_lm import load_model, load_tokenizer

CHATS = [
    conversation("a latte please", "here or to go?", "to go", "five minutes.", number=n)
    for n in range(6)
]
SHAPE = Scratch(vocabulary=330, hidden=16, layers=1, heads=1)
OPTIONS = Training(epochs=1, learning_rate=1e-2, max_length=64, batch_tokens=64, precision="fp32")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("USERLM_SYNTH_CACHE", str(tmp_path / "cache"))


def test_the_shipped_base_is_the_quickstarts_own(tmp_path):
    recipe = load_recipe("quickstart")
    prepare(recipe.conversations, tmp_path / "chats", recipe.seed)
    train = read_records(tmp_path / "chats" / "train.jsonl", "conversation")
    key, _ = base.base_key(train, recipe.base.scratch, recipe.base.train, recipe.seed)
    assert base._key_of(base.SHIPPED) == key, (
        "the quickstart's text or base settings changed: make its base anew as the docstring of "
        "training/base.py says"
    )
    assert sum(file.stat().st_size for file in base.SHIPPED.iterdir()) < 8e6


def test_the_same_base_comes_from_the_cache_and_another_is_trained(tmp_path):
    first = base.train_base(CHATS, SHAPE, OPTIONS, tmp_path / "one", 0)
    again = base.train_base(CHATS, SHAPE, OPTIONS, tmp_path / "two", 0)
    assert first["trained"]
    assert not again["trained"]
    assert first["model"].split("#")[1] == again["model"].split("#")[1]
    for chats, shape, seed in (
        (CHATS[:5], SHAPE, 0),
        (CHATS, Scratch(vocabulary=330, hidden=16, layers=2, heads=1), 0),
        (CHATS, SHAPE, 1),
    ):
        assert base.train_base(chats, shape, OPTIONS, tmp_path / "other", seed)["trained"]


def test_a_base_has_no_template_and_its_text_has_no_roles_and_no_intent(tmp_path):
    base.train_base(CHATS, SHAPE, OPTIONS, tmp_path / "one", 0)
    tok = load_tokenizer(str(tmp_path / "one"))
    assert tok.chat_template is None
    text = tok.decode(base.plain_ids(tok, CHATS[0]))
    assert text == (
        "<|begin_of_text|>a latte please\nhere or to go?\nto go\nfive minutes.\n<|end_of_text|>"
    )


def test_the_seed_fixes_the_weights(tmp_path, monkeypatch):
    models = []
    for name in ("one", "two"):
        own = tmp_path / name
        monkeypatch.setenv("USERLM_SYNTH_CACHE", str(own / "cache"))  # trained both times
        base.train_base(CHATS, SHAPE, OPTIONS, own / "base", 3)
        models.append(load_model(str(own / "base")))
    first, second = (dict(model.named_parameters()) for model in models)
    assert all((first[name] == second[name]).all() for name in first)
