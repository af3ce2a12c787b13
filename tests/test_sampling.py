"""Sampling of user turns: the same places for every model, kept through kills, paid for once."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import warm
from http_toys import CUT, chat, toy
from test_openai_backend import KEY_ENV

from toys import INTENT, conversation, trained_user_lm
from userlm_synth.backends.prompted import GO_ON, NEXT
from userlm_synth.errors import UserError
from userlm_synth.evaluation.first_turns import (
    first_turn_figures,
    first_turn_places,
    human_first_turns,
    sampled_first_turns,
    with_intent,
)
from userlm_synth.evaluation.kept import KeptTurns, Turn
from userlm_synth.evaluation.sampling import ATTEMPTS, Place, sample, sample_groups, shortened
from userlm_synth.evaluation.simulators import NotAUser, open_simulator
from userlm_synth.recipe import Evaluate, Server, Simulator
from userlm_synth.records import END_TOKEN
from userlm_synth.user_lm import load_tokenizer
from userlm_synth.user_lm.chat_format import chat_template

CHATS = [
    conversation("a small latte please", "Sure! Is that all?", "yes", "Ready soon.", number=0),
    conversation("could i get a latte", "to go?", "to go, thanks", "ok", number=1),
]
TURNS = {role: (f"<|{role}|>", "<|eot_id|>") for role in ("system", "user", "assistant")}
QUICK = Server(timeout=5.0, retries=0)


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(KEY_ENV, "sk-test")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def user_lm(tmp_path_factory):
    return str(trained_user_lm(tmp_path_factory.mktemp("sampling"), CHATS, epochs=100))


def settings(**more):
    base = {"max_tokens": 24, "concurrency": 4, "api_key_env": KEY_ENV, "server": QUICK}
    return Evaluate(**(base | more))


def script(folder, *texts):
    path = folder / "script.json"
    path.write_text(json.dumps(texts))
    return f"scripted:{path}"


def places(count=6):
    return [Place(f"p{at}", f"{INTENT} And {at}.") for at in range(count)]


def after(number, *turns, **more):
    """The place after some turns."""
    return Place(f"after {number}", INTENT, tuple(conversation(*turns)["messages"]), **more)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- what is sampled -------------------------------------------------------------------------


def test_a_user_lm_leaves_only_where_it_may(user_lm, tmp_path):
    over = ("a small latte please", "Sure! Is that all?", "yes", "Ready soon.")
    model = open_simulator("mine", Simulator(user_lm), settings(top_p=1.0))
    free = [after(f"free {n}", *over, may_end=True) for n in range(12)]
    bound = [after(f"bound {n}", *over) for n in range(12)]
    turns = sample(model, free + bound, tmp_path / "turns.jsonl")
    assert any(turns[one.id].left for one in free), "it learnt to leave there"
    assert not any(turns[one.id].left for one in bound)
    assert all(turns[one.id].text for one in bound)
    chances = {turns[one.id].end_probability for one in free + bound}
    assert max(chances) - min(chances) < 1e-4, "before any ban, so the same at equal places"


def test_a_turn_depends_on_its_place_and_seed_and_not_on_its_batch(user_lm, tmp_path):
    many, one = (
        sample(
            open_simulator("mine", Simulator(user_lm), settings(concurrency=size)),
            [*first_turn_places(CHATS), after("x", "a latte", "to go?")],
            tmp_path / f"{size}.jsonl",
            seed=1,
        )
        for size in (4, 1)
    )
    assert {key: turn.text for key, turn in many.items()} == {
        key: turn.text for key, turn in one.items()
    }
    assert list(many) == ["turn 1 of toy-0", "turn 1 of toy-1", "after x"]


def test_greedy_turns_are_the_same_under_every_seed(user_lm, tmp_path):
    model = open_simulator("mine", Simulator(user_lm, temperature=3.0), settings())
    place = after("x", "a latte", "to go?", may_end=True, greedy=True)
    said = {
        sample(model, [place], tmp_path / f"{seed}.jsonl", seed=seed)["after x"].text
        for seed in range(3)
    }
    assert len(said) == 1


def test_a_history_that_is_too_long_loses_its_beginning(user_lm, tmp_path, capsys):
    model = open_simulator("mine", Simulator(user_lm), settings())
    model.open().context = 400
    long = ("a latte " * 80, "to go? " * 80) * 4
    turns = sample(model, [after("long", *long), after("x", "hi", "hello")], tmp_path / "t.jsonl")
    assert turns["after long"].shortened
    assert not turns["after x"].shortened
    assert "1 histories were too long and lost their beginning" in capsys.readouterr().err


def test_an_intent_that_does_not_fit_is_one_line(user_lm, tmp_path):
    model = open_simulator("mine", Simulator(user_lm), settings())
    model.open().context = 400
    with pytest.raises(UserError, match=r"p: .* do not fit .* lower evaluate\.max_tokens"):
        sample(model, [Place("p", "order a latte " * 200)], tmp_path / "t.jsonl")


def test_the_oldest_exchange_goes_first_then_half_of_the_longer_turn():
    turns = conversation("a", "b", "c" * 500, "d" * 300)["messages"]
    once = shortened(turns)
    assert once == turns[2:]
    assert [len(turn["content"]) for turn in shortened(once)] == [250, 300]
    assert shortened(conversation("c" * 200, "d")["messages"]) is None
    assert shortened([]) is None


def test_a_base_is_no_user_also_where_it_is_prompted(user_lm):
    base = Path(user_lm).with_name("base")
    for spec in (base, f"prompted:{base}"):
        with pytest.raises(NotAUser, match="has no chat template"):
            open_simulator("x", Simulator(str(spec)), settings())


def test_a_checkpoint_that_opens_an_assistant_turn_is_no_user(user_lm, tmp_path):
    shutil.copytree(user_lm, tmp_path / "assistant")
    tokenizer = load_tokenizer(user_lm)
    tokenizer.chat_template = chat_template(TURNS, "assistant", bos=False)
    tokenizer.save_pretrained(tmp_path / "assistant")
    with pytest.raises(NotAUser, match=r"does not open a \*user\* turn"):
        open_simulator("x", Simulator(str(tmp_path / "assistant")), settings())


def test_a_model_that_is_not_there_is_no_missing_figure_but_an_error(tmp_path):
    with pytest.raises(UserError) as caught:
        open_simulator("x", Simulator(str(tmp_path / "no")), settings())
    assert not isinstance(caught.value, NotAUser)


def test_a_prompted_model_is_told_what_it_may_do(tmp_path):
    with toy(chat("a latte")) as server:
        model = open_simulator("x", Simulator(f"prompted:openai:tiny@{server.url}"), settings())
        sample(model, [after("x", "hi", "hello")], tmp_path / "t.jsonl")
        sample(model, [after("y", "hi", "hello", may_end=True)], tmp_path / "t.jsonl")
    notes = [body["messages"][-1]["content"] for body in server.bodies]
    assert [note.endswith(end) for note, end in zip(notes, (GO_ON, NEXT), strict=True)] == [
        True
    ] * 2


def test_who_may_not_leave_and_says_nothing_else_is_asked_again(tmp_path, capsys):
    with toy(chat(END_TOKEN)) as server:
        spec = f"prompted:openai:tiny@{server.url}"
        model = open_simulator("x", Simulator(spec), settings())
        turns = sample(model, places(2), tmp_path / "t.jsonl")
    assert len(server.bodies) == 2 * ATTEMPTS
    assert len({body["seed"] for body in server.bodies}) == 2 * ATTEMPTS
    assert {turn.text for turn in turns.values()} == {""}
    assert "2 turns have no words, after 5 attempts" in capsys.readouterr().err


def test_a_simulator_has_its_own_words_around_the_intent(tmp_path):
    with toy(chat("a latte")) as server:
        spec = f"prompted:openai:tiny@{server.url}"
        own = open_simulator("x", Simulator(spec, system="Profile: {intent} {0}!"), settings())
        sample(own, places(1), tmp_path / "t.jsonl")
    assert f"Profile: {INTENT} And 0. {{0}}!" in server.bodies[0]["messages"][0]["content"]
    with pytest.raises(UserError, match=r"models\.x\.system: says nothing of the intent"):
        open_simulator("x", Simulator(spec, system="Hi"), settings())


def test_a_simulators_own_sampling_goes_before_the_tables(tmp_path):
    with toy(chat("a latte")) as server:
        spec = f"prompted:openai:tiny@{server.url}"
        for one in (Simulator(spec), Simulator(spec, temperature=0.3, top_p=0.5)):
            model = open_simulator("x", one, settings(temperature=0.9, top_p=0.7))
            sample(model, places(1), tmp_path / "t.jsonl")
    assert [(b["temperature"], b["top_p"]) for b in server.bodies] == [(0.9, 0.7), (0.3, 0.5)]


def test_two_different_places_of_one_name_are_a_bug(tmp_path):
    model = open_simulator("x", Simulator(script(tmp_path, "hi")), settings())
    again = sample(model, places(2) + places(2), tmp_path / "t.jsonl")
    assert len(again) == len(lines(tmp_path / "t.jsonl")) == 2
    with pytest.raises(ValueError, match="two places are called 'p0'"):
        sample(model, [Place("p0", "a"), Place("p0", "b")], tmp_path / "t.jsonl")


def test_several_groups_are_sampled_while_the_server_is_looked_at_once(tmp_path):
    with toy(chat("a latte")) as server:
        model = open_simulator("x", Simulator(f"prompted:openai:tiny@{server.url}"), settings())
        groups = {"one": places(2), "other": [Place("p0", "another intent")], "none": []}
        found = sample_groups(model, groups, tmp_path / "t.jsonl")
        looks = len(server.headers) - len(server.bodies)
    assert {name: list(turns) for name, turns in found.items()} == {
        "one": ["p0", "p1"], "other": ["p0"], "none": [],
    }  # fmt: skip
    assert (len(server.bodies), looks) == (3, 1)


# ---- what is kept ----------------------------------------------------------------------------


def test_what_is_kept_is_not_asked_for_again_unless_something_changed(tmp_path):
    kept = tmp_path / "turns.jsonl"

    with toy(lambda path, body, number: chat(f"latte {number}")) as server:

        def ask(seed=0, some=None, system=None, **more):
            before = len(server.bodies)
            simulator = Simulator(f"prompted:openai:tiny@{server.url}", system=system)
            model = open_simulator("x", simulator, settings(**more))
            turns = sample(model, some or places(), kept, seed=seed)
            return len(server.bodies) - before, turns

        made, first = ask()
        assert made == 6
        assert ask() == (0, first)
        assert ask(concurrency=1) == (0, first)
        assert ask(some=places(8))[0] == 2
        assert ask(seed=1)[0] == 6
        assert ask(temperature=0.5)[0] == 6
        assert ask(max_tokens=25)[0] == 6
        assert ask(system="{intent}!")[0] == 6
        assert ask(some=[Place("p0", places()[0].system, may_end=True)])[0] == 1
        history = tuple(CHATS[0]["messages"][:2])
        assert ask(some=[Place("p0", places()[0].system, history)])[0] == 1
        assert ask() == (0, first)
    entries = lines(kept)
    assert entries[0].keys() >= {"key", "id", "model", "text", "finish", "end_probability"}


def test_a_torn_or_spoilt_line_costs_one_more_request(tmp_path):
    kept = tmp_path / "turns.jsonl"
    model = open_simulator("x", Simulator(script(tmp_path, "hi")), settings())
    turns = sample(model, places(4), kept)
    whole = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join([whole[0], b'{"key": 3}\n', *whole[2:]])[:-20])
    assert sample(model, places(4), kept) == turns
    with KeptTurns(kept) as again:
        assert len(again.found) == 4


def test_two_runs_do_not_share_a_file(tmp_path):
    model = open_simulator("x", Simulator(script(tmp_path, "hi")), settings())
    with (
        KeptTurns(tmp_path / "t.jsonl"),
        pytest.raises(UserError, match="another run is at work with these turns"),
    ):
        sample(model, places(), tmp_path / "t.jsonl")


def test_text_that_is_no_unicode_spoils_nothing(tmp_path):
    with toy(
        b'{"choices": [{"finish_reason": "stop", "message": {"content": "a\\u0000\\nb"}}]}'
    ) as server:
        spec = f"prompted:openai:tiny@{server.url}"
        model = open_simulator("x", Simulator(spec), settings())
        first = sample(model, places(1), tmp_path / "t.jsonl")
        assert sample(model, places(1), tmp_path / "t.jsonl") == first
    assert len(server.bodies) == 1
    with KeptTurns(tmp_path / "u.jsonl") as kept:
        kept.keep("k", "p", "m", Turn("\u2028 \x85 \0", "eot"))
    with KeptTurns(tmp_path / "u.jsonl") as kept:
        assert kept.found == {"k": Turn("\u2028 \x85 \0", "eot")}


RUN = """
import sys
from pathlib import Path
from userlm_synth.evaluation.sampling import Place, sample
from userlm_synth.evaluation.simulators import open_simulator
from userlm_synth.recipe import Evaluate, Simulator
model = open_simulator("x", Simulator(sys.argv[1]), Evaluate(concurrency=3, prices=sys.argv[3],
                                                             budget=10.0))
places = [Place(f"p{at}", f"intent {at}") for at in range(30)]
turns = sample(model, places, Path(sys.argv[2]))
print(len(turns), sorted({turn.text for turn in turns.values()}))
"""


def test_a_killed_run_goes_on_and_asks_only_for_what_is_missing(tmp_path):
    kept, prices = tmp_path / "turns.jsonl", tmp_path / "prices.yaml"
    prices.write_text("tiny: {read: 1, written: 1}\n")

    def slowly(path, body, number):
        time.sleep(0.03)
        return chat("a latte")

    with toy(slowly) as server:
        spec = f"prompted:openai:tiny@{server.url}"
        run = warm.start(RUN, spec, kept, prices)
        while not kept.exists() or len(kept.read_bytes().splitlines()) < 8:
            assert run.returncode is None, run.stderr
            time.sleep(0.01)
        assert run.kill().returncode == -signal.SIGKILL
        done = len(lines(kept))
        asked = len(server.bodies)
        assert 8 <= done < 30
        bill = json.loads((tmp_path / "bill.json").read_bytes())
        assert bill["spent"]["user"] > 0
        again = warm.start(RUN, spec, kept, prices).wait()
        assert again.returncode == 0, again.stderr
        assert 30 - done <= len(server.bodies) - asked <= 30 - done + 3  # some were under way
    assert again.stdout == "30 ['a latte']\n"
    assert len(lines(kept)) == 30
    after = json.loads((tmp_path / "bill.json").read_bytes())
    each = (50 + 7) / 1e6  # USD an answer
    assert after["spent"]["user"] >= 30 * each, "what was under way at the kill counts too"


# ---- what goes wrong -------------------------------------------------------------------------


def test_the_budget_stops_the_run_before_it_is_passed(tmp_path):
    (tmp_path / "prices.yaml").write_text("tiny: {read: 100, written: 100}\n")
    priced = {"prices": str(tmp_path / "prices.yaml"), "concurrency": 1}
    with toy(chat("a latte")) as server:
        spec = f"prompted:openai:tiny@{server.url}"
        model = open_simulator("x", Simulator(spec), settings(budget=0.5, **priced))
        with pytest.raises(UserError, match=r"evaluate\.budget: \$0\.5 has no room") as caught:
            sample(model, places(400), tmp_path / "t.jsonl")
        kept, before = len(lines(tmp_path / "t.jsonl")), len(server.bodies)
        assert f"{kept} of 400 turns of x are kept in {tmp_path / 't.jsonl'}" in str(caught.value)
        assert kept == before
        assert json.loads((tmp_path / "bill.json").read_bytes())["spent"]["user"] <= 0.5
        more = open_simulator("x", Simulator(spec), settings(budget=100.0, **priced))
        sample(more, places(kept + 2), tmp_path / "t.jsonl")
        assert len(server.bodies) - before == 2


def test_a_budget_without_a_price_is_refused_before_anything_is_asked():
    with pytest.raises(UserError, match=r"evaluate\.budget: .* has no price; add `big: \{read"):
        open_simulator(
            "x", Simulator("prompted:openai:big@http://far.away/v1"), settings(budget=1.0)
        )


@pytest.mark.parametrize("trouble", [CUT, (400, {}, {"error": {"message": "no such thing"}})])
def test_an_error_is_one_line_and_what_was_answered_is_kept(tmp_path, trouble):
    with toy(lambda path, body, number: chat("hi") if number < 4 else trouble) as server:
        spec = f"prompted:openai:tiny@{server.url}"
        model = open_simulator("gpt", Simulator(spec), settings(concurrency=1))
        with pytest.raises(UserError) as caught:
            sample(model, places(), tmp_path / "t.jsonl")
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    for part in ("gpt", "4 of 6 turns", str(tmp_path / "t.jsonl"), "the same command goes on"):
        assert part in text
    assert len(lines(tmp_path / "t.jsonl")) == 4


def test_a_server_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    from userlm_synth.backends import http_api

    monkeypatch.setattr(http_api, "START_WAITS", (0.01,))
    model = open_simulator("x", Simulator("prompted:openai:t@http://127.0.0.1:9/v1"), settings())
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        sample(model, places(), tmp_path / "t.jsonl")


# ---- first turns -----------------------------------------------------------------------------


def test_every_row_has_first_turns_of_the_same_conversations(tmp_path):
    chats = [conversation(f"latte {n}", "ok", number=n) for n in range(20)]
    chats[3]["intent"] = None
    chosen = with_intent(chats, 8, seed=1, what="first turns")
    assert len(chosen) == 8
    assert chosen == with_intent(chats, 8, seed=1, what="first turns")
    assert chosen != with_intent(chats, 8, seed=2, what="first turns")
    assert chats[3] not in with_intent(chats, 50, seed=1, what="first turns")
    model = open_simulator("x", Simulator(script(tmp_path, "a tea")), settings())
    turns = sample(model, first_turn_places(chosen), tmp_path / "t.jsonl")
    made, human = sampled_first_turns(chosen, turns), human_first_turns(chosen)
    assert list(made) == list(human) == [one["id"] for one in chosen]
    options = {"samples": 50, "seed": 0}
    (one, units), (other, _) = (first_turn_figures(chosen, x, **options) for x in (made, human))
    assert one["first_turn_diversity"] == {"value": 0.0, "interval": [0.0, 0.0], "n": 8}
    assert other["first_turn_diversity"]["value"] == pytest.approx(100 * 2 / 3)
    assert one["first_turn_overlap"]["of_turn"]["value"] == 0
    # "latte" of {latte, n}; the intent has user chatting assistant language model order small latte
    assert other["first_turn_overlap"]["of_turn"] == {
        "value": 50.0,
        "interval": [50.0, 50.0],
        "n": 8,
    }
    assert other["first_turn_overlap"]["of_intent"]["value"] == pytest.approx(100 / 8)
    assert units["first_turn_overlap.of_turn"].ids == [one["id"] for one in chosen]


def test_one_text_has_no_diversity_and_none_has_no_overlap():
    options = {"samples": 10, "seed": 0}
    found, _ = first_turn_figures(CHATS[:1], human_first_turns(CHATS[:1]), **options)
    assert found["first_turn_diversity"] is None
    assert found["first_turn_overlap"]["jaccard"]["n"] == 1
    assert first_turn_figures([], {}, **options) == (
        {"first_turn_diversity": None, "first_turn_overlap": None}, {},
    )  # fmt: skip
