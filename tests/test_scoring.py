"""Scores: the packed pass is one sample at a time; forms, windows, prompts, what is kept."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_by_one import score_one_by_one

from toys import INTENT, TEXTS, conversation
from userlm_synth.backends.prompted import NEXT, told_to
from userlm_synth.errors import UserError
from userlm_synth.estimates import Units
from userlm_synth.evaluation import scoring
from userlm_synth.evaluation.perplexity import by_turn, gap, perplexity, word_units
from userlm_synth.evaluation.prompted import open_model, why_not_scored
from userlm_synth.evaluation.scores import Places, Scores, names_of
from userlm_synth.evaluation.scoring import Model, score, scored_forms
from userlm_synth.recipe import Scratch
from userlm_synth.records import END_TOKEN
from userlm_synth.user_lm import (
    END,
    WORD,
    load_tokenizer,
    open_chat,
    train_tokenizer,
    untrained_model,
)
from userlm_synth.user_lm.checkpoint import save_checkpoint

CHATS = [
    conversation("a small latte please", "Sure! Is that all?", "yes", "Ready soon.", number=0),
    conversation("could i get a latte", "to go?", "to go, thanks", "ok", number=1),
    conversation("hi", "hello", "a latte", number=2),
    conversation("thänks ☕", "It will be ready in five minutes.", number=3),
    conversation("one", "two", "three", "four", "five", "six", "seven", number=4),
]
LONG = conversation(*(f"small latte number {n}, to go" for n in range(24)), number=9)


def lively(context: int, seed: int) -> tuple[Any, Any]:
    """A tiny model of random weights, large enough that its guesses differ; its tokenizer knows
    the words that a prompted model is told."""
    told = [message["content"] for message in told_to(LONG["messages"][:2], may_end=True)]
    tok = train_tokenizer([*TEXTS, *told] * 5, 800)
    net = untrained_model(Scratch(vocabulary=420, hidden=32, layers=2, heads=2), tok, context, seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.mul_(15.0 if "embed" in name else 4.0 if weight.ndim == 2 else 1.0)
    return net, tok


def without_end_token(folder: Path) -> None:
    """Another maker's checkpoint: its vocabulary has no end token."""
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace(END_TOKEN, "<|other|>"))


def leave_after(net: Any, form: Any, chat: Any) -> None:
    """Let the end token be the most likely one after a conversation's last turn."""
    history = [{"role": "system", "content": INTENT}, *chat["messages"]]
    ids = torch.tensor([form.prompt(history) + form.lead])
    with torch.no_grad():
        state = net.model(ids).last_hidden_state[0, -1]
        best = net.lm_head(state).max()
        net.lm_head.weight[form.end_id] = 1.2 * best * state / state.square().sum()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `user` and `assistant`, untrained."""
    root = tmp_path_factory.mktemp("scoring")
    for name in ("base", "user", "assistant"):
        net, tok = lively(2048, seed=3)
        if name != "base":
            form = open_chat(net, tok, name)
        if name == "user":
            leave_after(net, form, CHATS[0])
        save_checkpoint(net, tok, root / name, {})
    without_end_token(root / "assistant")
    return root


def opened(models: Path, form: str) -> Model:
    if form == "prompted":
        return open_model(f"prompted:hf:{models / 'assistant'}")
    return open_model(str(models / ("user" if form == "user" else "base")))


def assert_same(found: Scores, chats: list[Any], reference: Any) -> None:
    """Per turn, per place and in all."""
    at = list(zip(found.owner.tolist(), found.turn.tolist(), strict=True))
    assert at == sorted(reference.nats)
    assert found.nats == pytest.approx([reference.nats[one] for one in at], rel=1e-4)
    assert found.tokens.tolist() == [reference.tokens[one] for one in at]
    whole = math.exp(sum(reference.nats.values()) / sum(reference.tokens.values()))
    assert found.perplexity == pytest.approx(whole, rel=1e-4)
    if found.places.probability is None:
        assert not reference.ends
        return
    at = list(zip(found.places.owner.tolist(), found.places.turn.tolist(), strict=True))
    assert at == sorted(reference.ends)
    ends = [reference.ends[one] for one in at]
    assert found.places.probability == pytest.approx(ends, rel=1e-3, abs=1e-30)
    if found.places.leaves is not None:
        assert found.places.leaves.tolist() == [reference.leaves[one] for one in at]


# ---- against one sample at a time ------------------------------------------------------------


@pytest.mark.parametrize("with_intent", [False, True])
@pytest.mark.parametrize("form", ["user", "lines", "transcript", "chat", "prompted"])
def test_a_packed_pass_gives_what_one_sample_at_a_time_gives(models, form, with_intent):
    one = opened(models, form)
    shape = "chat" if form == "user" else form
    found = score(one, CHATS, shape, with_intent, batch_tokens=512)
    assert_same(found, CHATS, score_one_by_one(one, CHATS, shape, with_intent))
    if form == "user" and with_intent:
        assert found.places.leaves[1]  # after CHATS[0]: see `leave_after`
    texts = [m["content"] for c in CHATS for m in c["messages"] if m["role"] == "user"]
    assert found.bytes.tolist() == [len(text.encode()) for text in texts]


@pytest.mark.parametrize("form", ["user", "lines", "transcript", "chat"])
def test_windows_of_a_long_conversation_score_each_word_once(models, form, capsys):
    one, shape = opened(models, form), "chat" if form == "user" else form
    one.max_length = 150
    chats = [CHATS[0], LONG, CHATS[4]]
    windows = [place for place, _ in one.windows(shape, chats, True)]
    assert windows.count(1) > 2
    found = score(one, chats, shape, True, batch_tokens=512)
    assert_same(found, chats, score_one_by_one(one, chats, shape, True))
    assert 0 < found.shortened < len(found.turn)
    assert f"at {found.shortened} places the history does not fit" in capsys.readouterr().err


def test_a_turn_that_does_not_fit_is_scored_up_to_where_it_is_cut(models, capsys):
    one = opened(models, "user")
    one.max_length = 120
    long = conversation("hi", "hello", "latte " * 200, "ok", number=5)
    found = score(one, [CHATS[0], long], "chat", False, batch_tokens=512)
    whole = len(long["messages"][2]["content"].encode())
    assert found.cut == 1
    assert 0 < found.bytes[3] < whole / 2
    words = [t for _, w in one.windows("chat", [long], False) for t in w.kinds if t == WORD]
    assert found.tokens[2] + found.tokens[3] == len(words)
    assert "1 of 4 user turns do not fit 120 tokens" in capsys.readouterr().err


# ---- what a model is shown -------------------------------------------------------------------


def test_what_is_shown_of_a_conversation_reads_as_it_is_meant(models):
    texts = {}
    for form in ("user", "lines", "transcript", "prompted"):
        one, shape = opened(models, form), "chat" if form == "user" else form
        window = [w for _, w in one.windows(shape, [CHATS[0]], True) if WORD in w.kinds][-1]
        marked = "".join(
            f"[{one.tokenizer.decode([i])}]" if kind == WORD else one.tokenizer.decode([i])
            for i, kind in zip(window.ids, window.kinds, strict=True)
        )
        texts[form] = marked.replace("][", "")
    bos = "<|begin_of_text|>"
    assert texts["lines"] == (f"{bos}{INTENT}\n[a small latte please]\nSure! Is that all?\n[yes]\n")
    assert texts["transcript"] == (
        f"{bos}{INTENT}\nUser:[ a small latte please]\nAssistant: Sure! Is that all?\nUser:[ yes]\n"
    )
    assert texts["user"].count("<|eot_id|>") == 5
    assert f"{INTENT}<|eot_id|>" in texts["user"]
    told = told_to([{"role": "system", "content": INTENT}, *CHATS[0]["messages"][:2]], may_end=True)
    chat = load_tokenizer(str(models / "assistant"))
    prompt = chat.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
    assert texts["prompted"] == f"{prompt}[yes]"
    assert NEXT in prompt


def test_the_persona_reaches_the_model_beside_the_intent(models):
    chat = {**CHATS[0], "persona": "A person in a hurry."}
    for form in ("user", "prompted", "lines"):
        one = opened(models, form)
        (_, window), *_ = one.windows("chat" if form == "user" else form, [chat], True)
        assert f"{INTENT}\n\nA person in a hurry." in one.tokenizer.decode(window.ids)


def test_a_simulators_own_words_stand_around_the_intent(models):
    own = open_model(str(models / "user"), "Your goal: {intent} Go.")
    (_, window), *_ = own.windows("chat", CHATS, True)
    assert f"Your goal: {INTENT} Go." in own.tokenizer.decode(window.ids)
    (_, window), *_ = own.windows("chat", CHATS, False)
    assert "Your goal" not in own.tokenizer.decode(window.ids)
    assert own.wording != open_model(str(models / "user")).wording


def test_plain_text_is_scored_by_the_base_as_it_came(models):
    one = opened(models, "lines")
    before = score(one, CHATS, "lines", True, batch_tokens=512)
    score(one, CHATS, "chat", True, batch_tokens=512)  # gives the model rows for turns
    again = score(one, CHATS, "lines", True, batch_tokens=512)
    assert again.nats.tolist() == before.nats.tolist()


def test_kinds_are_told_by_the_chat_template(models, tmp_path):
    assert open_model(str(models / "user")).kind == "user_lm"
    assert open_model(str(models / "base")).kind == "base"
    assert open_model(str(models / "assistant")).kind == "assistant"
    assert open_model(f"prompted:{models / 'assistant'}").kind == "prompted"


TURN = "<|start_header_id|>{role}<|end_header_id|>\n\n"
OPENS = {"user": TURN.format(role="user"), "nobody": "", "assistant": TURN.format(role="assistant")}


def other_makers(folder: Path, opens: str) -> Model:
    """A checkpoint without our end token, whose template opens a turn of `opens`."""
    net, tok = lively(512, seed=1)
    tok.chat_template = (
        "{% for m in messages %}" + TURN.replace("{role}", "{{ m['role'] }}") + "{{ m['content'] }}"
        "<|eot_id|>{% endfor %}{% if add_generation_prompt %}" + OPENS[opens] + "{% endif %}"
    )  # fmt: skip
    save_checkpoint(net, tok, folder / opens, {})
    without_end_token(folder / opens)
    return open_model(str(folder / opens))


@pytest.mark.parametrize("opens", ["nobody", "assistant"])
def test_a_template_that_opens_no_users_turn_is_an_assistants(tmp_path, opens):
    assert other_makers(tmp_path, opens).kind == "assistant"


def test_another_makers_user_lm_without_an_end_token_is_scored_in_its_own_turns(tmp_path):
    one = other_makers(tmp_path, "user")
    assert (one.kind, one.forms, one.end_id) == ("user_lm", ("chat",), None)
    found = score(one, CHATS, "chat", True, batch_tokens=512)
    assert found.places.leaves is None
    assert found.places.probability is None


@pytest.mark.parametrize(
    "name",
    ["openai:m@http://localhost:1/v1", "scripted:x.json", "prompted:openai:m@http://h/v1"],
)
def test_a_model_that_gives_no_probabilities_is_refused_in_one_line(name):
    assert why_not_scored(name)
    with pytest.raises(UserError, match="gives no probabilities"):
        open_model(name)
    assert why_not_scored("prompted:hf:x") is why_not_scored("vllm:x") is None


def test_an_assistant_that_cannot_be_prompted_is_refused_in_one_line(models):
    with pytest.raises(UserError, match="no chat template"):
        open_model(f"prompted:{models / 'base'}")


# ---- prompts that do not fit -----------------------------------------------------------------


def test_a_prompt_that_is_too_long_loses_whole_exchanges_the_oldest_first(models, capsys):
    one = opened(models, "prompted")
    full = max(len(w.ids) for _, w in one.windows("prompted", [LONG], True))
    one.max_length = full - 60
    windows = [w for _, w in one.windows("prompted", [LONG], True)]
    assert max(len(w.ids) for w in windows) <= one.max_length
    text = one.tokenizer.decode(windows[-1].ids)
    opening = one.tokenizer.decode(windows[0].ids).partition("small latte number 0")[0]
    assert text.startswith(opening[: opening.rindex("<|start_header_id|>")])
    turns = re.findall(r"latte number (\d+)", text)
    assert turns == [str(n) for n in range(24 - len(turns), 24)]
    assert len(turns) % 2 == 0
    assert NEXT in text
    found = score(one, [LONG, CHATS[0]], "prompted", True, batch_tokens=4096)
    places = {tuple({*w.turns} - {0}) for w in windows if w.lost_beginnings}
    assert found.shortened == len(places) > 0
    assert f"at {found.shortened} places the history does not fit" in capsys.readouterr().err


def test_where_one_exchange_is_too_long_it_loses_its_beginning_and_the_note_stays(models):
    one = opened(models, "prompted")
    long = conversation("go", "x y " * 300 + "the end", "yes please", number=7)
    bare = len(one.chat.prompt(told_to([], may_end=True)))
    one.max_length = bare + 250
    *_, (_, window) = one.windows("prompted", [long], False, ends=False)
    text = one.tokenizer.decode(window.ids)
    assert len(window.ids) <= one.max_length
    assert f"the end\n\n{NEXT}" in text
    assert text.endswith("yes please")
    one.max_length = bare // 2
    with pytest.raises(UserError, match=r"'toy-7': prompted:.* leave the conversation out"):
        list(one.windows("prompted", [long], False))


def test_places_of_a_prompted_model_are_looked_at_only_when_asked_for(models):
    one = opened(models, "prompted")
    windows = [w for _, w in one.windows("prompted", CHATS, False, ends=False)]
    assert not any(END in w.kinds for w in windows)
    assert score(one, CHATS, "prompted", False, 2048, ends=False).places.probability is None


# ---- what is kept ----------------------------------------------------------------------------


@pytest.fixture
def chunks_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 2)


def passes(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Counts the parts that are worked out; the run is interrupted where the next one would be."""
    done: list[int] = []
    real = scoring._score_chunk

    def counted(*arguments: Any) -> None:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        real(*arguments)
        done.append(1)

    monkeypatch.setattr(scoring, "_score_chunk", counted)
    return done


@pytest.mark.usefixtures("chunks_of_two")
@pytest.mark.parametrize("form", ["user", "prompted", "lines"])
def test_an_interrupted_pass_goes_on_where_it_was(models, tmp_path, monkeypatch, form):
    one, shape = opened(models, form), "chat" if form == "user" else form
    whole = score(one, CHATS, shape, True, 512)
    with monkeypatch.context() as patch:
        passes(patch, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            score(one, CHATS, shape, True, 512, keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with monkeypatch.context() as patch:
        done = passes(patch)
        again = score(one, CHATS, shape, True, 512, keep=tmp_path)
        assert len(done) == 1
        score(one, CHATS, shape, True, 512, keep=tmp_path)
        assert len(done) == 1
    for name in ("owner", "turn", "nats", "tokens", "bytes"):
        assert getattr(again, name).tolist() == getattr(whole, name).tolist()
    for name in ("owner", "turn", "ended", "leaves", "probability"):
        assert np.array_equal(getattr(again.places, name), getattr(whole.places, name))


@pytest.mark.usefixtures("chunks_of_two")
def test_spoilt_files_are_worked_out_again(models, tmp_path, monkeypatch):
    one = opened(models, "user")
    whole = score(one, CHATS, "chat", True, 512, keep=tmp_path)
    torn, empty, foreign = sorted(tmp_path.iterdir())
    torn.write_bytes(torn.read_bytes()[:-30])
    empty.write_bytes(b"")
    sums = dict.fromkeys(("nats", "tokens", "bytes"), np.ones(9))
    np.savez(foreign, counts=np.zeros(2, int), **sums)
    done = passes(monkeypatch)
    again = score(one, CHATS, "chat", True, 512, keep=tmp_path)
    assert len(done) == 3
    assert again.nats.tolist() == whole.nats.tolist()


@pytest.mark.usefixtures("chunks_of_two")
def test_what_was_kept_is_not_taken_for_anything_else(models, tmp_path, monkeypatch):
    one = opened(models, "user")
    score(one, CHATS, "chat", True, 512, keep=tmp_path)
    done = passes(monkeypatch)

    def worked_out(*arguments: Any, of: Model = one, **more: Any) -> int:
        before = len(done)
        score(of, *arguments, 512, keep=tmp_path, **more)
        return len(done) - before

    other = [*CHATS[:4], {**CHATS[4], "messages": CHATS[4]["messages"][:3]}]
    assert worked_out(CHATS, "chat", True) == 0
    assert worked_out(other, "chat", True) == 1
    assert worked_out([{**CHATS[0], "intent": "to sing"}, *CHATS[1:]], "chat", True) == 1
    assert worked_out(CHATS, "chat", False) == 3
    assert worked_out([{**CHATS[0], "intent": "to sing"}, *CHATS[1:]], "chat", False) == 0
    one.max_length = 300
    assert worked_out(CHATS, "chat", True) == 3
    base = opened(models, "lines")
    assert worked_out(CHATS, "lines", True, of=base) == 3
    assert worked_out(CHATS, "transcript", True, of=base) == 3
    assert worked_out(CHATS, "lines", True, of=open_model(base.name, "do: {intent}")) == 3


def test_parts_are_joined_in_order(models, monkeypatch):
    one = opened(models, "user")
    whole = score(one, CHATS, "chat", True, 512)
    monkeypatch.setattr(scoring, "CHUNK", 2)
    parts = score(one, CHATS, "chat", True, 512)
    assert parts.nats == pytest.approx(whole.nats, rel=1e-5)
    assert parts.ids == whole.ids == [one["id"] for one in CHATS]
    assert parts.places.probability == pytest.approx(whole.places.probability, rel=1e-4)


def test_nothing_scored_of_nothing(models):
    assert len(score(opened(models, "user"), [], "chat", True, 512).turn) == 0


def test_conversations_of_one_name_are_told_apart():
    assert names_of([CHATS[0], CHATS[1], CHATS[0]]) == ["toy-0", "toy-1", "toy-0 (2)"]


# ---- all forms -------------------------------------------------------------------------------


def test_a_base_is_shown_three_forms_and_its_best_stands_first(models):
    bare = {**CHATS[0], "intent": None, "id": "bare"}
    found = scored_forms(opened(models, "lines"), [*CHATS, bare], 512)
    for shown, some in found.items():
        assert sorted(one.form for one in some) == ["chat", "lines", "transcript"]
        assert some[0].perplexity == min(one.perplexity for one in some)
        assert all(("bare" in one.ids) == (not shown) for one in some)


def test_without_intents_nothing_is_scored_with_one(models):
    bare = [{**one, "intent": None} for one in CHATS]
    found = scored_forms(opened(models, "prompted"), bare, 2048)
    assert list(found) == [False]
    assert found[False][0].places.probability is not None
    both = scored_forms(opened(models, "prompted"), CHATS[:1], 2048)
    assert both[False][0].places.probability is None
    assert both[True][0].places.probability is not None


# ---- figures ---------------------------------------------------------------------------------


def scores(rows: list[tuple[int, int, float, int, int]]) -> Scores:
    """Rows of (conversation, turn, nats, tokens, bytes)."""
    owner, turn, nats, tokens, size = (np.array(column) for column in zip(*rows, strict=True))
    ids = [f"c{n}" for n in range(max(owner) + 1)]
    return Scores("chat", ids, owner, turn, nats.astype(float), tokens, size, Places.of([]))


def test_perplexity_is_exp_of_the_mean_over_all_tokens():
    some = scores([(0, 1, 2.0, 1, 4), (1, 1, 4.0, 2, 8), (1, 2, 6.0, 3, 4)])
    figures, units = perplexity(some, with_intent=True, samples=100, seed=0)
    assert figures["value"] == pytest.approx(math.exp(12 / 6))
    assert (figures["n"], figures["tokens"], figures["form"]) == (2, 6, "chat")
    assert figures["bits_per_byte"]["value"] == pytest.approx(12 / math.log(2) / 16)
    assert set(units) == {"perplexity.with_intent", "bits_per_byte.with_intent"}
    assert units["perplexity.with_intent"].top.tolist() == [2.0, 10.0]
    assert units["perplexity.with_intent"].value == pytest.approx(figures["value"])
    by = {one["turn"]: one for one in figures["per_turn"]}
    assert by[1]["value"] == pytest.approx(math.exp(6 / 3))
    assert (by[1]["n"], by[1]["tokens"], by[2]["n"]) == (2, 3, 1)
    assert by[2]["value"] == pytest.approx(math.exp(2))


def test_a_turn_without_any_conversation_is_left_out():
    assert [one["turn"] for one in by_turn(scores([(0, 3, 1.0, 1, 1)]), samples=10, seed=0)] == [3]


def test_a_gap_is_outside_only_where_its_paired_interval_excludes_1():
    rng = np.random.default_rng(0)
    hard = rng.uniform(1, 3, 200)  # conversations differ a lot, the models by little but always

    def units(nats: Any) -> Units:
        return word_units(scores([(n, 1, x, 1, 4) for n, x in enumerate(nats)]))

    clear = gap(units(hard + 0.1), units(hard), samples=500, seed=0)
    assert clear["outside"]
    assert clear["ratio"] == pytest.approx(math.exp(0.1))
    same = gap(units(hard + rng.normal(0, 1, 200)), units(hard), samples=500, seed=0)
    assert not same["outside"]
