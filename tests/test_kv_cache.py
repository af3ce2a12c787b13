"""Reusing a session's keys and values changes no text and computes each token once."""

from __future__ import annotations

import pytest

from toys import TEXTS, conversation, model, tokenizer
from userlm_synth.backends import Request
from userlm_synth.backends.hf import HFBackend
from userlm_synth.backends.kv_cache import SessionCache
from userlm_synth.recipe import Training
from userlm_synth.training.train import train_on_turns
from userlm_synth.user_lm.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def user_lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kv")
    tok = tokenizer()
    save_checkpoint(model(tok, hidden=32), tok, folder / "base", {})
    chats = [conversation(*TEXTS[:4], number=n) for n in range(4)]
    options = Training(epochs=8, learning_rate=1e-2, max_length=256, precision="fp32")
    train_on_turns(str(folder / "base"), chats, options, folder / "m", speaker="user", seed=0)
    return str(folder / "m")


def histories():
    """Dialogues of different lengths that grow by an exchange a round, some joining late."""
    for length in range(3):
        yield [
            (
                f"session {number}",
                [
                    {"role": "system", "content": TEXTS[4]},
                    *conversation(*(f"{text} {number}" * (number + 1) for text in TEXTS))[
                        "messages"
                    ][: 2 * max(0, length - number % 2)],
                ],
            )
            for number in range(5)
        ]


def ask(backend, rounds, remember):
    texts = []
    for number, some in enumerate(rounds):
        requests = [
            Request(messages=messages, seed=17 * number + place, max_tokens=12, end_id=5,
                    session=session if remember else "")
            for place, (session, messages) in enumerate(some)
        ]  # fmt: skip
        texts += [(r.text, r.finish) for r in backend.run(requests)]
    return texts


def test_texts_are_the_same_with_and_without_the_cache_and_less_is_computed(user_lm):
    computed = {}
    texts = {}
    for remember in (False, True):
        backend = HFBackend(user_lm, speaker="user")
        forward, count = backend.model.model.forward, 0

        def counting(*args, forward=forward, **kwargs):
            nonlocal count
            count += kwargs["input_ids"].numel()
            return forward(*args, **kwargs)

        backend.model.model.forward = counting
        texts[remember] = ask(backend, list(histories()), remember)
        computed[remember] = count
    assert texts[True] == texts[False]
    assert computed[True] < 0.7 * computed[False]


def test_a_changed_history_uses_only_what_is_still_true(user_lm):
    plain, cached = HFBackend(user_lm, speaker="user"), HFBackend(user_lm, speaker="user")
    first = [{"role": "system", "content": "one"}, *conversation("hi", "hello")["messages"]]
    other = [{"role": "system", "content": "one"}, *conversation("hi", "well")["messages"]]
    cached.run([Request(messages=first, session="s", max_tokens=8)])
    assert 0 < cached.cache._known("s", cached.form.prompt(other)) < len(cached.form.prompt(other))
    wanted = plain.run([Request(messages=other, seed=3, max_tokens=8)])
    assert cached.run([Request(messages=other, seed=3, max_tokens=8, session="s")]) == wanted


def test_the_sessions_used_longest_ago_are_forgotten_at_the_limit(user_lm):
    backend = HFBackend(user_lm, speaker="user")
    backend.cache = SessionCache(limit=1)
    messages = [{"role": "system", "content": "one"}]
    backend.run([Request(messages=messages, session="s", max_tokens=4)])
    assert not backend.cache.kept
